"""PUT and DELETE /file/stream on a running service: atomic for every reader, preconditions, digests, limits."""

import base64
import contextlib
import hashlib
import os
import select
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, timedelta
from email.utils import format_datetime

import httpx
import pytest

from tests.support.processes import ServiceProcess, StartService
from tests.support.sizes import BATCH_SIZE, CHUNK_SIZE
from tests.support.store_inspectors import MongoInspector
from tests.support.upload_client import (
    FORM_CONTENT_TYPE,
    TusUpload,
    etag,
    expect_problem,
    form_body,
    form_part,
    post_form,
    put_file,
    repr_digest,
    tus_metadata,
)
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def upload_settings() -> dict[str, str]:
    return {
        "GRIDCAST_MAX_FILE_SIZE": str(16 * 1024 * 1024),
        "GRIDCAST_TOMBSTONE_TTL": "0",
        "GRIDCAST_SECOND_PURGE_DELAY": "0",
        "GRIDCAST_GC_INTERVAL": "0.2",
    }


def delete_file(service: ServiceProcess, name: str, folder: str = "", **headers: str) -> httpx.Response:
    fields = {key.replace("_", "-"): value for key, value in headers.items()}
    return httpx.delete(f"{service.url}/file/stream", params={"filename": name, "folder": folder}, headers=fields)


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE, CHUNK_SIZE + 1, BATCH_SIZE, 2 * BATCH_SIZE + 5])
def test_created_then_replaced_then_deleted(upload: ServiceProcess, inspector: MongoInspector, size: int) -> None:
    first, second = os.urandom(size), os.urandom(size + 1)
    created = put_file(upload, "a b.webm", first, "x/y")
    assert created.status_code == 201
    assert created.headers["location"] == "/file/stream?filename=a%20b.webm&folder=x%2Fy"
    assert (created.headers["etag"], created.headers["repr-digest"]) == (etag(first), repr_digest(first))
    assert created.json()["sha256"] == hashlib.sha256(first).hexdigest()
    assert inspector.read_current(created.json()["id"]) == first
    replaced = put_file(upload, "a b.webm", second, "x/y", content_type="audio/webm")
    assert replaced.status_code == 200
    assert replaced.json()["id"] == created.json()["id"]
    assert replaced.headers["etag"] == etag(second)
    assert "content-location" not in replaced.headers
    assert inspector.only_document()["current"]["content_type"] == "audio/webm"
    assert inspector.read_current(created.json()["id"]) == second
    eventually(lambda: inspector.count_chunks() == -(-len(second) // CHUNK_SIZE))
    assert delete_file(upload, "a b.webm", "x/y").status_code == 204
    expect_problem(delete_file(upload, "a b.webm", "x/y"), 404)
    eventually(lambda: inspector.list_documents() == [] and inspector.count_chunks() == 0)


def test_preconditions(upload: ServiceProcess, inspector: MongoInspector) -> None:
    """RFC 9110, 13.1.1 and 13.1.2."""
    expect_problem(put_file(upload, "n", b"1", if_match="*"), 412)
    expect_problem(put_file(upload, "n", b"1", if_match=etag(b"1")), 412)
    assert inspector.list_documents() == []
    assert put_file(upload, "n", b"1", if_none_match="*").status_code == 201
    expect_problem(put_file(upload, "n", b"2", if_none_match="*"), 412)
    expect_problem(put_file(upload, "n", b"2", if_none_match=etag(b"1")), 412)
    expect_problem(put_file(upload, "n", b"2", if_none_match="W/" + etag(b"1")), 412)
    expect_problem(put_file(upload, "n", b"2", if_match="W/" + etag(b"1")), 412)
    expect_problem(put_file(upload, "n", b"2", if_match='"other", "tags"'), 412)
    expect_problem(put_file(upload, "n", b"2", if_match="not a tag"), 400)
    assert put_file(upload, "n", b"2", if_match=f'"x", {etag(b"1")}').status_code == 200
    assert put_file(upload, "n", b"3", if_none_match=etag(b"1")).status_code == 200
    assert put_file(upload, "n", b"4", if_match="*").status_code == 200
    expect_problem(delete_file(upload, "n", if_match=etag(b"1")), 412)
    expect_problem(delete_file(upload, "n", if_none_match="*"), 412)
    assert delete_file(upload, "n", if_match=etag(b"4")).status_code == 204


def test_a_date_as_a_precondition(upload: ServiceProcess, inspector: MongoInspector) -> None:
    """RFC 9110, 13.1.4: a client without an entity tag must not overwrite a version that it has not seen."""
    assert put_file(upload, "n", b"1", if_unmodified_since="Fri, 01 Jan 2010 00:00:00 GMT").status_code == 201
    stored = inspector.only_document()["current"]["uploaded_at"].astimezone(UTC).replace(microsecond=0)
    seen = format_datetime(stored, usegmt=True)
    before = format_datetime(stored - timedelta(seconds=1), usegmt=True)
    expect_problem(put_file(upload, "n", b"2", if_unmodified_since=before), 412)
    expect_problem(delete_file(upload, "n", if_unmodified_since=before), 412)
    assert put_file(upload, "n", b"2", if_unmodified_since=before, if_match=etag(b"1")).status_code == 200
    later = format_datetime(stored + timedelta(minutes=1), usegmt=True)
    assert put_file(upload, "n", b"3", if_unmodified_since=later).status_code == 200
    for never in ("yesterday", "Fri, 31 Dec 9999 23:59:59 GMT"):
        assert put_file(upload, "n", b"4", if_unmodified_since=never).status_code == 200
    expect_problem(put_file(upload, "n", b"5", if_unmodified_since="Mon, 01 Jan 0001 00:00:00 GMT"), 412)
    # The last moment of that second.
    inspector.set_uploaded_at(stored + timedelta(milliseconds=999))
    assert delete_file(upload, "n", if_unmodified_since=seen).status_code == 204


def test_repeated_header_lines_are_one_list(upload: ServiceProcess, inspector: MongoInspector) -> None:
    """RFC 9110, 5.3: the second line counts as the first does."""
    url = f"{upload.url}/file/stream?filename=n"
    assert httpx.put(url, content=b"1").status_code == 201
    tags = ('"x"', etag(b"1"))
    expect_problem(httpx.put(url, content=b"2", headers=[("if-none-match", tag) for tag in tags]), 412)
    assert httpx.put(url, content=b"2", headers=[("if-match", tag) for tag in tags]).status_code == 200
    expect_problem(
        httpx.put(url, content=b"3", headers=[("content-encoding", one) for one in ("identity", "gzip")]), 415
    )


def test_one_of_many_concurrent_conditional_puts_wins(upload: ServiceProcess, inspector: MongoInspector) -> None:
    """A lost update cannot happen, and the bytes are those of the client that got 200."""
    put_file(upload, "n", b"0")
    start = threading.Barrier(8)

    def race(number: int) -> tuple[int, bytes]:
        data = bytes([number]) * (CHUNK_SIZE + 1 + number)
        start.wait()
        return put_file(upload, "n", data, if_match=etag(b"0")).status_code, data

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(race, range(8)))
    assert Counter(status for status, _ in results) == {200: 1, 412: 7}
    (winner,) = (data for status, data in results if status == 200)
    assert inspector.read_file(inspector.only_document()["current"]["file"]) == winner
    eventually(lambda: inspector.list_orphans() == [] and inspector.count_chunks() == 2)


def test_digests(upload: ServiceProcess, inspector: MongoInspector) -> None:
    """Cases 24 and 25: a wrong digest leaves nothing, an unsupported algorithm is ignored."""
    data = os.urandom(CHUNK_SIZE + 1)
    sha512 = f"sha-512=:{base64.b64encode(hashlib.sha512(data).digest()).decode()}:"
    for field in ("content_digest", "repr_digest"):
        for wrong in (
            repr_digest(b"other"),
            sha512[:-10] + "AAAAAAA==:",
            f"{repr_digest(data)}, sha-512=:AAAA:",
            "sha-256=x",
        ):
            expect_problem(put_file(upload, "n", data, **{field: wrong}), 400)
    eventually(lambda: inspector.count_chunks() == 0 and inspector.list_documents() == [])
    assert put_file(upload, "n", data, content_digest="md5=:AAAA:, id-sha-256=:AAAA:").status_code == 201
    assert put_file(upload, "n", data, content_digest=repr_digest(data), repr_digest=sha512).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"content_range": "bytes 0-1/5"}, 400), ({"content_encoding": "gzip"}, 415), ({"content_type": "x y"}, 400)],
)
def test_unsupported_put_requests(
    upload: ServiceProcess, inspector: MongoInspector, headers: dict[str, str], status: int
) -> None:
    expect_problem(put_file(upload, "n", b"x", **headers), status)
    assert inspector.list_documents() == []


@pytest.mark.parametrize(
    "query",
    ["", "?filename=", "?filename=a%2Fb", "?filename=..", "?filename=a%00b", "?filename=%FF", "?filename=a&filename=b"],
)
def test_names(upload: ServiceProcess, inspector: MongoInspector, query: str) -> None:
    for method in ("PUT", "DELETE"):
        answer = httpx.request(method, f"{upload.url}/file/stream{query}")
        expect_problem(answer, 400)
    assert "Traceback" not in upload.log


def send_raw_head(service: ServiceProcess, head: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=20)
    connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
    return connection


def test_oversized_upload_is_rejected_before_its_body(upload: ServiceProcess, inspector: MongoInspector) -> None:
    """Case 11: by Content-Length immediately, chunked when it exceeds the limit."""
    head = "PUT /file/stream?filename=n HTTP/1.1\nHost: localhost\nContent-Length: 99999999999\nExpect: 100-continue"
    with send_raw_head(upload, head) as connection:
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()
    expect_problem(put_file(upload, "n", iter([bytes(1024 * 1024)] * 17)), 413)
    eventually(lambda: inspector.count_chunks() == 0 and inspector.list_documents() == [], 5)


def test_100_continue_is_sent_only_when_the_body_is_read(upload: ServiceProcess, inspector: MongoInspector) -> None:
    put_file(upload, "n", b"x")
    wanted = "PUT /file/stream?filename=n HTTP/1.1\nHost: localhost\nContent-Length: 3\nExpect: 100-continue"
    with send_raw_head(upload, wanted + "\nIf-None-Match: *") as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 412 ")
    with send_raw_head(upload, wanted) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"abc")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("length", ["-1", "+5", "5, 6", "5 6", "0x5", ""])
def test_invalid_content_length(upload: ServiceProcess, length: str) -> None:
    """Case 10."""
    with send_raw_head(
        upload, f"PUT /file/stream?filename=n HTTP/1.1\nHost: localhost\nContent-Length: {length}"
    ) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")


def test_dangerous_media_types_are_stored_unchanged(upload: ServiceProcess, inspector: MongoInspector) -> None:
    """Cases 35 and 36: nothing is unpacked or inspected; how it is served is up to the stream service."""
    bomb = b"PK\x03\x04" + os.urandom(100)
    for name, data, kind in (("42.zip", bomb, "application/zip"), ("x.svg", b"<svg><script/></svg>", "image/svg+xml")):
        answer = put_file(upload, name, data)
        assert answer.json()["content_type"] == kind
        assert inspector.read_current(answer.json()["id"]) == data


# Limits, each with a service that has it set.


def test_upload_below_the_minimum_rate_is_408(
    start_service: StartService, env: dict[str, str], inspector: MongoInspector
) -> None:
    """Case 32: 408, and nothing is left; a resumable upload keeps the received bytes."""
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

    with send_raw_head(
        service, "PUT /file/stream?filename=n HTTP/1.1\nHost: localhost\nContent-Length: 1000"
    ) as connection:
        assert dribble(connection).startswith(b"HTTP/1.1 408 ")
    eventually(lambda: inspector.list_documents() == [], 5)
    tus = TusUpload(service)
    tus.create(length=1000)
    with tus.open_patch(service, 0, 1000) as connection:
        assert dribble(connection).startswith(b"HTTP/1.1 408 ")
    assert 0 < tus.offset() < 100


def test_concurrent_uploads_are_limited(
    start_service: StartService, env: dict[str, str], inspector: MongoInspector
) -> None:
    limits = {"GRIDCAST_MAX_CONCURRENT_UPLOADS": "2", "GRIDCAST_MAX_UPLOADS_PER_CLIENT": "2"}
    service = start_service("services.upload", **{**env, **limits})
    head = "PUT /file/stream?filename={} HTTP/1.1\nHost: localhost\nContent-Length: 3"
    with send_raw_head(service, head.format("a")) as first, send_raw_head(service, head.format("b")) as second:
        eventually(lambda: len(inspector.list_documents()) == 2)
        third = put_file(service, "c", b"x")
        expect_problem(third, 429)
        assert int(third.headers["retry-after"]) > 0
        for connection in (first, second):
            connection.sendall(b"abc")
            assert connection.recv(4096).startswith(b"HTTP/1.1 201 ")
    assert put_file(service, "c", b"x").status_code == 201


@pytest.mark.parametrize("way", ["put", "form", "tus"])
def test_one_client_does_not_take_all_slots(
    start_service: StartService, env: dict[str, str], inspector: MongoInspector, way: str
) -> None:
    """A client is the address that the gateway reports, or an IPv6 network of 64 bits. It gets half of the slots."""
    service = start_service("services.upload", **{**env, "GRIDCAST_MAX_CONCURRENT_UPLOADS": "4"})
    form = f"Content-Type: {FORM_CONTENT_TYPE}"
    tus_head = (
        "Tus-Resumable: 1.0.0\nUpload-Length: 9\nContent-Type: application/offset+octet-stream\n"
        f"Upload-Metadata: {tus_metadata(filename='x')}"
    )
    target, fields = {
        "put": ("PUT /file/stream?filename=x", "Accept: */*"),
        "form": ("POST /file/upload", form),
        "tus": ("POST /file/tus", tus_head),
    }[way]

    def begin(address: str) -> socket.socket:
        head = f"{target} HTTP/1.1\nHost: 127.0.0.1\nX-Forwarded-For: {address}\nContent-Length: 9\n{fields}"
        return send_raw_head(service, head)

    with contextlib.ExitStack() as slow:
        first = [slow.enter_context(begin(f"2001:db8::{number}")) for number in range(2)]
        refused = slow.enter_context(begin("2001:db8::9"))
        assert refused.recv(4096).startswith(b"HTTP/1.1 429 ")
        others = [slow.enter_context(begin(address)) for address in ("192.0.2.1", "192.0.2.1")]
        refused = slow.enter_context(begin("::ffff:192.0.2.1"))
        assert refused.recv(4096).startswith(b"HTTP/1.1 429 ")
        # All four are taken: a third client gets one of a client that has more.
        newcomer = {"x-forwarded-for": "192.0.2.3"}
        url = f"{service.url}/file/stream?filename=c"
        assert httpx.put(url, content=b"x", headers=newcomer).status_code == 201
        (preempted,) = select.select([*first, *others], [], [], 5)[0]
        assert preempted.recv(4096).startswith(b"HTTP/1.1 429 ")


def test_media_types(start_service: StartService, env: dict[str, str], inspector: MongoInspector) -> None:
    service = start_service("services.upload", **{**env, "GRIDCAST_ALLOWED_MEDIA_TYPES": '["video/*", "audio/ogg"]'})
    assert put_file(service, "a.webm", b"x").status_code == 201
    assert put_file(service, "a.opus", b"x").status_code == 201
    expect_problem(put_file(service, "a.html", b"x"), 415)
    expect_problem(put_file(service, "a.webm", b"x", content_type="text/html"), 415)
    expect_problem(post_form(service, form_body(form_part("file", b"x", "a.html"))), 415)
    expect_problem(TusUpload(service).create("a.html", length=1), 415)
    assert len(inspector.list_documents()) == 2


def test_free_space_minimum_is_enforced(
    start_service: StartService, env: dict[str, str], inspector: MongoInspector
) -> None:
    if isinstance(inspector, MongoInspector):  # a database that does not exist yet has no volume
        inspector.db["media"].insert_one({"folder": "", "filename": "there", "current": None, "uploads": []})
    service = start_service("services.upload", **{**env, "GRIDCAST_MIN_FREE_SPACE": str(10**15)})
    eventually(lambda: put_file(service, "n", b"x").status_code == 507, 5)
    expect_problem(post_form(service, form_body(form_part("file", b"x", "a"))), 507)
    expect_problem(TusUpload(service).create(length=1), 507)


def test_the_api_is_documented(upload: ServiceProcess) -> None:
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
