"""The gateway before the live service: endless bodies, silent publishers, held requests, and tokens in paths."""

import asyncio
import contextlib
import time
from functools import partial

import pytest

from tests.support.processes import ServiceProcess, StartService
from tests.support.raw_sockets import receive_until_closed
from tests.support.scripted_upstream import (
    OK_RESPONSE,
    ReceivedRequest,
    ScriptedUpstream,
    open_connection,
    parse_statuses,
    read_body,
    send_raw,
    send_request,
    upstream_env,
    wait_for_access_log,
)
from tests.support.waiting import eventually

TOKEN = "-_secretsecretsecretsecretsecretsecretsecret"
HEAD = b"PUT /live/abc/media HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def gateway(short_timeout_gateway: ServiceProcess, upstream: ScriptedUpstream) -> ServiceProcess:
    upstream.reset()
    return short_timeout_gateway


def has_received(upstream: ScriptedUpstream, size: int) -> bool:
    return bool(upstream.requests) and len(upstream.requests[0].body) == size


def test_each_byte_of_a_publisher_is_passed_on_at_once_and_is_progress(
    gateway: ServiceProcess, upstream: ScriptedUpstream
) -> None:
    """Other bodies have to go on by a KiB a second here."""

    async def count(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await read_body(seen, reader)
        writer.write(OK_RESPONSE)

    upstream.responder = count
    with open_connection(gateway.port) as client:
        client.sendall(HEAD)
        for sent in range(1, 5):
            client.sendall(b"1\r\nx\r\n")
            eventually(partial(has_received, upstream, sent), 1, "it arrives")
            time.sleep(1.3)  # between the timeout of other bodies and that of publishers: the time is the test
        client.sendall(b"0\r\n\r\n")
        assert parse_statuses(client.recv(65536)) == [200]
    assert upstream.requests[0].complete


def test_a_publisher_that_sends_nothing_is_408(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    with open_connection(gateway.port) as client:
        client.sendall(HEAD + b"1\r\nx\r\n")
        assert parse_statuses(receive_until_closed(client)) == [408]
    assert 2.0 <= wait_for_access_log(gateway, 408)[0]["duration"] < 3.5
    eventually(lambda: upstream.active_requests == 0, 2, "its connection is closed")


def test_an_early_refusal_reaches_a_publisher_in_mid_body(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    """The live service ends a stream, or another publisher has taken its place."""

    async def refuse(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 409 Conflict\r\nContent-Length: 3\r\n\r\nno!")
        del seen

    upstream.responder = refuse
    with open_connection(gateway.port) as client:
        client.sendall(HEAD + b"5\r\nhello\r\n")
        received = receive_until_closed(client)
    assert parse_statuses(received) == [409]
    assert b"connection: close" in received.lower()


@pytest.mark.parametrize("name", ["media", "media/init.mp4", "media/seg-1.m4s", "media/index.m3u8"])
def test_the_token_of_a_path_reaches_the_service_and_no_log(
    gateway: ServiceProcess, upstream: ScriptedUpstream, name: str
) -> None:
    path = f"/live/abc/key/{TOKEN}/{name}"
    assert send_request(gateway.port, "PUT", path, b"data").status == 200
    assert upstream.requests[-1].target == path
    eventually(lambda: f'"path": "/live/abc/key/-/{name}"' in gateway.log, 5, "the line")
    assert TOKEN not in gateway.log


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (f"PUT /live/abc/key/{TOKEN}/media/../x HTTP/1.1", 400),
        (f"PUT /live/abc//key/{TOKEN}/media HTTP/1.1", 400),
        (f"PUT /live/abc/%6bey/{TOKEN}/media HTTP/1.1", 404),
        (f"PATCH /live/abc/key/{TOKEN}/media HTTP/1.1", 405),
        (f"PUT /live/abc/key/{TOKEN}/nothing HTTP/1.1", 404),
        (f"PUT /live/abc/key/{TOKEN}/media HTTP/1.9", 400),
        (f"PUT /live/abc/key/{TOKEN}/media\tx HTTP/1.1", 400),
    ],
)
def test_no_refused_request_logs_the_token(gateway: ServiceProcess, request_line: str, status: int) -> None:
    marked = f"{request_line}\r\nHost: localhost\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
    received = send_raw(gateway.port, marked.encode())
    assert parse_statuses(received) == [status]
    assert TOKEN.encode() not in received, "nor does the problem"
    wait_for_access_log(gateway, status)
    assert TOKEN not in gateway.log


def test_a_refused_handshake_does_not_log_the_token(gateway: ServiceProcess) -> None:
    lines = (
        f"GET /live/abc/key/{TOKEN}/media HTTP/1.1",
        "Host: localhost",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    assert parse_statuses(send_raw(gateway.port, "\r\n".join((*lines, "", "")).encode())) == [404]
    eventually(lambda: '"path": "/live/abc/key/-/media"' in gateway.log, 5, "the line")
    assert TOKEN not in gateway.log


@pytest.mark.parametrize("path", ["index.m3u8", "media.m3u8", "0/init.mp4", "0/12.m4s"])
def test_pages_of_other_origins_may_play_a_stream(
    start_service: StartService, upstream: ScriptedUpstream, path: str
) -> None:
    """Row 40: the preflight that hls.js causes with a token or a range, and the fields of the answers, also of one that refuses."""
    upstream.reset()
    gateway = start_service("gateway", **upstream_env(upstream), GRIDCAST_ALLOWED_ORIGINS="https://player.example")
    address = f"/live/{'0' * 32}/{path}"
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization, range"}
    preflight = send_request(gateway.port, "OPTIONS", address, headers={"Origin": "https://player.example", **asked})
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == "https://player.example"
    assert {"authorization", "range"} <= set(preflight.headers["access-control-allow-headers"].lower().split(", "))
    assert "GET" in preflight.headers["access-control-allow-methods"]
    assert not upstream.requests, "the gateway answers"
    for method in ("GET", "HEAD"):
        answer = send_request(gateway.port, method, address, headers={"Origin": "https://player.example"})
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == "https://player.example"
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        assert "Origin" in answer.headers["vary"]
    other = send_request(gateway.port, "GET", address, headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers
    refused = send_request(gateway.port, "GET", "/live/x/y/z", headers={"Origin": "https://player.example"})
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (404, "https://player.example")
