"""What uvicorn's request cycle is given in place of the bare connection and the bare application. It knows no rule of a head."""

import asyncio
import socket
import struct
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class Closer(Protocol):
    """Who decides how a connection is closed."""

    def end(self) -> None:
        """Close it, as the state of its request asks for."""

    def is_ending(self) -> bool:
        """Whether nothing more can be sent."""


class Wire:
    """A transport whose `close` is another's decision."""

    __slots__ = ("close", "get_extra_info", "is_closing", "pause_reading", "resume_reading", "write")

    def __init__(self, transport: asyncio.Transport, closer: Closer) -> None:
        self.write = transport.write
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.close = closer.end
        self.is_closing = closer.is_ending


def reset(transport: asyncio.Transport) -> None:
    """Break a connection off so that the other side sees a reset and not an end."""
    if (client := transport.get_extra_info("socket")) is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def until_close(app: Any, cycle: RequestResponseCycle) -> Any:
    """`app` for an HTTP/1.0 client: that one knows no chunks, so an answer without a length ends with its connection.

    uvicorn would send it chunks (RFC 9112, 6.1 forbids that). It keeps no HTTP/1.0 connection, so the end is always seen.
    """

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        open_ended = False

        async def sending(message: Any) -> None:
            nonlocal open_ended
            if message["type"] == "http.response.start":
                open_ended = not any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
                if open_ended:
                    cycle.chunked_encoding = False
            elif open_ended:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, sending)

    return answer
