"""gateway.upstream.upstream_connection: one connection to an upstream, on a recording transport."""

import asyncio
from collections.abc import Iterable
from typing import Any, cast

import pytest

from gateway.upstream.response_parser import RemoteProtocolError
from gateway.upstream.upstream_connection import READ_BUFFER_HIGH_WATER, ServerDisconnected, UpstreamConnection

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

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self.write(b"".join(pieces))

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
    told = PoolCallbacks()
    line = UpstreamConnection(asyncio.get_running_loop(), told.released.append, told.closed.append)
    wire = FakeTransport()
    line.connection_made(cast("asyncio.BaseTransport", wire))
    return line, wire, told


def send_request(method: str = "GET", *, whole: bool = True) -> tuple[UpstreamConnection, FakeTransport, PoolCallbacks]:
    line, wire, told = make_connection()
    line.send_request(method, b"head", complete=whole)
    return line, wire, told


async def test_connection_is_released_after_the_response() -> None:
    line, wire, told = send_request()
    waiting = asyncio.ensure_future(line.receive_headers())
    await asyncio.sleep(0)
    line.data_received(OK_RESPONSE)
    await waiting
    assert (line.response.status, line.response.headers) == (200, [(b"content-length", b"2")])
    assert (await line.read(), line.response_consumed, await line.read()) == (b"ok", True, b"")
    line.release()
    assert (told.released, told.closed, wire.closed, wire.written) == ([line], [], False, b"head")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line.data_received(b"H"),
        lambda line: setattr(line, "request_sent", False),
        lambda line: line.eof_received(),
        lambda line: line.connection_lost(None),
    ],
    ids=["more than an answer", "the request has not left", "closed", "lost"],
)
async def test_responses_after_which_a_connection_is_not_reused(spoil: Any) -> None:
    line, wire, told = send_request()
    line.data_received(OK_RESPONSE)
    spoil(line)
    assert await line.read() == b"ok", "this answer is whole all the same"
    line.release()
    assert (told.released, told.closed, wire.closed) == ([], [line], True)


async def test_abandoned_request_closes_its_connection() -> None:
    line, wire, told = send_request()
    line.data_received(LONG_RESPONSE + b"abc")
    line.release()
    assert (told.released, told.closed, wire.closed) == ([], [line], True)


async def test_unsolicited_response_closes_the_connection() -> None:
    line, wire, told = make_connection()
    line.data_received(OK_RESPONSE)
    assert (wire.closed, told.closed) == (True, [line])


async def test_reading_pauses_at_the_high_water_mark_without_loss() -> None:
    line, wire, _ = send_request()
    line.data_received(LONG_RESPONSE)
    pieces = [bytes([number]) * 50_000 for number in range(10)]
    for piece in pieces:
        if not wire.paused:
            line.data_received(piece)
    paused_by_the_connection = wire.paused
    assert paused_by_the_connection
    received = b""
    while wire.paused:
        received += await line.read()
    assert 0 < len(received) <= READ_BUFFER_HIGH_WATER + 50_000
    for piece in pieces[6:]:
        line.data_received(piece)
    while len(received) < 500_000:
        received += await line.read()
    assert received == b"".join(pieces)


async def test_sending_waits_while_the_upstream_does_not_read() -> None:
    line, wire, _ = send_request("PUT", whole=False)
    assert await line.send_body((b"a",))
    line.pause_writing()
    sending = asyncio.ensure_future(line.send_body((b"3\r\n", b"bcd", b"\r\n")))
    await asyncio.sleep(0.01)
    assert not sending.done()
    line.resume_writing()
    assert await sending
    assert wire.written == b"heada3\r\nbcd\r\n"


async def test_sending_on_a_closed_connection_raises() -> None:
    line, _, _ = send_request("PUT", whole=False)
    line.pause_writing()
    sending = asyncio.ensure_future(line.send_body((b"a",)))
    await asyncio.sleep(0)
    line.connection_lost(ConnectionResetError())
    assert not await sending
    assert not await line.send_body((b"b",))


@pytest.mark.parametrize(
    ("raw", "wanted"), [(b"HTTP/1.1 102 A\r\n\r\nHTTP/1.1 100 B\r\n\r\n", True), (OK_RESPONSE, False), (b"", False)]
)
async def test_body_waits_for_100_continue(raw: bytes, *, wanted: bool) -> None:
    line, _, _ = send_request("PUT", whole=False)
    waiting = asyncio.ensure_future(line.wait_for_100_continue())
    await asyncio.sleep(0)
    assert not waiting.done()
    if raw:
        line.data_received(raw)
    else:
        line.connection_lost(None)
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
    line, _, told = send_request()
    waiting = asyncio.ensure_future(line.receive_headers())
    if not late:
        await asyncio.sleep(0)
    if raw:
        line.data_received(raw)
    line.eof_received()
    line.connection_lost(None)
    with pytest.raises(error):
        await waiting
    assert told.closed == [line]


async def test_truncated_body_is_read_as_far_as_it_arrived() -> None:
    line, _, _ = send_request()
    line.data_received(LONG_RESPONSE + b"abc")
    line.connection_lost(ConnectionResetError("reset"))
    assert await line.read() == b"abc"
    with pytest.raises(ServerDisconnected):
        await line.read()


@pytest.mark.parametrize("ordered", [True, False])
async def test_close_delimited_body_is_complete_after_a_clean_close(*, ordered: bool) -> None:
    line, _, told = send_request()
    line.data_received(b"HTTP/1.1 200 OK\r\n\r\nabc")
    if ordered:
        line.eof_received()
    line.connection_lost(None if ordered else ConnectionResetError())
    assert await line.read() == b"abc"
    if ordered:
        assert (await line.read(), line.response_consumed) == (b"", True)
    else:
        with pytest.raises(ServerDisconnected):
            await line.read()
    line.release()
    assert (told.released, told.closed) == ([], [line])


async def test_abort_wakes_every_waiter() -> None:
    line, _, _ = send_request()
    waiting = asyncio.ensure_future(line.receive_headers())
    await asyncio.sleep(0)
    line.fail(ServerDisconnected("the body broke off"))
    with pytest.raises(ServerDisconnected, match="the body"):
        await waiting
