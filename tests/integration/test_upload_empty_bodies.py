"""Bodies that are framed in chunks and have no bytes, and content codings: judged alike on every way in.

A proxy makes chunks of an HTTP/2 request without a length: nginx with `proxy_request_buffering off`, cloudflared, ReverseProxy of
Go.
"""

import gzip
import socket
from typing import Any

import httpx
import pytest

from tests.support.processes import ServiceProcess
from tests.support.store_inspectors import MongoInspector
from tests.support.upload_client import (
    FORM_CONTENT_TYPE,
    OFFSET_CONTENT_TYPE,
    TUS_HEADERS,
    TusUpload,
    expect_problem,
    form_body,
    form_part,
    put_file,
    tus_metadata,
)

NO_CHUNKS = b"0\r\n\r\n"
ONE_CHUNK = b"1\r\nx\r\n0\r\n\r\n"


def send_chunked(
    upload: ServiceProcess, method: str, target: str, fields: dict[str, str], chunks: bytes = NO_CHUNKS
) -> tuple[int, dict[str, str]]:
    """Send a chunked body and return status and header fields of the response."""
    head = {"Host": "localhost", "Transfer-Encoding": "chunked", "Connection": "close", **fields}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    with socket.create_connection(("127.0.0.1", upload.port), timeout=20) as connection:
        connection.sendall(f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + chunks)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    first, *rest = received.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    return int(first.split()[1]), {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}


TUS = {"Tus-Resumable": "1.0.0"}


def test_tus_creations_in_no_chunks(upload: ServiceProcess, inspector: MongoInspector) -> None:
    named = {**TUS, "Upload-Metadata": tus_metadata(filename="a")}
    for length in ({"Upload-Length": "5"}, {"Upload-Defer-Length": "1"}):
        for kind in (
            {},
            {"Content-Type": "application/octet-stream"},
            {"Content-Type": OFFSET_CONTENT_TYPE["content-type"]},
        ):
            inspector.clear()
            status, headers = send_chunked(upload, "POST", "/file/tus", {**named, **length, **kind})
            assert (status, headers["upload-offset"]) == (201, "0"), (length, kind)
    inspector.clear()
    status, headers = send_chunked(upload, "POST", "/file/tus", {**named, "Upload-Length": "0"})
    assert (status, headers["upload-offset"]) == (201, "0")
    assert inspector.only_document()["current"]["length"] == 0


def test_a_final_concatenation_in_no_chunks(upload: ServiceProcess, inspector: MongoInspector) -> None:
    part = TusUpload(upload)
    assert part.create(None, length=3, content=b"abc", headers={"upload-concat": "partial"}).status_code == 201
    fields = {**TUS, "Upload-Concat": f"final;{part.path}", "Upload-Metadata": tus_metadata(filename="a")}
    assert send_chunked(upload, "POST", "/file/tus", fields, ONE_CHUNK)[0] == 400
    assert send_chunked(upload, "POST", "/file/tus", fields)[0] == 201
    assert inspector.only_document()["current"]["length"] == 3


def test_bytes_of_another_type_are_still_refused(upload: ServiceProcess, inspector: MongoInspector) -> None:
    fields = {**TUS, "Upload-Length": "1", "Upload-Metadata": tus_metadata(filename="a")}
    for kind in ({}, {"Content-Type": "text/plain"}):
        status, headers = send_chunked(upload, "POST", "/file/tus", {**fields, **kind}, ONE_CHUNK)
        assert (status, headers["tus-resumable"], headers["connection"]) == (415, "1.0.0", "close")
    assert inspector.list_documents() == []


def test_first_bytes_that_were_waited_for_are_stored(upload: ServiceProcess, inspector: MongoInspector) -> None:
    fields = {**TUS, "Upload-Length": "1", "Upload-Metadata": tus_metadata(filename="a"), **OFFSET_CONTENT_TYPE}
    assert send_chunked(upload, "POST", "/file/tus", fields, ONE_CHUNK)[0] == 201
    document = inspector.only_document()
    assert inspector.read_file(document["current"]["file"]) == b"x"


def test_every_other_request_in_no_chunks(upload: ServiceProcess, inspector: MongoInspector) -> None:
    tus = TusUpload(upload)
    assert tus.create("t", length=3).status_code == 201
    offset = {**TUS, **OFFSET_CONTENT_TYPE, "Upload-Offset": "0"}
    override = {**TUS, "X-HTTP-Method-Override": "HEAD"}
    for method, target, fields, status in (
        ("PUT", "/file/stream?filename=a", {}, 201),
        ("PUT", "/file/stream?filename=a", {}, 200),
        ("DELETE", "/file/stream?filename=a", {}, 204),
        ("OPTIONS", "/file/tus", {}, 204),
        ("HEAD", tus.path, TUS, 200),
        ("PATCH", tus.path, offset, 204),
        ("POST", tus.path, override, 200),
        ("POST", tus.path, {**override, **offset, "X-HTTP-Method-Override": "PATCH"}, 204),
        ("DELETE", tus.path, TUS, 204),
        ("GET", "/livez", {}, 200),
        ("POST", "/file/upload", {"Content-Type": FORM_CONTENT_TYPE}, 400),
    ):
        assert send_chunked(upload, method, target, fields)[0] == status, (method, target, fields)
    assert "Traceback" not in upload.log


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, zstd", "x-unknown"])
def test_content_codings_are_refused_on_every_way_in(
    upload: ServiceProcess, inspector: MongoInspector, coding: str
) -> None:
    tus = TusUpload(upload)
    assert tus.create("t", length=3).status_code == 201
    packed = gzip.compress(b"abc")
    coded = {"content-encoding": coding}
    form = form_body(form_part("file", b"x", "f"))
    created = {**TUS_HEADERS, "upload-length": str(len(packed)), "upload-metadata": tus_metadata(filename="c")}
    answers: list[httpx.Response] = [
        put_file(upload, "p", packed, content_encoding=coding),
        httpx.post(f"{upload.url}/file/upload", content=form, headers={"content-type": FORM_CONTENT_TYPE, **coded}),
        httpx.post(f"{upload.url}/file/tus", content=packed, headers={**created, **OFFSET_CONTENT_TYPE, **coded}),
        tus.patch(0, packed, headers=coded),
        httpx.post(
            upload.url + tus.path,
            content=packed,
            headers={
                **TUS_HEADERS,
                **OFFSET_CONTENT_TYPE,
                **coded,
                "upload-offset": "0",
                "x-http-method-override": "PATCH",
            },
        ),
    ]
    for number, answer in enumerate(answers):
        assert "Content-Encoding" in expect_problem(answer, 415), number
        assert answer.headers["accept-encoding"] == "identity"
        assert number < 2 or answer.headers["tus-resumable"] == "1.0.0"
    document: dict[str, Any] = inspector.only_document()
    assert (document["filename"], document["uploads"][0]["offset"]) == ("t", 0)
    assert tus.patch(0, b"abc", headers={"content-encoding": "identity"}).status_code == 204
