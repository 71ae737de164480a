"""The checker itself: each fault that it is there for, made by hand, is found; a sound store is not accused."""

import hashlib
from collections.abc import Callable, Iterator

import pytest
from bson import ObjectId

from tests.faults.upload_history import History, Operation, Outcome, verdicts
from tests.support.databases import Server
from tests.support.upload_client import Store, opened


@pytest.fixture
def store(mongod: Server, database: str) -> Iterator[Store]:
    with opened(mongod.uri, database) as store:
        yield store


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def there(store: Store, name: str, data: bytes) -> ObjectId:
    file = ObjectId()
    store.db["fs.chunks"].insert_one({"files_id": file, "n": 0, "data": data})
    store.db["fs.files"].insert_one({"_id": file})
    current = {"file": file, "length": len(data), "sha256": sha(data)}
    store.db["media"].insert_one({"folder": "h", "filename": name, "current": current, "uploads": [], "doomed": []})
    return file


def said(name: str, data: bytes, outcome: Outcome, way: str = "create", told: str = "") -> Operation:
    return Operation(name, way, sha(data) if data else "", len(data), outcome, told)


def history(*operations: Operation) -> History:
    found = History()
    for operation in operations:
        found.begin(operation)
    return found


def test_a_sound_store_is_not_accused(store: Store) -> None:
    there(store, "0-1", b"a")
    there(store, "own-0", b"second")
    told = history(
        said("0-1", b"a", "ok"),
        said("0-1", b"b", "fail"),
        said("0-2", b"c", "unknown"),
        said("own-0", b"first", "ok", "replace"),
        said("own-0", b"second", "unknown", "replace"),
        said("own-0", b"third", "fail", "replace"),
    )
    assert verdicts(told, store) == []


FAULTS: list[tuple[str, Callable[[Store, ObjectId], object], list[Operation], str]] = [
    ("lost", lambda store, _: store.db["media"].update_one({}, {"$set": {"current": None}}), [], "lost"),
    (
        "other bytes",
        lambda store, _: store.db["fs.chunks"].update_one({}, {"$set": {"data": b"A"}}),
        [],
        "another hash",
    ),
    ("a chunk is missing", lambda store, _: store.db["fs.chunks"].delete_many({}), [], "0 of 1 bytes"),
    ("two winners", lambda *_: None, [said("0-1", b"b", "ok")], "2 clients"),
    (
        "orphan",
        lambda store, _: store.db["fs.chunks"].insert_one({"files_id": ObjectId(), "n": 0, "data": b""}),
        [],
        "orphan",
    ),
    (
        "past the end",
        lambda store, file: store.db["fs.chunks"].insert_one({"files_id": file, "n": 1, "data": b"x"}),
        [],
        "orphan",
    ),
    ("not described", lambda store, _: store.db["fs.files"].delete_many({}), [], "descriptions"),
    (
        "left over",
        lambda store, _: store.db["media"].update_one({}, {"$push": {"doomed": {"file": ObjectId()}}}),
        [],
        "left",
    ),
]


@pytest.mark.parametrize(("fault", "more", "word"), [case[1:] for case in FAULTS], ids=[case[0] for case in FAULTS])
def test_every_fault_is_found(
    store: Store, fault: Callable[[Store, ObjectId], object], more: list[Operation], word: str
) -> None:
    file = there(store, "0-1", b"a")
    told = history(said("0-1", b"a", "ok"), *more)
    assert verdicts(told, store) == [] or more
    fault(store, file)
    assert word in "; ".join(verdicts(told, store))


def test_a_refused_file_that_is_there_is_found(store: Store) -> None:
    there(store, "0-1", b"a")
    assert "is there" in "; ".join(verdicts(history(said("0-1", b"a", "fail", told="409")), store))
    assert "nobody sent" in "; ".join(verdicts(history(said("0-1", b"b", "unknown")), store))


def test_a_word_that_was_not_the_last_is_found(store: Store) -> None:
    there(store, "own-0", b"first")
    first, second = said("own-0", b"first", "ok", "replace"), said("own-0", b"second", "ok", "replace")
    assert "last word" in "; ".join(verdicts(history(first, second), store))
    deleted = said("own-0", b"", "ok", "delete")
    assert "last word" in "; ".join(verdicts(history(first, deleted), store))
    assert verdicts(history(first, said("own-0", b"", "unknown", "delete")), store) == []
