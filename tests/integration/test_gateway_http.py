"""The gateway before scripted upstreams: routing, headers, bodies, rejections."""

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.support.processes import ServiceProcess, run_service
from tests.support.raw_sockets import close_with_reset, receive_until_closed, receive_until_eof
from tests.support.scripted_upstream import (
    ReceivedRequest,
    ScriptedUpstream,
    open_connection,
    parse_statuses,
    read_body,
    respond_with,
    run_upstream,
    send_raw,
    send_request,
)
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def upstreams() -> Iterator[dict[str, ScriptedUpstream]]:
    with run_upstream() as upload, run_upstream() as stream, run_upstream() as sockets, run_upstream() as live:
        yield {"upload": upload, "stream": stream, "socket": sockets, "live": live}


@pytest.fixture(scope="module")
def gateway_process(
    upstreams: dict[str, ScriptedUpstream], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    env = {f"GRIDCAST_{name.upper()}_URLS": service.url for name, service in upstreams.items()}
    env["GRIDCAST_ALLOWED_HOSTS"] = "*"
    with run_service("gateway", tmp_path_factory.mktemp("gateway"), env) as gateway:
        yield gateway


@pytest.fixture
def gateway(gateway_process: ServiceProcess, upstreams: dict[str, ScriptedUpstream]) -> ServiceProcess:
    for service in upstreams.values():
        service.reset()
    return gateway_process


@pytest.fixture
def stream_upstream(upstreams: dict[str, ScriptedUpstream]) -> ScriptedUpstream:
    return upstreams["stream"]


@pytest.fixture
def upload_upstream(upstreams: dict[str, ScriptedUpstream]) -> ScriptedUpstream:
    return upstreams["upload"]


@pytest.mark.parametrize(
    ("method", "target", "service"),
    [
        ("GET", "/file", "stream"),
        ("GET", "/file/stream?filename=a&folder=b%2Fc", "stream"),
        ("HEAD", "/file/stream?filename=a", "stream"),
        ("HEAD", "/file", "stream"),
        ("HEAD", "/file/info?filename=a", "stream"),
        ("HEAD", "/sockets/ABC", "socket"),
        ("PUT", "/file/stream?filename=a", "upload"),
        ("DELETE", "/file/stream?filename=a", "upload"),
        ("POST", "/file/upload", "upload"),
        ("OPTIONS", "/file/tus", "upload"),
        ("PATCH", "/file/tus/abc", "upload"),
        ("GET", "/sockets", "socket"),
        ("POST", "/live/abc/key/-_token/media?sid=1", "live"),
        ("GET", "/live/abc/0/12.m4s?link=x", "stream"),
        ("POST", "/sockets/ABC/messages?wait=1", "socket"),
    ],
)
def test_each_request_reaches_its_service_unchanged(
    gateway: ServiceProcess, upstreams: dict[str, ScriptedUpstream], method: str, target: str, service: str
) -> None:
    response = send_request(gateway.port, method, target)
    assert response.status == 200
    assert response.body == (b"" if method == "HEAD" else b"ok")
    (seen,) = upstreams[service].requests
    assert (seen.method, seen.target) == (method, target)
    assert not any(other.requests for name, other in upstreams.items() if name != service)


@pytest.mark.parametrize("target", ["/file/stream?filename=%C3%A9+%20%2b~%7E|{}&x", "/file?q=a?b/c\\d", "/file?a=%zz;"])
def test_the_target_is_sent_on_byte_for_byte(
    gateway: ServiceProcess, stream_upstream: ScriptedUpstream, target: str
) -> None:
    raw = f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
    assert parse_statuses(send_raw(gateway.port, raw)) == [200]
    assert stream_upstream.requests[0].target == target


def test_an_unknown_path_is_404_and_a_wrong_method_405_with_allow_over_all_services(gateway: ServiceProcess) -> None:
    response = send_request(gateway.port, "GET", "/nothing")
    assert response.status == 404
    assert response.headers["content-type"] == "application/problem+json"
    response = send_request(gateway.port, "POST", "/file/stream")
    assert response.status == 405
    assert response.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PUT"
    assert response.json["status"] == 405


def test_preflight_is_not_forwarded_upstream(gateway: ServiceProcess, upload_upstream: ScriptedUpstream) -> None:
    response = send_request(
        gateway.port, "OPTIONS", "/file/tus", headers={"Access-Control-Request-Method": "POST", "Origin": "http://a"}
    )
    assert response.status == 204
    assert not upload_upstream.requests


def test_forwarded_headers_describe_the_client(gateway: ServiceProcess, stream_upstream: ScriptedUpstream) -> None:
    headers = {
        "Host": "media.example:8000",
        "Connection": "x-forwarded-for, X-Private",
        "X-Private": "1",
        "X-Forwarded-For": "6.6.6.6",
        "X-Forwarded-Proto": "https",
        "Forwarded": "for=6.6.6.6",
        "X-Request-ID": "abc-1",
        "Range": "bytes=0-1",
    }
    send_request(gateway.port, "GET", "/file", headers=headers)
    (seen,) = stream_upstream.requests
    assert seen.get_all("x-forwarded-for") == ["127.0.0.1"]
    assert seen.get_all("x-forwarded-proto") == ["http"]
    assert seen.get_all("x-forwarded-host") == seen.get_all("host") == ["media.example:8000"]
    (identifier,) = seen.get_all("x-request-id")
    assert re.fullmatch("[0-9a-f]{16}", identifier), "a client's request id is not trusted"
    assert seen.get_all("range") == ["bytes=0-1"]
    assert not [
        name for name, _ in seen.headers if name.lower() in {"x-private", "forwarded", "connection", "user-agent"}
    ]


def test_http_1_0_request_needs_no_host(gateway: ServiceProcess, stream_upstream: ScriptedUpstream) -> None:
    assert parse_statuses(send_raw(gateway.port, b"GET /file HTTP/1.0\r\n\r\n")) == [200]
    (seen,) = stream_upstream.requests
    assert seen.get_all("host") == seen.get_all("x-forwarded-host") == [f"127.0.0.1:{gateway.port}"]


def test_underscored_spellings_are_dropped(gateway: ServiceProcess, stream_upstream: ScriptedUpstream) -> None:
    raw = b"GET /file HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 6.6.6.6\r\nConnection: close\r\n\r\n"
    assert parse_statuses(send_raw(gateway.port, raw)) == [200]
    assert not any("_" in name for name, _ in stream_upstream.requests[0].headers)


def test_response_headers_reach_the_client(gateway: ServiceProcess, stream_upstream: ScriptedUpstream) -> None:
    stream_upstream.responder = respond_with(
        b'HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\nETag: "a"\r\nX-Own: 1\r\nConnection: x-own\r\n'
        b"Location: http://10.0.0.7:8002/file/stream?x=1\r\nServer: secret\r\nDate: never\r\nKeep-Alive: timeout=5\r\n"
        b"Content-Encoding: gzip\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nok"
    )
    response = send_request(gateway.port, "GET", "/file/stream", headers={"X-Request-ID": "abc-2"})
    assert response.status == 206
    assert response.body == b"ok"
    assert response.headers["etag"] == '"a"'
    assert response.headers["location"] == "/file/stream?x=1"
    assert response.headers["content-encoding"] == "gzip"
    assert response.headers.get_all("set-cookie") == ["a=1", "b=2"]
    assert response.headers.get_all("x-request-id") == stream_upstream.requests[0].get_all("x-request-id") != ["abc-2"]
    assert len(response.headers.get_all("date") or []) == 1
    assert "never" not in response.headers["date"]
    assert not {"x-own", "server", "keep-alive"} & {name.lower() for name in response.headers}


@pytest.mark.parametrize("chunked", [False, True])
def test_request_body_arrives_complete(
    gateway: ServiceProcess, upload_upstream: ScriptedUpstream, *, chunked: bool
) -> None:
    body = bytes(range(256)) * 4096
    pieces = (body[at : at + 70_000] for at in range(0, len(body), 70_000))
    headers = {} if chunked else {"Content-Length": str(len(body))}
    assert send_request(gateway.port, "PUT", "/file/stream?filename=a", pieces, headers).status == 200
    (seen,) = upload_upstream.requests
    assert seen.body == body
    assert seen.complete
    assert (seen.get("transfer-encoding"), seen.get("content-length")) == (
        ("chunked", None) if chunked else (None, str(len(body)))
    )


def test_empty_body_stays_empty(gateway: ServiceProcess, upload_upstream: ScriptedUpstream) -> None:
    assert (
        send_request(gateway.port, "POST", "/file/tus", headers={"Content-Length": "0", "Upload-Length": "5"}).status
        == 200
    )
    assert upload_upstream.requests[0].get("content-length") == "0"


def test_response_is_streamed(gateway: ServiceProcess, stream_upstream: ScriptedUpstream) -> None:
    """The second half is sent after the first was received: a gateway that buffered would wait for ever."""
    first_half_received = threading.Event()

    async def slowly(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen, reader
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await asyncio.to_thread(first_half_received.wait, 10)
        writer.write(b"1\r\nb\r\n0\r\n\r\n")

    stream_upstream.responder = slowly
    with open_connection(gateway.port) as client:
        client.sendall(b"GET /file/stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        received = b""
        while not received.endswith(b"1\r\na\r\n"):
            received += client.recv(65536)
        first_half_received.set()
        assert receive_until_closed(client).endswith(b"1\r\nb\r\n0\r\n\r\n")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_response_without_a_length_is_chunked_for_http_1_1_clients(
    gateway: ServiceProcess, stream_upstream: ScriptedUpstream, version: bytes
) -> None:
    stream_upstream.responder = respond_with(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
    )
    received = send_raw(gateway.port, b"GET /file HTTP/" + version + b"\r\nHost: a\r\nConnection: close\r\n\r\n")
    head, _, body = received.partition(b"\r\n\r\n")
    assert (b"chunked" in head) is (version == b"1.1")
    assert (body == b"abcdefg") is (version == b"1.0")


@pytest.mark.parametrize(
    ("status", "line"), [(204, b"204 No Content"), (304, b"304 Not Modified\r\nContent-Length: 9")]
)
def test_responses_without_a_body(
    gateway: ServiceProcess, stream_upstream: ScriptedUpstream, status: int, line: bytes
) -> None:
    stream_upstream.responder = respond_with(b"HTTP/1.1 " + line + b"\r\n\r\n")
    response = send_request(gateway.port, "GET", "/file/stream")
    assert response.status == status
    assert response.body == b""


def test_head_keeps_the_length(gateway: ServiceProcess, stream_upstream: ScriptedUpstream) -> None:
    stream_upstream.responder = respond_with(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")
    response = send_request(gateway.port, "HEAD", "/file/stream")
    assert response.headers["content-length"] == "12345"


def test_redirect_is_passed_through(gateway: ServiceProcess, stream_upstream: ScriptedUpstream) -> None:
    stream_upstream.responder = respond_with(
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/x\r\nContent-Length: 0\r\n\r\n"
    )
    response = send_request(gateway.port, "GET", "/file/stream")
    assert (response.status, response.headers["location"]) == (302, "/x")


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * (1 << 20) + b"\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 5000 + b"Content-Length: 2\r\n\r\nok",
        b"SMTP ready\r\n\r\n",
        b"",
        b"HTTP/1.1 600 Odd\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 999 Odd\r\n\r\n",
        b"HTTP/1.1 000 Odd\r\n\r\n",
    ],
    ids=["cl+te", "two cl", "gzip te", "1 MiB field", "5000 fields", "no http", "silence", "600", "999", "000"],
)
def test_invalid_upstream_response_becomes_502(
    gateway: ServiceProcess, stream_upstream: ScriptedUpstream, raw: bytes
) -> None:
    async def respond(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen, reader
        writer.write(raw)
        await writer.drain()
        writer.close()

    stream_upstream.responder = respond
    answer_ = send_request(gateway.port, "GET", "/file/stream")
    assert answer_.status == 502
    assert answer_.json["title"] == "Bad Gateway"
    assert "Traceback" not in gateway.log


@pytest.mark.parametrize("head", [b"Content-Length: 100000", b"Transfer-Encoding: chunked"], ids=["length", "chunked"])
def test_truncated_upstream_response_resets_the_client(
    gateway: ServiceProcess, stream_upstream: ScriptedUpstream, head: bytes
) -> None:
    async def half(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen, reader
        writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n400\r\n" + b"a" * 1024)
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.transport.abort()

    stream_upstream.responder = half
    with open_connection(gateway.port) as client:
        client.sendall(b"GET /file/stream HTTP/1.1\r\nHost: a\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            receive_until_eof(client)


def test_early_rejection_is_relayed_and_the_rest_of_the_body_not_read(
    gateway: ServiceProcess, upload_upstream: ScriptedUpstream
) -> None:
    async def refuse(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen, reader
        writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")

    upload_upstream.responder = refuse
    with open_connection(gateway.port) as client:
        client.sendall(
            b"PUT /file/stream?filename=a HTTP/1.1\r\nHost: a\r\nContent-Length: 500000000\r\n\r\n" + b"a" * 70_000
        )
        received = receive_until_closed(client)
    assert parse_statuses(received) == [413]
    assert b"connection: close" in received


@pytest.mark.parametrize("refused", [True, False])
def test_expect_continue_is_decided_by_the_service(
    gateway: ServiceProcess, upload_upstream: ScriptedUpstream, *, refused: bool
) -> None:
    async def decide(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if refused:
            writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            await asyncio.sleep(0.2)
            assert not reader._buffer  # type: ignore[attr-defined]  # nothing was sent before it was asked for
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await read_body(seen, reader)
            writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    upload_upstream.responder = decide
    with open_connection(gateway.port) as client:
        client.sendall(
            b"PUT /file/stream?filename=a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
        first = client.recv(65536)
        if refused:
            assert first.startswith(b"HTTP/1.1 401 ")
            assert not receive_until_closed(client)
        else:
            assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.sendall(b"hello")
            assert client.recv(65536).startswith(b"HTTP/1.1 201 ")
            assert upload_upstream.requests[0].body == b"hello"


def test_client_disconnect_cancels_the_upstream_request(
    gateway: ServiceProcess, stream_upstream: ScriptedUpstream, upload_upstream: ScriptedUpstream
) -> None:
    async def wait(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen, writer
        while await reader.read(65536):
            pass

    def has_active_requests(service: ScriptedUpstream, count: int) -> bool:
        return service.active_requests == count

    stream_upstream.responder = upload_upstream.responder = wait
    put = b"PUT /file/stream?filename=a HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\nabc"
    for service, raw, reset in (
        # Behind a complete request a FIN may be half of a close.
        (stream_upstream, b"GET /file/stream HTTP/1.1\r\nHost: a\r\n\r\n", True),
        (upload_upstream, put, True),
        (upload_upstream, put, False),
    ):
        with open_connection(gateway.port) as client:
            client.sendall(raw)
            eventually(partial(has_active_requests, service, 1), 5)
            if reset:
                close_with_reset(client)
        began = time.monotonic()
        eventually(partial(has_active_requests, service, 0), 5)
        assert time.monotonic() - began < 1.0


def test_responses_of_the_gateway_itself(gateway: ServiceProcess) -> None:
    assert send_request(gateway.port, "GET", "/livez").status == 200
    ready = send_request(gateway.port, "GET", "/readyz")
    assert ready.json["checks"] == {"upload": "ok", "stream": "ok", "socket": "ok", "live": "ok"}
    assert send_request(gateway.port, "GET", "/version").json["service"] == "gateway"
    page = send_request(gateway.port, "GET", "/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert send_request(gateway.port, "HEAD", "/docs").status == 200
    assert send_request(gateway.port, "GET", "/page/nothing.js").status == 404
    assert send_request(gateway.port, "GET", "/client/nothing.js").status == 404


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/version", "/openapi.json", "/", "/docs", "/page/index.js", "/client/index.js"]
)
def test_head_of_the_gateway_itself(gateway: ServiceProcess, path: str) -> None:
    answer, head = (send_request(gateway.port, method, path) for method in ("GET", "HEAD"))
    assert (head.status, head.body) == (200, b"")
    kept = ("content-length", "content-type", "cache-control", "content-security-policy")
    assert [head.headers[name] for name in kept] == [answer.headers[name] for name in kept]
    if answer.headers["content-type"] == "application/json":
        assert answer.body.endswith(b"}\n")


def test_bytes_above_ascii_pass_in_both_directions(gateway: ServiceProcess, stream_upstream: ScriptedUpstream) -> None:
    async def respond(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen, reader
        writer.write(b"HTTP/1.1 200 OK\r\nX-City: S\xe3o \r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()

    stream_upstream.responder = respond
    with open_connection(gateway.port) as client:
        fields = b"Host: a\r\nReferer: http://a/caf\xe9\r\nCookie: a=\xff\r\nConnection: close\r\n"
        client.sendall(b"GET /file HTTP/1.1\r\n%s\r\n" % fields)
        received = receive_until_closed(client)
    assert b"\r\nx-city: S\xe3o\r\n" in received
    (seen,) = stream_upstream.requests
    assert (seen.get_all("referer"), seen.get_all("cookie")) == (["http://a/caf\udce9"], ["a=\udcff"])


def test_the_log_line_of_a_relayed_refusal_has_client_and_reason(
    gateway: ServiceProcess, stream_upstream: ScriptedUpstream
) -> None:
    body = b'{"status": 409, "detail": "it is there"}'

    async def respond(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen, reader
        writer.write(b"HTTP/1.1 409 Conflict\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()

    stream_upstream.responder = respond
    for path, reason in (("/file", "it is there"), ("/nowhere", "resource not found")):
        request_id = send_request(gateway.port, "GET", path).headers["x-request-id"]

        def line(request_id: str = request_id) -> dict[str, object]:
            lines = (json.loads(line) for line in gateway.log.splitlines())
            return next(line for line in lines if line.get("request_id") == request_id)

        assert {**eventually(line, 5), "client": "127.0.0.1", "reason": reason} == eventually(line, 5)
