"""PUT and DELETE /file/stream on a real service: one step for every reader, preconditions, digests, limits."""

import base64
import hashlib
import os
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, timedelta
from email.utils import format_datetime

import httpx
import pytest

from tests.support.processes import Service, Start
from tests.support.upload_client import BATCH, CHUNK, Store, Tus, etag, form, part, post, problem, put, repr_digest
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def upload_settings() -> dict[str, str]:
    return {
        "GRIDCAST_MAX_FILE_SIZE": str(16 * 1024 * 1024),
        "GRIDCAST_TOMBSTONE_TTL": "0",
        "GRIDCAST_SECOND_PURGE_DELAY": "0",
        "GRIDCAST_GC_INTERVAL": "0.2",
    }


def delete(service: Service, name: str, folder: str = "", **headers: str) -> httpx.Response:
    fields = {key.replace("_", "-"): value for key, value in headers.items()}
    return httpx.delete(f"{service.url}/file/stream", params={"filename": name, "folder": folder}, headers=fields)


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, BATCH, 2 * BATCH + 5])
def test_created_then_replaced_then_deleted(upload: Service, store: Store, size: int) -> None:
    first, second = os.urandom(size), os.urandom(size + 1)
    created = put(upload, "a b.webm", first, "x/y")
    assert created.status_code == 201
    assert created.headers["location"] == "/file/stream?filename=a%20b.webm&folder=x%2Fy"
    assert (created.headers["etag"], created.headers["repr-digest"]) == (etag(first), repr_digest(first))
    assert created.json()["sha256"] == hashlib.sha256(first).hexdigest()
    assert store.bytes_of(created.json()["id"]) == first
    replaced = put(upload, "a b.webm", second, "x/y", content_type="audio/webm")
    assert replaced.status_code == 200
    assert replaced.json()["id"] == created.json()["id"]
    assert replaced.headers["etag"] == etag(second)
    assert "content-location" not in replaced.headers
    assert store.one()["current"]["content_type"] == "audio/webm"
    assert store.bytes_of(created.json()["id"]) == second
    eventually(lambda: store.chunks() == -(-len(second) // CHUNK))
    assert delete(upload, "a b.webm", "x/y").status_code == 204
    problem(delete(upload, "a b.webm", "x/y"), 404)
    eventually(lambda: store.media() == [] and store.chunks() == 0)


def test_preconditions(upload: Service, store: Store) -> None:
    """RFC 9110, 13.1.1 and 13.1.2."""
    problem(put(upload, "n", b"1", if_match="*"), 412)
    problem(put(upload, "n", b"1", if_match=etag(b"1")), 412)
    assert store.media() == []
    assert put(upload, "n", b"1", if_none_match="*").status_code == 201
    problem(put(upload, "n", b"2", if_none_match="*"), 412)
    problem(put(upload, "n", b"2", if_none_match=etag(b"1")), 412)
    problem(put(upload, "n", b"2", if_none_match="W/" + etag(b"1")), 412)
    problem(put(upload, "n", b"2", if_match="W/" + etag(b"1")), 412)
    problem(put(upload, "n", b"2", if_match='"other", "tags"'), 412)
    problem(put(upload, "n", b"2", if_match="not a tag"), 400)
    assert put(upload, "n", b"2", if_match=f'"x", {etag(b"1")}').status_code == 200
    assert put(upload, "n", b"3", if_none_match=etag(b"1")).status_code == 200
    assert put(upload, "n", b"4", if_match="*").status_code == 200
    problem(delete(upload, "n", if_match=etag(b"1")), 412)
    problem(delete(upload, "n", if_none_match="*"), 412)
    assert delete(upload, "n", if_match=etag(b"4")).status_code == 204


def test_a_date_as_a_precondition(upload: Service, store: Store) -> None:
    """RFC 9110, 13.1.4: a client that has no tag must not overwrite what it has not seen."""
    assert put(upload, "n", b"1", if_unmodified_since="Fri, 01 Jan 2010 00:00:00 GMT").status_code == 201
    stored = store.one()["current"]["uploaded_at"].astimezone(UTC).replace(microsecond=0)
    seen = format_datetime(stored, usegmt=True)
    before = format_datetime(stored - timedelta(seconds=1), usegmt=True)
    problem(put(upload, "n", b"2", if_unmodified_since=before), 412)
    problem(delete(upload, "n", if_unmodified_since=before), 412)
    assert put(upload, "n", b"2", if_unmodified_since=before, if_match=etag(b"1")).status_code == 200
    later = format_datetime(stored + timedelta(minutes=1), usegmt=True)
    assert put(upload, "n", b"3", if_unmodified_since=later).status_code == 200
    for never in ("yesterday", "Fri, 31 Dec 9999 23:59:59 GMT"):
        assert put(upload, "n", b"4", if_unmodified_since=never).status_code == 200
    problem(put(upload, "n", b"5", if_unmodified_since="Mon, 01 Jan 0001 00:00:00 GMT"), 412)
    # The last moment of that second.
    store.db["media"].update_one({}, {"$set": {"current.uploaded_at": stored + timedelta(milliseconds=999)}})
    assert delete(upload, "n", if_unmodified_since=seen).status_code == 204


def test_the_lines_of_a_field_are_one_list(upload: Service, store: Store) -> None:
    """RFC 9110, 5.3: the second line counts as the first does."""
    url = f"{upload.url}/file/stream?filename=n"
    assert httpx.put(url, content=b"1").status_code == 201
    tags = ('"x"', etag(b"1"))
    problem(httpx.put(url, content=b"2", headers=[("if-none-match", tag) for tag in tags]), 412)
    assert httpx.put(url, content=b"2", headers=[("if-match", tag) for tag in tags]).status_code == 200
    problem(httpx.put(url, content=b"3", headers=[("content-encoding", one) for one in ("identity", "gzip")]), 415)


def test_of_racers_with_one_precondition_one_wins(upload: Service, store: Store) -> None:
    """A lost update cannot happen, and the bytes are those of the one who was told 200."""
    put(upload, "n", b"0")
    start = threading.Barrier(8)

    def race(number: int) -> tuple[int, bytes]:
        data = bytes([number]) * (CHUNK + 1 + number)
        start.wait()
        return put(upload, "n", data, if_match=etag(b"0")).status_code, data

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(race, range(8)))
    assert Counter(status for status, _ in results) == {200: 1, 412: 7}
    (winner,) = (data for status, data in results if status == 200)
    assert store.bytes_in(store.one()["current"]["file"]) == winner
    eventually(lambda: store.orphans() == [] and store.chunks() == 2)


def test_digests(upload: Service, store: Store) -> None:
    """Cases 24 and 25: a wrong digest leaves nothing, an untrusted one proves nothing."""
    data = os.urandom(CHUNK + 1)
    sha512 = f"sha-512=:{base64.b64encode(hashlib.sha512(data).digest()).decode()}:"
    for field in ("content_digest", "repr_digest"):
        for wrong in (
            repr_digest(b"other"),
            sha512[:-10] + "AAAAAAA==:",
            f"{repr_digest(data)}, sha-512=:AAAA:",
            "sha-256=x",
        ):
            problem(put(upload, "n", data, **{field: wrong}), 400)
    eventually(lambda: store.chunks() == 0 and store.media() == [])
    assert put(upload, "n", data, content_digest="md5=:AAAA:, id-sha-256=:AAAA:").status_code == 201
    assert put(upload, "n", data, content_digest=repr_digest(data), repr_digest=sha512).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"content_range": "bytes 0-1/5"}, 400), ({"content_encoding": "gzip"}, 415), ({"content_type": "x"}, 400)],
)
def test_what_a_put_does_not_take(upload: Service, store: Store, headers: dict[str, str], status: int) -> None:
    problem(put(upload, "n", b"x", **headers), status)
    assert store.media() == []


@pytest.mark.parametrize(
    "query",
    ["", "?filename=", "?filename=a%2Fb", "?filename=..", "?filename=a%00b", "?filename=%FF", "?filename=a&filename=b"],
)
def test_names(upload: Service, store: Store, query: str) -> None:
    for method in ("PUT", "DELETE"):
        answer = httpx.request(method, f"{upload.url}/file/stream{query}")
        problem(answer, 400)
    assert "Traceback" not in upload.log


def raw(service: Service, head: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=20)
    connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
    return connection


def test_too_large_is_refused_before_the_body(upload: Service, store: Store) -> None:
    """Case 11: by Content-Length at once, chunked when it is too much."""
    head = "PUT /file/stream?filename=n HTTP/1.1\nHost: x\nContent-Length: 99999999999\nExpect: 100-continue"
    with raw(upload, head) as connection:
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()
    problem(put(upload, "n", iter([bytes(1024 * 1024)] * 17)), 413)
    eventually(lambda: store.chunks() == 0 and store.media() == [], 5)


def test_100_continue_comes_only_when_the_body_is_wanted(upload: Service, store: Store) -> None:
    put(upload, "n", b"x")
    wanted = "PUT /file/stream?filename=n HTTP/1.1\nHost: x\nContent-Length: 3\nExpect: 100-continue"
    with raw(upload, wanted + "\nIf-None-Match: *") as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 412 ")
    with raw(upload, wanted) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"abc")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("length", ["-1", "+5", "5, 6", "5 6", "0x5", ""])
def test_a_length_that_is_no_number(upload: Service, length: str) -> None:
    """Case 10."""
    with raw(upload, f"PUT /file/stream?filename=n HTTP/1.1\nHost: x\nContent-Length: {length}") as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")


def test_what_is_dangerous_to_open_is_stored_as_it_is(upload: Service, store: Store) -> None:
    """Cases 35 and 36: nothing is unpacked or looked into; how it is served is the stream service's."""
    bomb = b"PK\x03\x04" + os.urandom(100)
    for name, data, kind in (("42.zip", bomb, "application/zip"), ("x.svg", b"<svg><script/></svg>", "image/svg+xml")):
        answer = put(upload, name, data)
        assert answer.json()["content_type"] == kind
        assert store.bytes_of(answer.json()["id"]) == data


# Limits, each with a service that has it.


def test_a_client_that_is_too_slow(start_service: Start, env: dict[str, str], store: Store) -> None:
    """Case 32: 408, and nothing stays; a resumable upload keeps what came."""
    service = start_service(
        "services.upload", **{**env, "GRIDCAST_MIN_UPLOAD_RATE": "100", "GRIDCAST_UPLOAD_RATE_WINDOW": "1"}
    )

    def dribble(connection: socket.socket) -> bytes:
        connection.settimeout(0.1)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            connection.sendall(b"x")
            try:
                return connection.recv(4096)
            except TimeoutError:
                continue
        return b""

    with raw(service, "PUT /file/stream?filename=n HTTP/1.1\nHost: x\nContent-Length: 1000") as connection:
        assert dribble(connection).startswith(b"HTTP/1.1 408 ")
    eventually(lambda: store.media() == [], 5)
    tus = Tus(service)
    tus.create(length=1000)
    with tus.open_patch(service, 0, 1000) as connection:
        assert dribble(connection).startswith(b"HTTP/1.1 408 ")
    assert 0 < tus.offset() < 100


def test_as_many_at_once_as_it_takes(start_service: Start, env: dict[str, str], store: Store) -> None:
    service = start_service("services.upload", **{**env, "GRIDCAST_MAX_CONCURRENT_UPLOADS": "2"})
    head = "PUT /file/stream?filename={} HTTP/1.1\nHost: x\nContent-Length: 3"
    with raw(service, head.format("a")) as first, raw(service, head.format("b")) as second:
        eventually(lambda: len(store.media()) == 2)
        third = put(service, "c", b"x")
        problem(third, 503)
        assert int(third.headers["retry-after"]) > 0
        for connection in (first, second):
            connection.sendall(b"abc")
            assert connection.recv(4096).startswith(b"HTTP/1.1 201 ")
    assert put(service, "c", b"x").status_code == 201


def test_media_types(start_service: Start, env: dict[str, str], store: Store) -> None:
    service = start_service("services.upload", **{**env, "GRIDCAST_ALLOWED_MEDIA_TYPES": '["video/*", "audio/ogg"]'})
    assert put(service, "a.webm", b"x").status_code == 201
    assert put(service, "a.opus", b"x").status_code == 201
    problem(put(service, "a.html", b"x"), 415)
    problem(put(service, "a.webm", b"x", content_type="text/html"), 415)
    problem(post(service, form(part("file", b"x", "a.html"))), 415)
    problem(Tus(service).create("a.html", length=1), 415)
    assert len(store.media()) == 2


def test_the_floor_under_the_free_space(start_service: Start, env: dict[str, str], store: Store) -> None:
    put_before = store.db["media"]
    put_before.insert_one({"folder": "", "filename": "there", "current": None, "uploads": []})
    service = start_service("services.upload", **{**env, "GRIDCAST_MIN_FREE_SPACE": str(10**15)})
    eventually(lambda: put(service, "n", b"x").status_code == 507, 5)
    problem(post(service, form(part("file", b"x", "a"))), 507)
    problem(Tus(service).create(length=1), 507)


def test_the_api_is_documented(upload: Service) -> None:
    document = httpx.get(f"{upload.url}/openapi.json").json()
    shown = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert shown >= {
        ("POST", "/file/upload"),
        ("PUT", "/file/stream"),
        ("DELETE", "/file/stream"),
        ("OPTIONS", "/file/tus"),
        ("POST", "/file/tus"),
        ("HEAD", "/file/tus/{upload}"),
        ("PATCH", "/file/tus/{upload}"),
        ("DELETE", "/file/tus/{upload}"),
    }
    assert all(
        "422" not in operation["responses"] for item in document["paths"].values() for operation in item.values()
    )
