"""What a cycle is given in place of the bare connection, and how long its reader is waited for. It knows no rule of a head."""

import asyncio
import socket
import struct
from typing import ClassVar, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from services.common.errors import GridcastError, encode_problem, problem_headers
from services.common.server.timeouts import Idle

SHORT = 16 * 1024
"""Bytes that are joined with what they are sent with: cheaper than to send them apart."""

UNSENT = 128 * 1024
_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)

_ENDED = frozenset({7, 8})
"""TCP_CLOSE behind a reset, TCP_CLOSE_WAIT behind an end (Linux, netinet/tcp.h)."""


class Closer(Protocol):
    """Who decides how a connection is closed."""

    def end(self) -> None:
        """Close it, as the state of its request asks for."""

    def is_ending(self) -> bool:
        """Whether nothing more can be sent."""

    def is_alone(self) -> bool:
        """Whether the client has gone."""


class Wire:
    """A transport whose `close` is another's decision, and which sends a head together with the body behind it.

    What is short waits for what comes next, at the longest until the end of this turn of the event loop. A write is a system call,
    and a small answer would take two.
    """

    __slots__ = (
        "_held",
        "_loop",
        "_raw",
        "close",
        "get_extra_info",
        "is_alone",
        "is_closing",
        "pause_reading",
        "resume_reading",
    )

    def __init__(self, transport: asyncio.Transport, closer: Closer, loop: asyncio.AbstractEventLoop) -> None:
        self._raw = transport
        self._loop = loop
        self._held: bytes | memoryview = b""
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.close = closer.end
        self.is_closing = closer.is_ending
        self.is_alone = closer.is_alone

    def write(self, data: bytes | memoryview) -> None:
        """Send, or hold for a moment."""
        held = self._held
        if not held and len(data) <= SHORT:
            self._held = data
            self._loop.call_soon(self.flush)
        elif not held:
            self._raw.write(data)
        else:
            self._held = b""
            if len(data) <= SHORT:
                self._raw.write(b"".join((held, data)))
            else:
                self._raw.writelines((held, data))

    def send(self, head: bytes, body: bytes | memoryview) -> None:
        """A whole answer, behind what is held."""
        if self._held:
            self.flush()
        if len(body) <= SHORT:
            self._raw.write(b"".join((head, body)))
        else:
            self._raw.writelines((head, body))

    def flush(self) -> None:
        """Send what is held. Whoever closes the connection in order calls this first."""
        held, self._held = self._held, b""
        if held and not self._raw.is_closing():
            self._raw.write(held)


class Taking:
    """Whether a client takes what waits for it in a connection's buffer. One that takes nothing is cut off.

    The system takes bytes out of the buffer in big steps, so a slow client is seen to move only now and then. Where it can be told
    to, it holds no more than UNSENT bytes that are not under way: else a third of its own buffer, 1.3 MB, had to be taken before it
    asked for more, and that is 80 s of a radio station.
    """

    __slots__ = ("_left", "_loop", "_raw", "_timer")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        connection = transport.get_extra_info("socket")
        if connection is not None and _NOTSENT_LOWAT is not None:
            connection.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, UNSENT)
        self._raw = transport
        self._loop = loop
        self._left = 0
        self._timer: asyncio.TimerHandle | None = None

    def wait(self, seconds: float) -> None:
        """Where something waits for it, it has so long for taking some of it, and then again."""
        self.stop()
        if left := self._raw.get_write_buffer_size():
            self._left = left
            self._timer = self._loop.call_later(seconds, self._look, seconds)

    def stop(self) -> None:
        """It is not waited for, or has gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, seconds: float) -> None:
        if self._raw.get_write_buffer_size() < self._left:
            self.wait(seconds)
        else:
            self._timer = None
            self._raw.abort()


class Readers(Idle):
    """The part of a connection that waits for its client to read."""

    reader_seconds: ClassVar[float] = 3600.0
    """What a client has for taking something of what waits for it. A service's client is the gateway, which may hold back for as
    long as its own slow client needs for some megabytes; the gateway itself waits for less, see `waiting`.
    """
    leaving_seconds: ClassVar[float] = 5.0
    """The same at the end of the process, for what was answered before: others need not wait for it."""

    taking: Taking

    def pause_writing(self) -> None:
        """More waits for the client than the connection should hold."""
        super().pause_writing()
        self.taking.wait(self.reader_seconds)

    def resume_writing(self) -> None:
        """It has taken most of that."""
        super().resume_writing()
        if not self.transport.is_closing():
            self.taking.stop()

    def shutdown(self) -> None:
        """The process ends: close, or do it behind the answer that is due."""
        super().shutdown()
        if self.transport.is_closing():
            self.taking.wait(self.leaving_seconds)

    def is_alone(self) -> bool:
        """Whether the client has gone; that it says so may stand behind bytes that are not read yet."""
        return self.transport.is_closing() or (self.flow.read_paused and has_ended(self.transport))


def waiting(http: type[Readers], seconds: float) -> type[Readers]:
    """The class to give to uvicorn: it waits so long for a client that takes nothing."""
    return type(http.__name__, (http,), {"reader_seconds": seconds})


def refusal(error: GridcastError, fields: list[tuple[bytes, bytes]]) -> bytes:
    """An answer with `error` that ends its connection, outside of any application."""
    body = encode_problem(error)
    lines = [b"%s: %s\r\n" % field for field in (*fields, *problem_headers(error, body), (b"connection", b"close"))]
    return b"".join([STATUS_LINE[error.status], *lines, b"\r\n", body])


def has_ended(transport: asyncio.Transport) -> bool:
    """Whether the other side has closed a connection that is not being read, and so does not notice it."""
    if (client := transport.get_extra_info("socket")) is None or not hasattr(socket, "TCP_INFO"):
        return False
    try:
        state: int = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except OSError:
        return False
    return state in _ENDED


def reset(transport: asyncio.Transport) -> None:
    """Break a connection off so that the other side sees a reset and not an end."""
    if (client := transport.get_extra_info("socket")) is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
