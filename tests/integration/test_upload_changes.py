"""PATCH /file, POST /file/restore and POST /file/delete on a running service."""

import json
from typing import Any

import httpx
import pytest

from tests.support.processes import ServiceProcess
from tests.support.store_inspectors import MongoInspector
from tests.support.upload_client import etag, expect_problem, put_file


@pytest.fixture(scope="module")
def upload_settings() -> dict[str, str]:
    return {"GRIDCAST_GC_INTERVAL": "0"}


def patch_file(
    service: ServiceProcess, folder: str, filename: str, body: Any, headers: dict[str, str] | None = None
) -> httpx.Response:
    return httpx.patch(
        f"{service.url}/file", params={"folder": folder, "filename": filename}, json=body, headers=headers
    )


def restore(service: ServiceProcess, folder: str, filename: str) -> httpx.Response:
    return httpx.post(f"{service.url}/file/restore", params={"folder": folder, "filename": filename})


def delete_files(service: ServiceProcess, *files: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{service.url}/file/delete", json={"files": files})


def test_a_file_is_renamed_and_moved(upload: ServiceProcess, inspector: MongoInspector) -> None:
    stored = put_file(upload, "a.txt", b"text", "f").json()
    renamed = patch_file(upload, "f", "a.txt", {"filename": "b c.txt"}, {"if-match": stored["etag"]})
    assert renamed.status_code == 200
    assert renamed.headers["location"] == "/files/f/b%20c.txt"
    changed = {"filename": "b c.txt", "revision": renamed.json()["revision"]}
    assert renamed.json() == {**stored, **changed}
    assert renamed.json()["revision"] > stored["revision"]
    moved = patch_file(upload, "f", "b c.txt", {"folder": "g/h"})
    assert (moved.json()["folder"], moved.json()["filename"]) == ("g/h", "b c.txt")
    assert moved.json()["id"] == stored["id"]
    found = inspector.find_document("b c.txt")
    assert found is not None
    names = {(one["folder"], one["filename"]) for one in inspector.list_documents() if one["current"]}
    assert names == {("g/h", "b c.txt")}
    # The old name is free.
    again = put_file(upload, "a.txt", b"text", "f")
    assert again.status_code == 201
    assert again.json()["id"] != stored["id"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"filename": ""}, 400),
        ({"filename": "x/y"}, 400),
        ({"folder": "x//y"}, 400),
        ({"filename": 5}, 400),
        ({"name": "x"}, 400),
        ([], 400),
        ({"filename": "a.txt"}, 409),
        ({"filename": "taken.txt"}, 409),
    ],
)
def test_what_a_move_refuses(upload: ServiceProcess, body: Any, status: int) -> None:
    put_file(upload, "a.txt", b"1", "f")
    put_file(upload, "taken.txt", b"2", "f")
    expect_problem(patch_file(upload, "f", "a.txt", body), status)


def test_preconditions_of_a_move(upload: ServiceProcess) -> None:
    expect_problem(patch_file(upload, "f", "none.txt", {"filename": "x.txt"}), 404)
    put_file(upload, "a.txt", b"1", "f")
    for headers, status in (
        ({"if-match": etag(b"2")}, 412),
        ({"if-none-match": etag(b"1")}, 412),
        ({"if-unmodified-since": "Mon, 23 Nov 2020 08:30:00 GMT"}, 412),
        ({"if-match": "nonsense"}, 400),
    ):
        expect_problem(patch_file(upload, "f", "a.txt", {"filename": "x.txt"}, headers), status)
    response = httpx.patch(f"{upload.url}/file?folder=f&filename=a.txt", content=b'{"filename":"x"}')
    expect_problem(response, 415)


def test_a_deletion_is_undone(upload: ServiceProcess) -> None:
    stored = put_file(upload, "a.txt", b"1", "f").json()
    assert "409" not in expect_problem(restore(upload, "f", "a.txt"), 409)
    assert delete_files(upload, {"folder": "f", "filename": "a.txt"}).json()["results"][0]["status"] == 204
    restored = restore(upload, "f", "a.txt")
    assert restored.status_code == 200
    assert restored.json() == {**stored, "revision": stored["revision"] + 2}
    expect_problem(restore(upload, "f", "never.txt"), 410)
    expect_problem(restore(upload, "f", ""), 400)


def test_many_files_are_deleted_each_by_itself(upload: ServiceProcess) -> None:
    for name in ("a", "b", "c"):
        put_file(upload, name, name.encode(), "f")
    response = delete_files(
        upload,
        {"folder": "f", "filename": "a"},
        {"folder": "f", "filename": "none"},
        {"folder": "f", "filename": "b", "etag": etag(b"other")},
        {"folder": "f", "filename": "c", "etag": etag(b"c")},
    )
    assert response.status_code == 200
    results = response.json()["results"]
    assert [(one["filename"], one["status"]) for one in results] == [("a", 204), ("none", 404), ("b", 412), ("c", 204)]
    assert [one["detail"] is None for one in results] == [True, False, False, True]


@pytest.mark.parametrize(
    "files",
    [
        [],
        [{"filename": str(number)} for number in range(101)],
        [{"filename": "a"}, {"filename": "x/y"}],
        [{"filename": "a"}, {"filename": "a", "folder": ""}],
        [{"filename": "a"}, {"filename": "b", "etag": "no tag"}],
        [{"filename": "a"}, {"filename": "b", "etag": '"1", "2"'}],
        [{"filename": "a", "more": 1}],
    ],
)
def test_a_batch_that_is_not_valid_deletes_nothing(upload: ServiceProcess, files: list[dict[str, Any]]) -> None:
    put_file(upload, "a", b"1")
    expect_problem(delete_files(upload, *files), 400)
    assert delete_files(upload, {"filename": "a"}).json()["results"][0]["status"] == 204


def test_the_largest_batch_is_accepted(upload: ServiceProcess) -> None:
    """Names of the greatest length."""
    folder = "/".join(["\u00e9" * 127] * 4)
    files = [{"folder": folder, "filename": f"{number:03}" + "\u00e9" * 126} for number in range(100)]
    body = json.dumps({"files": files}, ensure_ascii=False).encode()
    response = httpx.post(
        f"{upload.url}/file/delete", content=body, headers={"content-type": "application/json"}, timeout=30
    )
    assert {one["status"] for one in response.json()["results"]} == {404}


GIF = b"GIF89a\x03\0\x02\0" + bytes(3)


def put_poster(service: ServiceProcess, name: str, data: bytes, **headers: str) -> httpx.Response:
    fields = {key.replace("_", "-"): value for key, value in headers.items()}
    return httpx.put(f"{service.url}/file/poster", params={"filename": name}, content=data, headers=fields)


def test_a_poster_is_set_and_removed(upload: ServiceProcess) -> None:
    expect_problem(put_poster(upload, "p.webm", GIF), 404)
    stored = put_file(upload, "p.webm", b"video").json()
    described = put_poster(upload, "p.webm", GIF, if_match=stored["etag"], content_type="text/html")
    assert described.status_code == 200
    assert described.json() == {**stored, "poster": etag(GIF), "revision": stored["revision"] + 1}
    expect_problem(put_poster(upload, "p.webm", GIF, if_match=etag(b"other")), 412)
    removed = httpx.delete(f"{upload.url}/file/poster", params={"filename": "p.webm"})
    assert removed.status_code == 204
    assert patch_file(upload, "", "p.webm", {"filename": "q.webm"}).json()["poster"] is None
    expect_problem(httpx.delete(f"{upload.url}/file/poster", params={"filename": "p.webm"}), 404)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
        (b"\0\0\0\x18ftypisom\0\0\2\0isommp41", 415),
        (GIF + bytes(1024 * 1024), 413),
    ],
)
@pytest.mark.parametrize("is_chunked", [False, True])
def test_what_is_no_poster(upload: ServiceProcess, data: bytes, status: int, *, is_chunked: bool) -> None:
    put_file(upload, "v.webm", b"video")
    body = iter([data[start : start + 65536] for start in range(0, len(data), 65536)]) if is_chunked else data
    response = httpx.put(f"{upload.url}/file/poster", params={"filename": "v.webm"}, content=body)
    expect_problem(response, status)
