"""What a request's cycle is given in place of the bare connection. It knows no rule of a head."""

import asyncio
import socket
import struct
from typing import Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from services.common.errors import GridcastError, problem, problem_headers

SHORT = 16 * 1024
"""Bytes that are joined with what they are sent with: cheaper than to send them apart."""


class Closer(Protocol):
    """Who decides how a connection is closed."""

    def end(self) -> None:
        """Close it, as the state of its request asks for."""

    def is_ending(self) -> bool:
        """Whether nothing more can be sent."""


class Wire:
    """A transport whose `close` is another's decision, and which sends a head together with the body behind it.

    What is short waits for what comes next, at the longest until the end of this turn of the event loop. A write is a system call,
    and a small answer would take two.
    """

    __slots__ = ("_held", "_loop", "_raw", "close", "get_extra_info", "is_closing", "pause_reading", "resume_reading")

    def __init__(self, transport: asyncio.Transport, closer: Closer, loop: asyncio.AbstractEventLoop) -> None:
        self._raw = transport
        self._loop = loop
        self._held: bytes | memoryview = b""
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.close = closer.end
        self.is_closing = closer.is_ending

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

    def flush(self) -> None:
        """Send what is held. Whoever closes the connection in order calls this first."""
        held, self._held = self._held, b""
        if held and not self._raw.is_closing():
            self._raw.write(held)


def refusal(error: GridcastError, fields: list[tuple[bytes, bytes]]) -> bytes:
    """An answer with `error` that ends its connection, outside of any application."""
    body = problem(error)
    lines = [b"%s: %s\r\n" % field for field in (*fields, *problem_headers(error, body), (b"connection", b"close"))]
    return b"".join([STATUS_LINE[error.status], *lines, b"\r\n", body])


def reset(transport: asyncio.Transport) -> None:
    """Break a connection off so that the other side sees a reset and not an end."""
    if (client := transport.get_extra_info("socket")) is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
