"""GET and HEAD /file/stream and GET /file/info on a running service and MongoDB: responses and rejections."""

import contextlib
import hashlib
import os
import random
import re
import socket
import time
from email import message_from_bytes, policy
from http.client import HTTPConnection

import httpx
import pytest

from deploy.local.ports import free_ports
from services.stream.inline_types import INLINE_POLICY
from tests.support.databases import ServerProcess, storage_env
from tests.support.media_library import BOUNDARY_SIZES, MediaServices
from tests.support.processes import ServiceProcess, StartService
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_inspectors import MongoInspector
from tests.support.waiting import eventually

SIZE = 3 * CHUNK_SIZE + 1000
DATA = random.Random(5).randbytes(SIZE)
ETAG = f'"sha256-{hashlib.sha256(DATA).hexdigest()}"'


@pytest.fixture(scope="module")
def media_services(media_services: MediaServices) -> MediaServices:
    """With two files."""
    media_services.put("a.webm", DATA)
    media_services.put("empty.webm", b"")
    return media_services


def send_raw(service: ServiceProcess, request: bytes, *, until_closed: bool = True) -> bytes:
    """The response to exactly these bytes."""
    with contextlib.closing(socket.create_connection(("127.0.0.1", service.port), 10)) as client:
        client.sendall(request)
        answer = b""
        while piece := client.recv(1 << 16):
            answer += piece
            if not until_closed and b"\r\n\r\n" in answer:
                break
        return answer


def test_whole_file_with_all_its_headers(media_services: MediaServices) -> None:
    answer = media_services.get("a.webm")
    assert answer.status_code == 200
    assert answer.content == DATA
    said = answer.headers
    assert said["content-type"] == "video/webm"
    assert said["content-length"] == str(SIZE)
    assert said["accept-ranges"] == "bytes"
    assert said["etag"] == ETAG
    assert said["content-disposition"] == 'inline; filename="a.webm"'
    assert said["x-content-type-options"] == "nosniff"
    assert said["content-security-policy"] == INLINE_POLICY.decode()
    assert said["cross-origin-resource-policy"] == "same-origin"
    assert said["cache-control"] == "no-cache"
    assert said["repr-digest"].startswith("sha-256=:")
    assert "last-modified" in said
    assert "content-encoding" not in said


@pytest.mark.parametrize(
    ("header", "first", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=-1", SIZE - 1, SIZE),
        ("bytes=0-", 0, SIZE),
        ("bytes=1000-1999", 1000, 2000),
        (f"bytes={CHUNK_SIZE - 1}-{CHUNK_SIZE}", CHUNK_SIZE - 1, CHUNK_SIZE + 1),
        (f"bytes={CHUNK_SIZE}-{2 * CHUNK_SIZE - 1}", CHUNK_SIZE, 2 * CHUNK_SIZE),
        (f"bytes={CHUNK_SIZE + 1}-", CHUNK_SIZE + 1, SIZE),
        ("bytes=-700", SIZE - 700, SIZE),
        (f"bytes=-{10**30}", 0, SIZE),
        (f"bytes=5-{10**30}", 5, SIZE),
        ("bytes=0-9,10-19", 0, 20),
        ("BYTES=0-9", 0, 10),
    ],
)
def test_a_range_is_exact(media_services: MediaServices, header: str, first: int, end: int) -> None:
    """Case 37 and similar ones."""
    answer = media_services.get("a.webm", {"range": header})
    assert answer.status_code == 206
    assert answer.content == DATA[first:end]
    assert answer.headers["content-range"] == f"bytes {first}-{end - 1}/{SIZE}"
    assert answer.headers["content-length"] == str(end - first)
    assert answer.headers["content-type"] == "video/webm"


@pytest.mark.parametrize(
    "header",
    ["bytes=9-5", "bytes=abc", "bytes=", "bytes=--5", "items=0-5", "bytes=1_0-20", "bytes=+0-5", "0-5", "bytes"],
)
def test_invalid_range_is_ignored(media_services: MediaServices, header: str) -> None:
    """Cases 38, 39 and 43."""
    assert media_services.get("a.webm", {"range": header}).status_code == 200


@pytest.mark.parametrize("digits", [b"\xb2", "\u0665".encode(), b"\xff"])
def test_non_ascii_digits_are_rejected(media_services: MediaServices, digits: bytes) -> None:
    """Case 43, as raw bytes."""
    head = (
        b"GET /file/stream?filename=a.webm HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nRange: bytes=" + digits
    )
    answer = send_raw(media_services.stream, head + b"-5\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(DATA[-1000:])


@pytest.mark.parametrize("header", [f"bytes={SIZE}-", "bytes=-0", f"bytes={10**30}-", f"bytes={10**18}-{10**18}"])
def test_range_past_the_end_is_416(media_services: MediaServices, header: str) -> None:
    """Cases 40, 41 and 42."""
    answer = media_services.get("a.webm", {"range": header})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{SIZE}"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 416


@pytest.mark.parametrize(
    ("header", "status"),
    [(None, 200), ("bytes=0-", 416), ("bytes=0-0", 416), ("bytes=-0", 416), ("bytes=-5", 200), ("bytes=5-1", 200)],
)
def test_an_empty_file(media_services: MediaServices, header: str | None, status: int) -> None:
    """Case 49."""
    answer = media_services.get("empty.webm", {"range": header} if header else {})
    assert answer.status_code == status
    if status == 200:
        assert answer.content == b""
        assert answer.headers["content-length"] == "0"
    else:
        assert answer.headers["content-range"] == "bytes */0"


def test_several_ranges(media_services: MediaServices) -> None:
    header = f"bytes=0-9, {CHUNK_SIZE - 5}-{CHUNK_SIZE + 4}, -10"
    answer = media_services.get("a.webm", {"range": header})
    assert answer.status_code == 206
    assert "content-range" not in answer.headers
    assert answer.headers["content-length"] == str(len(answer.content))
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n"
    message = message_from_bytes(head.encode() + answer.content, policy=policy.default)
    for part, (first, end) in zip(
        message.iter_parts(), [(0, 10), (CHUNK_SIZE - 5, CHUNK_SIZE + 5), (SIZE - 10, SIZE)], strict=True
    ):
        assert part["content-range"] == f"bytes {first}-{end - 1}/{SIZE}"
        assert DATA[first:end] in answer.content


def test_more_than_sixteen_ranges_are_the_whole_file(media_services: MediaServices) -> None:
    header = "bytes=" + ",".join(f"{n * 10}-{n * 10}" for n in range(17))
    answer = media_services.get("a.webm", {"range": header})
    assert (answer.status_code, answer.content) == (200, DATA)


def test_head_is_get_without_a_body_and_without_range(media_services: MediaServices) -> None:
    """Case 48."""
    head, get = media_services.get("a.webm", {"range": "bytes=0-5"}, "HEAD"), media_services.get("a.webm")
    assert head.status_code == 200
    assert head.content == b""
    own = {"date", "x-request-id"}
    assert {k: v for k, v in head.headers.items() if k not in own} == {
        k: v for k, v in get.headers.items() if k not in own
    }


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if-none-match": ETAG}, 304),
        ({"if-none-match": f'W/{ETAG}, "x"'}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-none-match": ETAG, "range": "bytes=0-1"}, 304),
        ({"if-none-match": '"x"', "range": "bytes=0-1"}, 206),
        ({"if-match": '"x"'}, 412),
        ({"if-match": f"W/{ETAG}"}, 412),
        ({"if-match": ETAG, "range": "bytes=0-1"}, 206),
        ({"if-modified-since": "Fri, 01 Jan 2100 00:00:00 GMT"}, 304),
        ({"if-modified-since": "Fri, 01 Jan 2010 00:00:00 GMT"}, 200),
        ({"if-modified-since": "yesterday"}, 200),
        ({"if-unmodified-since": "Fri, 01 Jan 2010 00:00:00 GMT"}, 412),
        ({"if-unmodified-since": "Fri, 01 Jan 2100 00:00:00 GMT"}, 200),
        ({"if-unmodified-since": "tomorrow"}, 200),
        ({"if-range": ETAG, "range": "bytes=0-1"}, 206),
        ({"if-range": f"W/{ETAG}", "range": "bytes=0-1"}, 200),
        ({"if-range": '"old"', "range": "bytes=0-1"}, 200),
        ({"if-range": "Fri, 01 Jan 2010 00:00:00 GMT", "range": "bytes=0-1"}, 200),
        ({"if-range": '"old"', "range": f"bytes={SIZE}-"}, 200),
    ],
)
def test_preconditions(media_services: MediaServices, headers: dict[str, str], status: int) -> None:
    """Cases 45, 46, 47 and 50."""
    for method in ("GET", "HEAD"):
        answer = media_services.get("a.webm", headers, method)
        assert answer.status_code == (200 if method == "HEAD" and status == 206 else status)
        if status == 304:
            assert answer.content == b""
            assert answer.headers["etag"] == ETAG
            assert "content-length" not in answer.headers
            assert answer.headers["cache-control"] == "no-cache"


def test_last_modified_as_a_validator(media_services: MediaServices) -> None:
    modified = media_services.get("a.webm", method="HEAD").headers["last-modified"]
    assert media_services.get("a.webm", {"if-modified-since": modified}).status_code == 304
    assert media_services.get("a.webm", {"if-unmodified-since": modified}).status_code == 200


def test_versions_of_one_second_are_never_mixed(media_services: MediaServices) -> None:
    """They have the same date, so a date does not tell of which one the client has the beginning."""
    url = f"{media_services.upload.url}/file/stream"
    for _ in range(20):
        media_services.http_client.put(url, params={"filename": "second.bin"}, content=b"old" * 10)
        old = media_services.get("second.bin", {"cache-control": "no-cache"})
        media_services.http_client.put(url, params={"filename": "second.bin"}, content=b"new" * 10)
        new = media_services.get("second.bin", {"cache-control": "no-cache"})
        if (date := old.headers["last-modified"]) == new.headers["last-modified"]:
            break
    else:
        pytest.fail("no two within a second")
    time.sleep(1.1)
    answer = media_services.get("second.bin", {"if-range": date, "range": "bytes=15-"})
    assert (answer.status_code, answer.content) == (200, b"new" * 10)


@pytest.mark.parametrize("size", BOUNDARY_SIZES)
def test_every_chunk_and_batch_boundary(media_services: MediaServices, size: int) -> None:
    data = os.urandom(size)
    name = f"edge-{size}.bin"
    media_services.put(name, data, content_type="application/x-edge")
    assert media_services.get(name).content == data
    for first in {0, size // 2, max(0, size - CHUNK_SIZE - 1), max(0, size - 1)} if size else set():
        assert media_services.get(name, {"range": f"bytes={first}-"}).content == data[first:]
        assert media_services.get(name, {"range": f"bytes=-{first + 1}"}).content == data[-first - 1 :]


def test_file_info(media_services: MediaServices) -> None:
    identifier = media_services.put("info.webm", b"12345", "a/b")
    answer = media_services.http_client.get(
        f"{media_services.stream.url}/file/info", params={"filename": "info.webm", "folder": "a/b"}
    )
    assert answer.status_code == 200
    said = answer.json()
    assert said.pop("uploaded_at").endswith("+00:00")
    digest = hashlib.sha256(b"12345").hexdigest()
    assert said == {
        "id": identifier,
        "folder": "a/b",
        "filename": "info.webm",
        "length": 5,
        "content_type": "video/webm",
        "sha256": digest,
        "etag": f'"sha256-{digest}"',
        "metadata": {},
        "media_facts": None,
        "poster": None,
        "revision": 1,
        "owner": None,
    }


@pytest.mark.parametrize("path", ["stream", "info"])
@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("filename=missing", 404, "file not found"),
        ("filename=a.webm&folder=elsewhere", 404, "file not found"),
        ("", 400, "Validation Error: "),
        ("filename=", 400, "Validation Error: "),
        ("filename=..", 400, "Validation Error: "),
        ("filename=../../etc/passwd", 400, "Validation Error: "),
        ("filename=a%5Cb", 400, "Validation Error: "),
        ("filename=a%00b", 400, "Validation Error: "),
        ("filename=a%0D%0Ab", 400, "Validation Error: "),
        ("filename=a%E2%80%AEb", 400, "Validation Error: "),
        ("filename=a&folder=/a", 400, "Validation Error: "),
        ("filename=a&folder=a/../b", 400, "Validation Error: "),
        ("filename=" + "a" * 256, 400, "Validation Error: "),
        ("filename=a&folder=" + "a/" * 700, 400, "Validation Error: "),
        ("filename[$ne]=1", 400, "Validation Error: "),
        ("filename=%7B%22%24ne%22%3A1%7D", 404, "file not found"),
        ("filename=$where", 404, "file not found"),
    ],
)
def test_unknown_and_invalid_names(
    media_services: MediaServices, path: str, query: str, status: int, words: str
) -> None:
    answer = media_services.http_client.get(f"{media_services.stream.url}/file/{path}?{query}")
    assert answer.status_code == status
    assert answer.json()["detail"].startswith(words)
    assert "Traceback" not in media_services.stream.log


@pytest.mark.parametrize("path", ["file/stream", "file/info", "file", "file/folders"])
@pytest.mark.parametrize(
    "query",
    [
        "filename=a.webm&x=%FF",
        "filename=%FF",
        "filename=b&filename=a.webm",
        "filename=a.webm&folder=x&folder=",
        "filename=a.webm&after=&after=",
        "f&" * 40,
    ],
)
def test_invalid_queries_are_rejected(media_services: MediaServices, path: str, query: str) -> None:
    """The same rule for all routes: otherwise one would describe another file than the one that is sent."""
    assert media_services.stream.is_ready()
    answer = media_services.http_client.get(f"{media_services.stream.url}/{path}?{query}")
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("Validation Error: ")


@pytest.mark.parametrize("method", ["POST", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "PUT", "DELETE"])
def test_other_methods(media_services: MediaServices, method: str) -> None:
    """Case 56. Methods that write belong to the upload service; the gateway routes them."""
    answer = media_services.http_client.request(method, media_services.url("a.webm"))
    assert answer.status_code == 405
    assert set(answer.headers["allow"].replace(" ", "").split(",")) == {"GET", "HEAD"}


def test_unknown_method(media_services: MediaServices) -> None:
    """Case 56: the HTTP parser rejects it before there is a request, so that no Allow can be sent."""
    assert send_raw(
        media_services.stream, b"FOO /file/stream?filename=a.webm HTTP/1.1\r\nHost: localhost\r\n\r\n"
    ).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("name", ['q"uote;.webm', "%41.webm", "späß €.webm", "a'b.webm"])
def test_filename_is_one_well_formed_content_disposition(media_services: MediaServices, name: str) -> None:
    """Case 55. CR and LF never get into a name."""
    identifier = media_services.put("plain.webm", b"x")
    media_services.inspector.rename(identifier, name)
    answer = media_services.get(name)
    assert answer.status_code == 200
    (field,) = answer.headers.get_list("content-disposition")
    assert field.startswith('inline; filename="')
    assert field.isascii()


@pytest.mark.parametrize("number", [0, 1, 9, 11])
def test_missing_chunk_aborts_the_connection(media_services: MediaServices, number: int) -> None:
    """Case 52: nothing after it is sent, and the response does not look complete."""
    data = os.urandom(12 * CHUNK_SIZE)
    name = f"broken-{number}.bin"
    identifier = media_services.put(name, data)
    media_services.delete_chunk(identifier, number)
    status, got, whole = read_until_cut(media_services, name)
    assert (status, whole) == (200, False)
    assert len(got) <= number * CHUNK_SIZE
    assert data.startswith(got)
    assert f"file {media_services.current_file_id(identifier)}" in media_services.stream.log
    assert "Traceback" not in media_services.stream.log
    if isinstance(media_services.inspector, MongoInspector):  # a file of another length is not read at all
        rest = {"range": f"bytes={(number + 1) * CHUNK_SIZE}-"}
        assert number == 11 or media_services.get(name, rest).content == data[(number + 1) * CHUNK_SIZE :]


def test_corrupt_files_are_counted(
    media_services: MediaServices, start_service: StartService, mongod: ServerProcess, redis_url: str
) -> None:
    (port,) = free_ports(1)
    env = storage_env(mongod, redis_url, "test_stream_download", GRIDCAST_METRICS_PORT=str(port))
    service = start_service("services.stream", **env)

    def counted() -> float:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        found = re.search(r"^gridcast_corrupt_files_total ([0-9.]+)$", text, re.MULTILINE)
        assert found, text
        return float(found[1])

    assert counted() == 0
    media_services.delete_chunk(media_services.put("counted.bin", os.urandom(2 * CHUNK_SIZE)), 1)
    for times in (1, 2):
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            httpx.get(media_services.url("counted.bin", service=service))
        assert counted() == times


def test_chunk_of_a_wrong_size_aborts_the_connection(media_services: MediaServices) -> None:
    identifier = media_services.put("short.bin", os.urandom(2 * CHUNK_SIZE))
    media_services.inspector.damage_block(media_services.current_file_id(identifier), 1)
    status, got, whole = read_until_cut(media_services, "short.bin")
    assert (status, whole) == (200, False)
    assert len(got) <= CHUNK_SIZE


def read_until_cut(lib: MediaServices, name: str) -> tuple[int, bytes, bool]:
    """Status, the bytes received, and whether the response looked complete."""
    got = b""
    with httpx.stream("GET", lib.url(name)) as answer:
        try:
            for piece in answer.iter_raw():
                got += piece
        except (httpx.RemoteProtocolError, httpx.ReadError):
            return answer.status_code, got, False
        return answer.status_code, got, True


def test_unavailable_mongodb_is_reported_within_three_seconds(start_service: StartService, redis_url: str) -> None:
    service = start_service(
        "services.stream", ready=False, GRIDCAST_MONGODB_URI="mongodb://127.0.0.1:1", GRIDCAST_REDIS_URL=redis_url
    )
    eventually(lambda: httpx.get(f"{service.url}/livez").status_code == 200, 15)
    answer = httpx.get(f"{service.url}/file/stream?filename=a")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.elapsed.total_seconds() < 3


def test_reading_works_without_redis(
    media_services: MediaServices, start_service: StartService, mongod: ServerProcess
) -> None:
    env = storage_env(mongod, "redis://127.0.0.1:1/0", "test_stream_download")
    service = start_service("services.stream", **env)
    assert service.is_ready()
    assert httpx.get(media_services.url("a.webm", service=service)).content == DATA


def test_both_mongodb_drivers_read_the_same(
    media_services: MediaServices, start_service: StartService, mongod: ServerProcess, redis_url: str
) -> None:
    """PyMongo's own asyncio API instead of Motor: every kind of query that the reader makes."""
    env = storage_env(mongod, redis_url, "test_stream_download", GRIDCAST_MONGODB_DRIVER="pymongo")
    service = start_service("services.stream", **env)
    assert service.is_ready()
    assert httpx.get(media_services.url("a.webm", service=service)).content == DATA
    part = httpx.get(
        media_services.url("a.webm", service=service), headers={"range": f"bytes={CHUNK_SIZE - 2}-{CHUNK_SIZE + 1}"}
    )
    assert part.content == DATA[CHUNK_SIZE - 2 : CHUNK_SIZE + 2]
    assert httpx.get(media_services.url("missing", service=service)).status_code == 404
    for path in ("/file?limit=2", "/file?q=edge&limit=3", "/file/folders", "/file/info?filename=a.webm"):
        answers = [httpx.get(f"{one.url}{path}") for one in (service, media_services.stream)]
        assert answers[0].status_code == 200
        assert answers[0].json() == answers[1].json()


def test_error_response_keeps_the_connection(media_services: MediaServices) -> None:
    """Unless a body came with the request: the rest of it is not worth reading."""
    with contextlib.closing(HTTPConnection("127.0.0.1", media_services.stream.port, timeout=10)) as connection:
        for fields in ({}, {"range": "bytes=99999999999-"}, {"if-match": '"other"'}, {}):
            connection.request("GET", "/file/stream?filename=nobody", headers=fields)
            answer = connection.getresponse()
            assert (answer.status, answer.getheader("connection")) == (404, None)
            answer.read()
        connection.request("GET", "/file/stream?filename=nobody", body=b"x")
        assert connection.getresponse().getheader("connection") == "close"
