"""What a connection makes of a frame in each of its states, on a transport of paper that is as strict as uvloop's."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from services.socket.connection import SocketConnection, encode_text_frame
from services.socket.send_queue import MAX_QUEUED_FRAMES

pytestmark = pytest.mark.anyio
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
    b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n"
)
FIRST_FRAME, TEXT_FRAME = encode_text_frame(b"{}"), encode_text_frame(b"frame")


class FakeTransport:
    """Writes down what it is given. After `write_eof` and at the end of the connection a write is an error."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.ended = self.closing = False

    def write(self, data: bytes) -> None:
        if self.ended:
            raise RuntimeError("Cannot call write() after write_eof()")
        self.written.append(data)

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.closing = True

    abort = close

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading

    def get_extra_info(self, _name: str, default: object = None) -> object:
        return default


async def app(_scope: object, _receive: object, _send: object) -> None:
    await asyncio.Event().wait()


def connect_handshaking() -> tuple[SocketConnection, FakeTransport]:
    """A client that waits for the answer to its handshake."""
    config = uvicorn.Config(cast("Any", app), ws=SocketConnection, log_config=None, ws_per_message_deflate=False)
    config.load()
    connection = SocketConnection(config=config, server_state=ServerState(), app_state={})
    transport = FakeTransport()
    connection.connection_made(cast("Any", transport))
    connection.data_received(HANDSHAKE)
    return connection, transport


def connect_open() -> tuple[SocketConnection, FakeTransport]:
    connection, transport = connect_handshaking()
    connection.accept(None, FIRST_FRAME)
    transport.written.clear()
    return connection, transport


async def test_nothing_before_the_handshake_is_answered() -> None:
    connection, transport = connect_handshaking()
    connection.send_now(TEXT_FRAME)
    connection.write(TEXT_FRAME, "key")
    assert transport.written == []
    connection.accept(None, FIRST_FRAME)
    assert transport.written[0].endswith(FIRST_FRAME)


async def test_straight_to_the_transport_the_queue_and_back() -> None:
    connection, transport = connect_open()
    assert connection.send_now == transport.write, "no Python between the hub and the transport"
    connection.send_now(b"1")
    connection.pause_writing()
    connection.send_now(b"2")
    connection.write(b"old", "key")
    connection.write(b"3", "key")
    connection.write(b"4")
    assert transport.written == [b"1"]
    connection.resume_writing()
    connection.send_now(b"5")
    connection.write(b"6", "key")
    assert transport.written == [b"1", b"2", b"3", b"4", b"5", b"6"]


async def test_a_transport_that_is_full_again_while_the_queue_goes_out() -> None:
    connection, transport = connect_open()
    connection.pause_writing()
    for text in (b"1", b"2", b"3"):
        connection.send_now(text)
    write = transport.write

    def full(data: bytes) -> None:
        write(data)
        connection.pause_writing()

    transport.write = full  # type: ignore[method-assign]
    connection.resume_writing()
    connection.send_now(b"4")
    assert transport.written == [b"1"]
    transport.write = write  # type: ignore[method-assign]
    connection.resume_writing()
    connection.send_now(b"5")
    assert transport.written == [b"1", b"2", b"3", b"4", b"5"]


async def test_more_than_may_wait_is_1013() -> None:
    connection, transport = connect_open()
    connection.pause_writing()
    for _ in range(MAX_QUEUED_FRAMES + 1):
        connection.send_now(TEXT_FRAME)
    assert connection.sent_close_code == 1013
    assert len(transport.written) == 1


CLOSING_ACTIONS: dict[str, Callable[[SocketConnection], object]] = {
    "closed": lambda connection: connection.close(1008, "x"),
    "failed": lambda connection: connection.data_received(b"\x81\x01a"),
    "too many frames": lambda connection: connection.data_received(b"\x89\x80\0\0\0\0" * 2000),
    "no pong": lambda connection: connection.keepalive_timeout(),
    "half closed": lambda connection: connection.eof_received(),
    "closed by the client": lambda connection: connection.data_received(b"\x88\x80\0\0\0\0"),
    "lost": lambda connection: connection.connection_lost(ConnectionResetError()),
    "the server ends": lambda connection: connection.shutdown(),
}


@pytest.mark.parametrize("choked", [False, True])
@pytest.mark.parametrize("end", CLOSING_ACTIONS.values(), ids=CLOSING_ACTIONS.keys())
async def test_nothing_after_the_end(end: Callable[[SocketConnection], object], *, choked: bool) -> None:
    """Whatever ended it, and whatever its transport says afterwards: a write behind `write_eof` would raise in the hub."""
    connection, transport = connect_open()
    if choked:
        connection.pause_writing()
        connection.send_now(b"waits")
    end(connection)
    transport.written.clear()
    changes: tuple[Callable[[], object], ...] = (lambda: None, connection.pause_writing, connection.resume_writing)
    for change in changes:
        change()
        connection.send_now(TEXT_FRAME)
        connection.write(TEXT_FRAME)
        connection.write(TEXT_FRAME, "key")
    assert transport.written == []
    assert len(connection.send_queue) == 0
