"""GET /file and GET /file/folders: order, pages, search and bounds; and the service's OpenAPI document."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from bson import ObjectId
from openapi_spec_validator import validate

from tests.support.databases import ServerProcess
from tests.support.media_library import MediaServices, run_media_services

FIRST_UPLOADED = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def listing_services(
    mongod: ServerProcess, redis_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MediaServices]:
    with run_media_services(tmp_path_factory.mktemp("list"), mongod, redis_server.url, "test_stream_list") as lib:
        yield lib


@pytest.fixture
def media_services(listing_services: MediaServices) -> MediaServices:
    listing_services.inspector.clear()
    return listing_services


def make_document(number: int, filename: str, folder: str = "", *, there: bool = True) -> dict[str, Any]:
    """A document as the upload service leaves it. Ten files share each millisecond."""
    current = {
        "file": ObjectId(),
        "length": number,
        "content_type": "video/webm",
        "sha256": hashlib.sha256(str(number).encode()).hexdigest(),
        "uploaded_at": FIRST_UPLOADED + timedelta(milliseconds=number // 10),
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


def list_files(lib: MediaServices, **query: str | int | None) -> dict[str, Any]:
    answer = lib.http_client.get(f"{lib.stream.url}/file", params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return dict(answer.json())


def list_all_pages(lib: MediaServices, **query: str | int | None) -> tuple[list[dict[str, Any]], int]:
    """All pages, and how many there were."""
    found, pages, after = [], 0, None
    while True:
        page = list_files(lib, **query, **({"after": after} if after else {}))
        assert len(page["files"]) <= int(str(query.get("limit", 50)))
        found += page["files"]
        pages += 1
        after = page["next"]
        if after is None:
            return found, pages


def filenames(files: list[dict[str, Any]]) -> list[str]:
    return [file["filename"] for file in files]


def test_uploads_are_listed_newest_first(media_services: MediaServices) -> None:
    for number in range(3):
        media_services.put(f"{number}.webm", bytes(number), "up")
    (newest, *_), _ = list_all_pages(media_services, folder="up")
    assert (
        newest
        == media_services.http_client.get(
            f"{media_services.stream.url}/file/info", params={"filename": "2.webm", "folder": "up"}
        ).json()
    )
    assert filenames(list_all_pages(media_services, folder="up")[0]) == ["2.webm", "1.webm", "0.webm"]


@pytest.mark.parametrize("limit", [1, 7, 10, 50, 200])
def test_pages_hold_every_file_once(media_services: MediaServices, limit: int) -> None:
    """Files of one millisecond, nameless uploads and names without a file included."""
    media_services.inspector.insert_documents([make_document(n, f"{n:03}", "a" if n % 3 else "") for n in range(107)])
    media_services.inspector.insert_documents([make_document(1000 + n, f"gone-{n}", there=False) for n in range(5)])
    media_services.inspector.insert_documents(
        [{**make_document(2000, ""), "folder": None, "filename": ObjectId(), "current": None}]
    )
    expected = [f"{n:03}" for n in reversed(range(107))]
    found, pages = list_all_pages(media_services, limit=limit)
    assert filenames(found) == expected
    assert pages == -(-107 // limit)
    assert filenames(list_all_pages(media_services, limit=limit, folder="a")[0]) == [
        name for name in expected if int(name) % 3
    ]
    assert filenames(list_all_pages(media_services, limit=limit, folder="")[0]) == [
        name for name in expected if not int(name) % 3
    ]
    assert list_all_pages(media_services, folder="nowhere") == ([], 1)


def test_change_between_two_pages_repeats_no_file(media_services: MediaServices) -> None:
    media_services.inspector.insert_documents([make_document(n * 10, f"{n:02}") for n in range(20)])
    first = list_files(media_services, limit=5)
    assert filenames(first["files"]) == ["19", "18", "17", "16", "15"]
    media_services.inspector.insert_documents([make_document(500, "new")])
    media_services.inspector.delete_documents(["15", "14", "10"])
    media_services.inspector.insert_documents([make_document(864_000_000, "10")])
    second = list_files(media_services, limit=5, after=first["next"])
    assert filenames(second["files"]) == ["13", "12", "11", "09", "08"]


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
def test_search_is_for_plain_text(media_services: MediaServices, q: str, expected: list[str]) -> None:
    there = ["holiday.webm", "my Holiday.webm", "ÄRGER.webm", ".*", "a(b", "$where"]
    media_services.inspector.insert_documents([make_document(n * 10, name) for n, name in enumerate(there)])
    assert filenames(list_all_pages(media_services, q=q)[0]) == expected


def test_search_examines_a_bounded_number_of_names(media_services: MediaServices) -> None:
    """And finds distant matches over several pages."""
    total = 25_000
    documents = [make_document(n, f"{n}" if n != 3 else "needle", "f") for n in range(total)]
    media_services.inspector.insert_documents(documents)
    for query in ({}, {"folder": "f"}):
        page = list_files(media_services, q="needle", **query)
        assert page["files"] == []
        assert page["next"]
        found, pages = list_all_pages(media_services, q="needle", **query)
        assert filenames(found) == ["needle"]
        assert pages == 3
        assert len(list_all_pages(media_services, q="44", limit=200, **query)[0]) == sum(
            "44" in str(n) for n in range(total)
        )
        assert filenames(list_files(media_services, q="4", limit=3, **query)["files"]) == ["24999", "24998", "24997"]


def test_listings_use_indexes(media_services: MediaServices) -> None:
    """By the profiler's record of the queries: nothing is sorted in memory, and few more keys are examined than returned."""
    media_services.inspector.insert_documents([make_document(n, f"{n}", f"f{n % 50}") for n in range(5000)])
    media_services.db.command("profile", 2)
    try:
        page = list_files(media_services, limit=20)
        list_files(media_services, limit=20, after=page["next"])
        list_files(media_services, limit=20, folder="f7")
        media_services.http_client.get(f"{media_services.stream.url}/file/folders")
    finally:
        media_services.db.command("profile", 0)
    ran = list(media_services.db["system.profile"].find({"op": "query", "ns": f"{media_services.db.name}.media"}))
    media_services.db["system.profile"].drop()
    assert len(ran) >= 4
    for query in ran:
        assert "COLLSCAN" not in query["planSummary"]
        assert not query.get("hasSortStage", False)
        assert query["keysExamined"] <= 600
    assert ran[0]["keysExamined"] <= 22


def test_folders(media_services: MediaServices) -> None:
    there = ["", "a", "a/b", "b", "ä", "zz"]
    media_services.inspector.insert_documents([make_document(n, f"{n}", folder) for n, folder in enumerate(there * 3)])
    media_services.inspector.insert_documents([make_document(900, "x", "only-begun", there=False)])
    media_services.inspector.insert_documents(
        [{**make_document(901, ""), "folder": None, "filename": ObjectId(), "current": None}]
    )
    url = f"{media_services.stream.url}/file/folders"
    expected = ["", "a", "a/b", "b", "zz", "ä"]
    assert media_services.http_client.get(url).json() == {"folders": expected, "totals": None, "next": None}
    for limit in (1, 2, 3, 6):
        found: list[str] = []
        after: dict[str, str] = {}
        while True:
            page = media_services.http_client.get(url, params={"limit": limit, **after}).json()
            found += page["folders"]
            if page["next"] is None:
                break
            after = {"after": page["next"]}
        assert found == expected


def test_large_folders_are_skipped_by_index(media_services: MediaServices) -> None:
    media_services.inspector.insert_documents([make_document(n, f"{n}", f"f{n % 3}") for n in range(3000)])
    media_services.inspector.insert_documents([make_document(5000 + n, "x", f"g{n:04}") for n in range(700)])
    url = f"{media_services.stream.url}/file/folders"
    first = media_services.http_client.get(url, params={"limit": 200}).json()
    assert first["folders"] == ["f0", "f1", "f2", *(f"g{n:04}" for n in range(197))]
    second = media_services.http_client.get(url, params={"limit": 200, "after": first["next"]}).json()
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
def test_invalid_queries(media_services: MediaServices, query: str) -> None:
    answer = media_services.http_client.get(f"{media_services.stream.url}/file?{query}")
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("Validation Error: ")
    if query.startswith(("limit", "after")):
        assert media_services.http_client.get(f"{media_services.stream.url}/file/folders?{query}").status_code == 400


def test_lists_in_other_orders(media_services: MediaServices) -> None:
    def walk(sort: str) -> list[tuple[str, int, str]]:
        found: list[tuple[str, int, str]] = []
        after: dict[str, str] = {}
        while True:
            params = {"sort": sort, "limit": "3", **after}
            page = httpx.get(f"{media_services.stream.url}/file", params=params).json()
            found += [(one["filename"], one["length"], one["id"]) for one in page["files"]]
            if page["next"] is None:
                return found
            after = {"after": page["next"]}

    documents = [make_document(n, f"{n * 7 % 11}", "ab"[n % 2]) for n in range(11)]
    for number, document in enumerate(documents):
        document["current"]["length"] = number * 5 % 7
    media_services.inspector.insert_documents(documents)
    newest = walk("-time")
    assert len(newest) == 11
    assert walk("time") == newest[::-1]
    for sort, place in (("name", 0), ("size", 1)):
        ordered = walk(sort)
        assert sorted(ordered) == sorted(newest)
        assert [one[place] for one in ordered] == sorted(one[place] for one in newest)
        assert walk(f"-{sort}") == ordered[::-1]
    mixed = httpx.get(f"{media_services.stream.url}/file", params={"sort": "name", "after": "WzEsIjAiXQ"})
    assert mixed.status_code == 400


def test_a_poster_is_served_with_conditions(media_services: MediaServices) -> None:
    upload, stream = media_services.upload.url, media_services.stream.url
    gif = b"GIF89a\x03\0\x02\0" + bytes(3)
    where = {"filename": "poster.webm", "folder": "posters"}
    httpx.put(f"{upload}/file/stream", params=where, content=b"video").raise_for_status()
    address = f"{stream}/file/poster"
    assert httpx.get(address, params=where).status_code == 404
    tag = httpx.put(f"{upload}/file/poster", params=where, content=gif).json()["poster"]
    shown = httpx.get(address, params=where)
    assert (shown.status_code, shown.content, shown.headers["content-type"]) == (200, gif, "image/gif")
    assert (shown.headers["etag"], shown.headers["cache-control"]) == (tag, "private, no-cache")
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert shown.headers["content-security-policy"].startswith("sandbox")
    kept = httpx.get(address, params={**where, "etag": tag})
    assert kept.headers["cache-control"] == "private, max-age=31536000, immutable"
    unchanged = httpx.get(address, params=where, headers={"if-none-match": f'"x", {tag}'})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert httpx.get(address, params=where, headers={"if-match": '"x"'}).status_code == 412
    head = httpx.head(address, params=where)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(gif)), b"")
    other = httpx.put(f"{upload}/file/poster", params=where, content=gif + b"2").json()["poster"]
    newest = httpx.get(address, params={**where, "etag": other})
    assert (newest.headers["etag"], newest.content) == (other, gif + b"2")
    assert "no-cache" in httpx.get(address, params={**where, "etag": tag}).headers["cache-control"]
    listed = httpx.get(f"{stream}/file", params={"folder": "posters"}).json()["files"]
    assert [file["poster"] for file in listed] == [other]


def test_folders_with_totals(media_services: MediaServices) -> None:
    media_services.inspector.insert_documents([make_document(n, f"{n}", "ab"[n % 2]) for n in range(5)])
    url = f"{media_services.stream.url}/file/folders"
    assert httpx.get(url).json()["totals"] is None
    page = httpx.get(url, params={"totals": "true"}).json()
    assert [one["folder"] for one in page["totals"]] == page["folders"] == ["a", "b"]
    for one in page["totals"]:
        files = httpx.get(f"{media_services.stream.url}/file", params={"folder": one["folder"], "limit": "200"}).json()[
            "files"
        ]
        assert (one["files"], one["bytes"]) == (len(files), sum(file["length"] for file in files))


def test_openapi_document_is_valid_and_complete(listing_services: MediaServices) -> None:
    document = httpx.get(f"{listing_services.stream.url}/openapi.json").json()
    validate(document)
    assert set(document["paths"]["/file/stream"]) == {"get", "head"}
    assert {"200", "206", "304", "400", "401", "403", "404", "412", "414", "416", "421", "431", "503"} == set(
        document["paths"]["/file/stream"]["get"]["responses"]
    )
    for path in ("/file", "/file/info", "/file/folders"):
        operation = document["paths"][path]["get"]
        assert operation["tags"] == ["files"]
        name = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[-1]
        assert document["components"]["schemas"][name]["examples"]
