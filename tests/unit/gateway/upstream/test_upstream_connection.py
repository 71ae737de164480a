"""gateway.upstream.upstream_connection: one connection to an upstream, on a recording transport."""

import asyncio
import gc
import weakref
from collections.abc import Iterable
from typing import Any, cast

import pytest

from gateway.upstream.read_buffer import MAX_READ_BYTES, ReadBuffer
from gateway.upstream.response_parser import RemoteProtocolError, ResponseParser
from gateway.upstream.upstream_connection import ServerDisconnected, UpstreamConnection

pytestmark = pytest.mark.anyio

OK_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LONG_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"


class FakeTransport:
    """A transport that records what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.paused = self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += data

    def writelines(self, chunks: Iterable[bytes]) -> None:
        self.write(b"".join(chunks))

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        assert not self.closed
        self.paused = False

    def abort(self) -> None:
        self.closed = True


class PoolCallbacks:
    """The callbacks that the pool received."""

    def __init__(self) -> None:
        self.released: list[UpstreamConnection] = []
        self.closed: list[UpstreamConnection] = []


def make_connection() -> tuple[UpstreamConnection, FakeTransport, PoolCallbacks]:
    callbacks = PoolCallbacks()
    connection = UpstreamConnection(
        asyncio.get_running_loop(), ReadBuffer(), callbacks.released.append, callbacks.closed.append
    )
    transport = FakeTransport()
    connection.connection_made(cast("asyncio.BaseTransport", transport))
    return connection, transport, callbacks


def receive(connection: UpstreamConnection, data: bytes) -> None:
    """Let the connection read `data`, as the event loop does."""
    while data:
        buffer = connection.get_buffer(-1)
        size = min(len(buffer), len(data))
        buffer[:size], data = data[:size], data[size:]
        connection.buffer_updated(size)


def send_request(
    method: str = "GET", *, complete: bool = True
) -> tuple[UpstreamConnection, FakeTransport, PoolCallbacks]:
    connection, transport, callbacks = make_connection()
    connection.send_request(method, b"head", complete=complete)
    return connection, transport, callbacks


async def test_connection_is_released_after_the_response() -> None:
    connection, transport, callbacks = send_request()
    waiting = asyncio.ensure_future(connection.receive_headers())
    await asyncio.sleep(0)
    receive(connection, OK_RESPONSE)
    await waiting
    assert (connection.response.status, connection.response.headers) == (200, [(b"content-length", b"2")])
    assert (await connection.read(), connection.response_consumed, await connection.read()) == (b"ok", True, b"")
    connection.release()
    assert (callbacks.released, callbacks.closed, transport.closed, transport.written) == (
        [connection],
        [],
        False,
        b"head",
    )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda connection: receive(connection, b"H"),
        lambda connection: setattr(connection, "request_sent", False),
        lambda connection: connection.eof_received(),
        lambda connection: connection.connection_lost(None),
    ],
    ids=["more than a response", "the request is not sent", "closed", "lost"],
)
async def test_responses_after_which_a_connection_is_not_reused(spoil: Any) -> None:
    connection, transport, callbacks = send_request()
    receive(connection, OK_RESPONSE)
    spoil(connection)
    assert await connection.read() == b"ok", "this response is complete all the same"
    connection.release()
    assert (callbacks.released, callbacks.closed, transport.closed) == ([], [connection], True)


async def test_abandoned_request_closes_its_connection() -> None:
    connection, transport, callbacks = send_request()
    receive(connection, LONG_RESPONSE + b"abc")
    connection.release()
    assert (callbacks.released, callbacks.closed, transport.closed) == ([], [connection], True)


async def test_unsolicited_response_closes_the_connection() -> None:
    connection, transport, callbacks = make_connection()
    receive(connection, OK_RESPONSE)
    assert (transport.closed, callbacks.closed) == (True, [connection])


async def test_reading_pauses_at_the_high_water_mark_without_loss() -> None:
    connection, transport, _ = send_request()
    receive(connection, LONG_RESPONSE)
    chunks = [bytes([number]) * 50_000 for number in range(10)]
    for chunk in chunks:
        if not transport.paused:
            receive(connection, chunk)
    paused_by_the_connection = transport.paused
    assert paused_by_the_connection
    received = b""
    while transport.paused:
        received += await connection.read()
    assert 0 < len(received) <= MAX_READ_BYTES + 50_000
    for chunk in chunks[6:]:
        receive(connection, chunk)
    while len(received) < 500_000:
        received += await connection.read()
    assert received == b"".join(chunks)


async def test_sending_waits_while_the_upstream_does_not_read() -> None:
    connection, transport, _ = send_request("PUT", complete=False)
    assert await connection.send_body((b"a",))
    connection.pause_writing()
    sending = asyncio.ensure_future(connection.send_body((b"3\r\n", b"bcd", b"\r\n")))
    await asyncio.sleep(0.01)
    assert not sending.done()
    connection.resume_writing()
    assert await sending
    assert transport.written == b"heada3\r\nbcd\r\n"


async def test_sending_on_a_closed_connection_raises() -> None:
    connection, _, _ = send_request("PUT", complete=False)
    connection.pause_writing()
    sending = asyncio.ensure_future(connection.send_body((b"a",)))
    await asyncio.sleep(0)
    connection.connection_lost(ConnectionResetError())
    assert not await sending
    assert not await connection.send_body((b"b",))


@pytest.mark.parametrize(
    ("raw", "wanted"), [(b"HTTP/1.1 102 A\r\n\r\nHTTP/1.1 100 B\r\n\r\n", True), (OK_RESPONSE, False), (b"", False)]
)
async def test_body_waits_for_100_continue(raw: bytes, *, wanted: bool) -> None:
    connection, _, _ = send_request("PUT", complete=False)
    waiting = asyncio.ensure_future(connection.wait_for_100_continue())
    await asyncio.sleep(0)
    assert not waiting.done()
    if raw:
        receive(connection, raw)
    else:
        connection.connection_lost(None)
    assert await waiting is wanted


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"", ServerDisconnected),
        (b"HTTP/1.1 200 OK\r\n", ServerDisconnected),
        (b"SMTP\r\n", RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nX: " + bytes(9), RemoteProtocolError),
    ],
)
@pytest.mark.parametrize("late", [False, True])
async def test_missing_response_is_an_error_for_every_waiter(raw: bytes, error: type[Exception], *, late: bool) -> None:
    connection, _, callbacks = send_request()
    waiting = asyncio.ensure_future(connection.receive_headers())
    if not late:
        await asyncio.sleep(0)
    if raw:
        receive(connection, raw)
    connection.eof_received()
    connection.connection_lost(None)
    with pytest.raises(error):
        await waiting
    assert callbacks.closed == [connection]


async def test_truncated_body_is_read_as_far_as_it_arrived() -> None:
    connection, _, _ = send_request()
    receive(connection, LONG_RESPONSE + b"abc")
    connection.connection_lost(ConnectionResetError("reset"))
    assert await connection.read() == b"abc"
    with pytest.raises(ServerDisconnected):
        await connection.read()


@pytest.mark.parametrize("ordered", [True, False])
async def test_close_delimited_body_is_complete_after_a_clean_close(*, ordered: bool) -> None:
    connection, _, callbacks = send_request()
    receive(connection, b"HTTP/1.1 200 OK\r\n\r\nabc")
    if ordered:
        connection.eof_received()
    connection.connection_lost(None if ordered else ConnectionResetError())
    assert await connection.read() == b"abc"
    if ordered:
        assert (await connection.read(), connection.response_consumed) == (b"", True)
    else:
        with pytest.raises(ServerDisconnected):
            await connection.read()
    connection.release()
    assert (callbacks.released, callbacks.closed) == ([], [connection])


async def test_abort_wakes_every_waiter() -> None:
    connection, _, _ = send_request()
    waiting = asyncio.ensure_future(connection.receive_headers())
    await asyncio.sleep(0)
    connection.fail(ServerDisconnected("the body broke off"))
    with pytest.raises(ServerDisconnected, match="the body"):
        await waiting


class _Connection(UpstreamConnection):
    """With room for a weak reference."""


@pytest.mark.parametrize("received", [None, b"nonsense\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n"])
async def test_a_failed_connection_leaves_nothing_for_the_garbage_collector(received: bytes | None) -> None:
    """It runs after 50,000 objects: each connection that failed would wait for it with what it had received."""
    buffer = ReadBuffer()
    connection = _Connection(asyncio.get_running_loop(), buffer, lambda _: None, lambda _: None)
    connection.connection_made(cast("asyncio.BaseTransport", FakeTransport()))
    alive = weakref.ref(connection)
    gc.disable()
    try:
        connection.send_request("GET", b"", complete=True)
        if received is None:
            connection.connection_lost(None)
        else:
            connection.get_buffer(-1)[: len(received)] = received
            connection.buffer_updated(len(received))
        for _ in range(2):
            with pytest.raises((ServerDisconnected, RemoteProtocolError)):
                await connection.receive_headers()
        del connection
        assert alive() is None
    finally:
        gc.enable()


class _Parser(ResponseParser):
    """With room for a weak reference."""


async def test_an_upstream_that_closes_leaves_no_parser_for_the_garbage_collector() -> None:
    """That of httptools refers back to ours. What was received before can still be read."""
    connection = UpstreamConnection(asyncio.get_running_loop(), ReadBuffer(), lambda _: None, lambda _: None)
    connection.connection_made(cast("asyncio.BaseTransport", FakeTransport()))
    connection.response = _Parser()
    alive = weakref.ref(connection.response)
    gc.disable()
    try:
        connection.send_request("GET", b"", complete=True)
        response = OK_RESPONSE.replace(b"Content-Length: 2", b"Connection: close")
        connection.get_buffer(-1)[: len(response)] = response
        connection.buffer_updated(len(response))
        connection.eof_received()
        await connection.receive_headers()
        assert await connection.read() == b"ok"
        del connection
        assert alive() is None
    finally:
        gc.enable()
