"""GET /file and GET /file/folders: order, pages, search and bounds; and the service's OpenAPI document."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from bson import ObjectId
from openapi_spec_validator import validate

from tests.support.databases import Server
from tests.support.media_library import Library, library

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def service(mongod: Server, redis_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    with library(tmp_path_factory.mktemp("list"), mongod, redis_server.url, "test_stream_list") as lib:
        yield lib


@pytest.fixture
def lib(service: Library) -> Library:
    service.db["media"].delete_many({})
    return service


def entry(number: int, filename: str, folder: str = "", *, there: bool = True) -> dict[str, Any]:
    """A document as the upload service leaves it. Ten files share each millisecond."""
    current = {
        "file": ObjectId(),
        "length": number,
        "content_type": "video/webm",
        "sha256": hashlib.sha256(str(number).encode()).hexdigest(),
        "uploaded_at": START + timedelta(milliseconds=number // 10),
    }
    return {
        "_id": ObjectId(f"{number:024x}"),
        "folder": folder,
        "filename": filename,
        "current": current if there else None,
        "uploads": [],
        "doomed": [],
        "announce": [],
    }


def ask(lib: Library, **query: object) -> dict[str, Any]:
    answer = lib.http.get(f"{lib.stream.url}/file", params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return dict(answer.json())


def every(lib: Library, **query: object) -> tuple[list[dict[str, Any]], int]:
    """All pages, and how many there were."""
    found, pages, after = [], 0, None
    while True:
        page = ask(lib, **query, **({"after": after} if after else {}))
        assert len(page["files"]) <= int(str(query.get("limit", 50)))
        found += page["files"]
        pages += 1
        after = page["next"]
        if after is None:
            return found, pages


def names(files: list[dict[str, Any]]) -> list[str]:
    return [file["filename"] for file in files]


def test_what_was_uploaded_is_listed_newest_first(lib: Library) -> None:
    for number in range(3):
        lib.put(f"{number}.webm", bytes(number), "up")
    (newest, *_), _ = every(lib, folder="up")
    assert newest == lib.http.get(f"{lib.stream.url}/file/info", params={"filename": "2.webm", "folder": "up"}).json()
    assert names(every(lib, folder="up")[0]) == ["2.webm", "1.webm", "0.webm"]


@pytest.mark.parametrize("limit", [1, 7, 10, 50, 200])
def test_pages_hold_everything_once(lib: Library, limit: int) -> None:
    """Files of one millisecond, nameless uploads and names without a file included."""
    lib.db["media"].insert_many([entry(n, f"{n:03}", "a" if n % 3 else "") for n in range(107)])
    lib.db["media"].insert_many([entry(1000 + n, f"gone-{n}", there=False) for n in range(5)])
    lib.db["media"].insert_one({**entry(2000, ""), "folder": None, "filename": ObjectId(), "current": None})
    expected = [f"{n:03}" for n in reversed(range(107))]
    found, pages = every(lib, limit=limit)
    assert names(found) == expected
    assert pages == -(-107 // limit)
    assert names(every(lib, limit=limit, folder="a")[0]) == [name for name in expected if int(name) % 3]
    assert names(every(lib, limit=limit, folder="")[0]) == [name for name in expected if not int(name) % 3]
    assert every(lib, folder="nowhere") == ([], 1)


def test_a_change_between_two_pages_shows_nothing_twice(lib: Library) -> None:
    lib.db["media"].insert_many([entry(n * 10, f"{n:02}") for n in range(20)])
    first = ask(lib, limit=5)
    assert names(first["files"]) == ["19", "18", "17", "16", "15"]
    lib.db["media"].insert_one(entry(500, "new"))
    lib.db["media"].update_one({"filename": "10"}, {"$set": {"current.uploaded_at": START + timedelta(days=1)}})
    lib.db["media"].delete_many({"filename": {"$in": ["15", "14"]}})
    second = ask(lib, limit=5, after=first["next"])
    assert names(second["files"]) == ["13", "12", "11", "09", "08"]


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("holi", ["my Holiday.webm", "holiday.webm"]),
        ("HOLI", ["my Holiday.webm", "holiday.webm"]),
        (".webm", ["ÄRGER.webm", "my Holiday.webm", "holiday.webm"]),
        ("ärg", ["ÄRGER.webm"]),
        ("a\u0308rg", ["ÄRGER.webm"]),
        (".*", [".*"]),
        ("(", ["a(b"]),
        ("^h", []),
        ("$where", ["$where"]),
        ("\\", []),
        ("", ["$where", "a(b", ".*", "ÄRGER.webm", "my Holiday.webm", "holiday.webm"]),
    ],
)
def test_search_is_for_plain_text(lib: Library, q: str, expected: list[str]) -> None:
    there = ["holiday.webm", "my Holiday.webm", "ÄRGER.webm", ".*", "a(b", "$where"]
    lib.db["media"].insert_many([entry(n * 10, name) for n, name in enumerate(there)])
    assert names(every(lib, q=q)[0]) == expected


def test_a_search_looks_at_a_bounded_number_of_names(lib: Library) -> None:
    """And finds what is far behind by going on."""
    total = 25_000
    documents = [entry(n, f"{n}" if n != 3 else "needle", "f") for n in range(total)]
    lib.db["media"].insert_many(documents)
    for query in ({}, {"folder": "f"}):
        page = ask(lib, q="needle", **query)
        assert page["files"] == []
        assert page["next"]
        found, pages = every(lib, q="needle", **query)
        assert names(found) == ["needle"]
        assert pages == 3
        assert len(every(lib, q="44", limit=200, **query)[0]) == sum("44" in str(n) for n in range(total))
        assert names(ask(lib, q="4", limit=3, **query)["files"]) == ["24999", "24998", "24997"]


def test_lists_rest_on_indexes(lib: Library) -> None:
    """As the database says of the queries that it really ran: nothing is sorted in memory, and keys read are near those shown."""
    lib.db["media"].insert_many([entry(n, f"{n}", f"f{n % 50}") for n in range(5000)])
    lib.db.command("profile", 2)
    try:
        page = ask(lib, limit=20)
        ask(lib, limit=20, after=page["next"])
        ask(lib, limit=20, folder="f7")
        lib.http.get(f"{lib.stream.url}/file/folders")
    finally:
        lib.db.command("profile", 0)
    ran = list(lib.db["system.profile"].find({"op": "query", "ns": f"{lib.db.name}.media"}))
    lib.db["system.profile"].drop()
    assert len(ran) >= 4
    for query in ran:
        assert "COLLSCAN" not in query["planSummary"]
        assert not query.get("hasSortStage", False)
        assert query["keysExamined"] <= 600
    assert ran[0]["keysExamined"] <= 22


def test_folders(lib: Library) -> None:
    there = ["", "a", "a/b", "b", "ä", "zz"]
    lib.db["media"].insert_many([entry(n, f"{n}", folder) for n, folder in enumerate(there * 3)])
    lib.db["media"].insert_one(entry(900, "x", "only-begun", there=False))
    lib.db["media"].insert_one({**entry(901, ""), "folder": None, "filename": ObjectId(), "current": None})
    url = f"{lib.stream.url}/file/folders"
    expected = ["", "a", "a/b", "b", "zz", "ä"]
    assert lib.http.get(url).json() == {"folders": expected, "next": None}
    for limit in (1, 2, 3, 6):
        found: list[str] = []
        after: dict[str, str] = {}
        while True:
            page = lib.http.get(url, params={"limit": limit, **after}).json()
            found += page["folders"]
            if page["next"] is None:
                break
            after = {"after": page["next"]}
        assert found == expected


def test_large_folders_are_jumped_over(lib: Library) -> None:
    lib.db["media"].insert_many([entry(n, f"{n}", f"f{n % 3}") for n in range(3000)])
    lib.db["media"].insert_many([entry(5000 + n, "x", f"g{n:04}") for n in range(700)])
    url = f"{lib.stream.url}/file/folders"
    first = lib.http.get(url, params={"limit": 200}).json()
    assert first["folders"] == ["f0", "f1", "f2", *(f"g{n:04}" for n in range(197))]
    second = lib.http.get(url, params={"limit": 200, "after": first["next"]}).json()
    assert second["folders"] == [f"g{n:04}" for n in range(197, 397)]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=x",
        "limit=1e2",
        "after=x",
        "after=WzFd",
        "after=bnVsbA",
        "after=" + "a" * 5000,
        "q=" + "a" * 101,
        "folder=/a",
        "folder=a/../b",
        "folder=" + "a" * 1100,
        "folder=a%00",
    ],
)
def test_what_is_no_query(lib: Library, query: str) -> None:
    answer = lib.http.get(f"{lib.stream.url}/file?{query}")
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("Validation Error: ")
    if query.startswith(("limit", "after")):
        assert lib.http.get(f"{lib.stream.url}/file/folders?{query}").status_code == 400


def test_the_document_is_valid_and_says_all(service: Library) -> None:
    document = httpx.get(f"{service.stream.url}/openapi.json").json()
    validate(document)
    assert set(document["paths"]["/file/stream"]) == {"get", "head"}
    assert {"200", "206", "304", "400", "404", "412", "414", "416", "431", "503"} == set(
        document["paths"]["/file/stream"]["get"]["responses"]
    )
    for path in ("/file", "/file/info", "/file/folders"):
        operation = document["paths"][path]["get"]
        assert operation["tags"] == ["stream"]
        name = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[-1]
        assert document["components"]["schemas"][name]["examples"]
