"""The checker itself: it detects each kind of violation, made by hand, and none in a consistent store."""

import hashlib
from collections.abc import Callable, Iterator

import pytest
from bson import ObjectId

from tests.support.databases import ServerProcess
from tests.support.store_inspectors import MongoInspector, open_inspector
from tests.support.upload_history import History, Operation, Outcome, find_violations


@pytest.fixture
def inspector(mongod: ServerProcess, database_name: str) -> Iterator[MongoInspector]:
    with open_inspector(mongod.url, database_name) as store:
        yield store


def sha256_hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def insert_file(store: MongoInspector, name: str, data: bytes) -> ObjectId:
    file = ObjectId()
    store.db["fs.chunks"].insert_one({"files_id": file, "n": 0, "data": data})
    store.db["fs.files"].insert_one({"_id": file})
    current = {"file": file, "length": len(data), "sha256": sha256_hex(data)}
    store.db["media"].insert_one({"folder": "h", "filename": name, "current": current, "uploads": [], "doomed": []})
    return file


def make_operation(name: str, data: bytes, outcome: Outcome, kind: str = "create", response: str = "") -> Operation:
    return Operation(name, kind, sha256_hex(data) if data else "", len(data), outcome, response)


def make_history(*operations: Operation) -> History:
    found = History()
    for operation in operations:
        found.record_start(operation)
    return found


def test_consistent_store_has_no_violations(inspector: MongoInspector) -> None:
    insert_file(inspector, "0-1", b"a")
    insert_file(inspector, "own-0", b"second")
    told = make_history(
        make_operation("0-1", b"a", "ok"),
        make_operation("0-1", b"b", "fail"),
        make_operation("0-2", b"c", "unknown"),
        make_operation("own-0", b"first", "ok", "replace"),
        make_operation("own-0", b"second", "unknown", "replace"),
        make_operation("own-0", b"third", "fail", "replace"),
    )
    assert find_violations(told, inspector) == []


FAULTS: list[tuple[str, Callable[[MongoInspector, ObjectId], object], list[Operation], str]] = [
    ("lost", lambda store, _: store.db["media"].update_one({}, {"$set": {"current": None}}), [], "lost"),
    (
        "other bytes",
        lambda store, _: store.db["fs.chunks"].update_one({}, {"$set": {"data": b"A"}}),
        [],
        "another hash",
    ),
    ("a chunk is missing", lambda store, _: store.db["fs.chunks"].delete_many({}), [], "0 of 1 bytes"),
    ("two winners", lambda *_: None, [make_operation("0-1", b"b", "ok")], "2 clients"),
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
def test_every_violation_is_detected(
    inspector: MongoInspector, fault: Callable[[MongoInspector, ObjectId], object], more: list[Operation], word: str
) -> None:
    file = insert_file(inspector, "0-1", b"a")
    told = make_history(make_operation("0-1", b"a", "ok"), *more)
    assert find_violations(told, inspector) == [] or more
    fault(inspector, file)
    assert word in "; ".join(find_violations(told, inspector))


def test_stored_file_of_a_rejected_upload_is_detected(inspector: MongoInspector) -> None:
    insert_file(inspector, "0-1", b"a")
    assert "is stored" in "; ".join(
        find_violations(make_history(make_operation("0-1", b"a", "fail", response="409")), inspector)
    )
    assert "no client sent" in "; ".join(
        find_violations(make_history(make_operation("0-1", b"b", "unknown")), inspector)
    )


def test_stale_content_is_detected(inspector: MongoInspector) -> None:
    insert_file(inspector, "own-0", b"first")
    first, second = (
        make_operation("own-0", b"first", "ok", "replace"),
        make_operation("own-0", b"second", "ok", "replace"),
    )
    assert "last acknowledged" in "; ".join(find_violations(make_history(first, second), inspector))
    deleted = make_operation("own-0", b"", "ok", "delete")
    assert "last acknowledged" in "; ".join(find_violations(make_history(first, deleted), inspector))
    assert find_violations(make_history(first, make_operation("own-0", b"", "unknown", "delete")), inspector) == []
