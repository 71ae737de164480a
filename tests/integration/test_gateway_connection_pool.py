"""The gateway's connection pool before a scripted upstream: which connections are reused, and that no responses are mixed up."""

import asyncio

import pytest

from tests.support.processes import ServiceProcess
from tests.support.raw_sockets import receive_until_closed
from tests.support.scripted_upstream import (
    GET_AND_CLOSE,
    OK_RESPONSE,
    ReceivedRequest,
    ScriptedUpstream,
    open_connection,
    parse_statuses,
    read_body,
    respond_with,
    send_raw,
    send_request,
)
from tests.support.waiting import eventually

CONNECTION_CLOSE = b"Connection: close\r\n\r\n"
OK_AND_CLOSE = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
UNSOLICITED_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nstranger"


@pytest.fixture
def gateway(gateway: ServiceProcess, upstream: ScriptedUpstream) -> ServiceProcess:
    """A gateway with exactly one idle connection to the upstream."""
    upstream.responder = respond_with(OK_AND_CLOSE)
    for _ in range(5):
        assert send_request(gateway.port, "GET", "/file").status == 200
    upstream.reset()
    assert send_request(gateway.port, "GET", "/file").status == 200
    upstream.requests.clear()
    return gateway


def count_new_connections(gateway: ServiceProcess, service: ScriptedUpstream, times: int = 5) -> int:
    """The number of connections that the upstream gets for some requests."""
    before = service.connection_count
    for _ in range(times):
        assert send_request(gateway.port, "GET", "/file").body == b"ok"
    return service.connection_count - before


@pytest.mark.parametrize(
    ("method", "raw"),
    [
        ("GET", OK_RESPONSE),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: 1\r\n\r\n"),
        ("GET", b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" * 3 + OK_RESPONSE),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"),
        ("DELETE", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
        ("PUT", OK_RESPONSE),
    ],
    ids=["length", "chunks and a trailer", "after interim ones", "to HEAD", "204", "304", "to an upload"],
)
def test_upstream_connection_is_reused_after_a_response(
    gateway: ServiceProcess, upstream: ScriptedUpstream, method: str, raw: bytes
) -> None:
    upstream.responder = respond_with(raw)
    before = upstream.connection_count
    for _ in range(5):
        response = send_request(gateway.port, method, "/file/stream", b"a" * 100_000 if method == "PUT" else None)
        assert response.status == int(raw.rsplit(b"HTTP/1.1 ", 1)[1][:3])
        assert not {"x", "link"} & {name.lower() for name in response.headers}
    assert upstream.connection_count == before
    upstream.responder = respond_with(OK_RESPONSE)
    assert count_new_connections(gateway, upstream) == 0


@pytest.mark.parametrize(
    "raw",
    [
        OK_AND_CLOSE,
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK_RESPONSE + UNSOLICITED_RESPONSE,
        OK_RESPONSE + b"noise",
    ],
    ids=["Connection: close", "HTTP/1.0", "another response behind it", "noise behind it"],
)
def test_connection_is_not_reused_after_an_ambiguous_response(
    gateway: ServiceProcess, upstream: ScriptedUpstream, raw: bytes
) -> None:
    upstream.responder = respond_with(raw)
    assert count_new_connections(gateway, upstream) == 4


def test_unsolicited_response_on_an_idle_connection_is_discarded(
    gateway: ServiceProcess, upstream: ScriptedUpstream
) -> None:
    async def more_later(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK_RESPONSE)
        await asyncio.sleep(0.3)
        writer.write(UNSOLICITED_RESPONSE)
        await writer.drain()
        assert not await reader.read(1)

    upstream.responder = more_later
    assert send_request(gateway.port, "GET", "/file").body == b"ok"
    eventually(lambda: upstream.active_requests == 0, 5, "the gateway has closed that connection")
    upstream.responder = respond_with(OK_RESPONSE)
    assert count_new_connections(gateway, upstream) == 1


def test_health_checks_leave_no_idle_connections(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    """An upstream in use is checked every 2 s, each time over a new connection."""
    released = asyncio.Event()

    async def held(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await released.wait()
        writer.write(OK_RESPONSE)

    upstream.responder = held
    checks = upstream.health_checks
    with open_connection(gateway.port) as client:
        client.sendall(GET_AND_CLOSE)
        try:
            eventually(lambda: upstream.health_checks >= checks + 2, 10, "two checks")
        finally:
            upstream.loop.call_soon_threadsafe(released.set)
        assert receive_until_closed(client).endswith(b"ok")
    eventually(lambda: upstream.open_connections == 1, 5, "only the connection of the request is left")
    upstream.responder = respond_with(OK_RESPONSE)
    assert count_new_connections(gateway, upstream) == 0


def test_response_without_a_length_ends_with_its_connection(
    gateway: ServiceProcess, upstream: ScriptedUpstream
) -> None:
    async def until_close(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 300_000)
        await writer.drain()
        writer.close()

    upstream.responder = until_close
    response = send_request(gateway.port, "GET", "/file/stream")
    assert (response.headers["transfer-encoding"], len(response.body)) == ("chunked", 300_000)


@pytest.mark.parametrize("early", [True, False])
def test_incompletely_sent_body_closes_the_upstream_connection(
    gateway: ServiceProcess, upstream: ScriptedUpstream, *, early: bool
) -> None:
    async def refuse(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not early:
            await read_body(seen, reader)
        writer.write(b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        if early:
            await reader.read()
            raise ConnectionError

    upstream.responder = refuse
    with open_connection(gateway.port) as client:
        head = b"PUT /file/stream HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
        client.sendall(head + b"a" * (5 if early else 100_000))
        received = b""
        while not received.endswith(b"no"):
            received += client.recv(65536)
        assert parse_statuses(received) == [409]
        assert (b"connection: close" in received) is early
    upstream.responder = respond_with(OK_RESPONSE)
    assert count_new_connections(gateway, upstream) == (1 if early else 0)


def test_concurrent_requests_use_separate_connections(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    async def echo(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05 if "slow" in seen.target else 0.0)
        target = seen.target.encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(target), target))

    upstream.responder = echo
    targets = [b"/file?%s%d" % (b"slow" if number % 3 else b"", number) for number in range(30)]
    clients = [open_connection(gateway.port) for _ in targets]
    for client, target in zip(clients, targets, strict=True):
        client.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n" + CONNECTION_CLOSE)
    for client, target in zip(clients, targets, strict=True):
        assert receive_until_closed(client).endswith(b"\r\n\r\n" + target)
        client.close()


def test_restarted_upstream_is_used_without_a_failed_request(
    gateway: ServiceProcess, upstream: ScriptedUpstream
) -> None:
    """All idle connections have ended meanwhile."""
    assert count_new_connections(gateway, upstream) == 0
    upstream.stop()
    upstream.start()
    eventually(lambda: send_request(gateway.port, "GET", "/file").status == 200, 5, "it gets requests again")
    assert send_request(gateway.port, "PUT", "/file/stream", b"a").status == 200


@pytest.mark.parametrize("size", [1, 65_536, 3_000_001])
@pytest.mark.parametrize("chunked", [True, False])
def test_bodies_of_any_size_pass_in_both_directions(
    gateway: ServiceProcess, upstream: ScriptedUpstream, size: int, *, chunked: bool
) -> None:
    sent = bytes(range(256)) * (size // 256) + bytes(size % 256)

    async def give_back(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        if not chunked:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(seen.body) + seen.body)
            return
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for at in range(0, len(seen.body), 7777):
            piece = seen.body[at : at + 7777]
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    upstream.responder = give_back
    pieces = (sent[at : at + 100_000] for at in range(0, size, 100_000))
    response = send_request(gateway.port, "PUT", "/file/stream", pieces if chunked else sent)
    assert response.body == sent
    upstream.responder = respond_with(OK_RESPONSE)
    assert count_new_connections(gateway, upstream) == 0


def test_request_after_an_upload_on_one_connection(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    """The parser is bypassed for the body of an upload: bytes after it must still be parsed."""
    put = (
        b"PUT /file/stream HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n"
        + b"GET / HTTP/1.1\r\n\r\n" * 16_666
        + b"a" * 12
    )
    assert put.endswith(b"a" * 12)
    assert len(put.partition(b"\r\n\r\n")[2]) == 300_000
    received = send_raw(gateway.port, put * 3 + b"GET /file?last HTTP/1.1\r\nHost: a\r\n" + CONNECTION_CLOSE)
    assert parse_statuses(received) == [200] * 4
    assert [seen.method for seen in upstream.requests] == ["PUT"] * 3 + ["GET"]
    assert [len(seen.body) for seen in upstream.requests] == [300_000] * 3 + [0]
