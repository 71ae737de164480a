"""The client's end of an answer: one block at a time, not for longer than our patience, and not once nobody listens.

It knows ASGI as uvicorn speaks it: `send` waits before it writes, not after, and says nothing when the client has gone.
"""

import asyncio
import struct
from types import TracebackType
from typing import Self

from services.common.web import Message, Receive, Send
from services.stream.reply import Reply

try:
    import fcntl
    import termios
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

TURN = 8
"""Pieces (2 MiB of blocks) after which others get their turn: a client that is fast enough would keep the loop for itself.
From then on it is watched whether the client is there: what a shorter answer could waste costs less than watching."""

BUFFER = 64 * 1024
"""Bytes that the transport takes in any case: uvicorn's high-water mark."""


def start(reply: Reply) -> Message:
    """The head of an answer as our server takes it: with the fields that answers share apart (`services.common.cycle`)."""
    return {"type": "http.response.start", "status": reply.status, "headers": reply.headers, "shared": reply.shared}


class Gone(Exception):
    """The client has closed the connection."""


class Stalled(Exception):
    """The client took nothing for too long."""


class Patience:
    """Ends the answers of clients who took nothing for `seconds`. One clock for all: a timer for each answer cost 5 of 40 us."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._marks: dict[Outlet, int] = {}
        self._now = 0

    async def run(self) -> None:
        """Look at everyone four times in every span of patience, for ever."""
        while True:
            await asyncio.sleep(self.seconds / 4)
            self._now += 1
            for outlet, mark in self._marks.items():
                # Linux has room again when a third of its buffer was taken, more than a megabyte: minutes for somebody who listens.
                if mark < self._now and outlet.taken():
                    self._marks[outlet] = self._now
                elif self._now - mark > 4:
                    outlet.cut()

    def mark(self, outlet: "Outlet") -> None:
        """The client took something, or is given something."""
        self._marks[outlet] = self._now

    def rest(self, outlet: "Outlet") -> None:
        """It is the store that is waited for."""
        self._marks.pop(outlet, None)


class Outlet:
    """Where an answer goes. `with` it, Stalled and Gone say what became of the client."""

    __slots__ = (
        "_patience",
        "_pieces",
        "_receive",
        "_send",
        "_stalled",
        "_task",
        "_transport",
        "_unsent",
        "_watch",
        "began",
    )

    def __init__(
        self, receive: Receive, send: Send, patience: Patience, transport: asyncio.BaseTransport | None = None
    ) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("not in a task")
        self._send = send
        self.began = False
        self._receive = receive
        self._patience = patience
        self._task = task
        self._transport = transport
        self._unsent: int | None = None
        self._stalled = False
        self._watch: asyncio.Task[None] | None = None
        self._pieces = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._patience.rest(self)
        if self._stalled and kind is asyncio.CancelledError and not self._task.uncancel():
            raise Stalled from error

    async def head(self, reply: Reply) -> None:
        """Status and fields."""
        self.began = True
        self._patience.mark(self)
        await self._send(start(reply))

    def waits(self) -> None:
        """Whoever answers waits for the store: that is no fault of the client's."""
        self._patience.rest(self)

    async def piece(self, data: bytes | memoryview) -> None:
        """A part of the body. A memoryview spares a copy: uvicorn hands what it gets to the transport."""
        self._patience.mark(self)
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def room(self) -> None:
        """Return when what was sent is on its way, so that the next block need not be held meanwhile. Raises Gone."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": True})
        self._pieces += 1
        if self._pieces % TURN == 0:
            if self._watch is None:
                self._watch = asyncio.create_task(self._until_gone())
            await asyncio.sleep(0)
        if self._watch is not None and self._watch.done():
            raise Gone

    async def end(self, data: bytes) -> None:
        """The last part of the body. Leaving without this makes the server cut the connection."""
        await self._send({"type": "http.response.body", "body": data})

    def taken(self) -> bool:
        """Whether the client took anything since this was asked before. Where the system does not say, no."""
        before, self._unsent = self._unsent, unsent(self._transport)
        return before is not None and before != self._unsent

    def cut(self) -> None:
        """End it: the client is stalled."""
        if not self._stalled:
            self._stalled = True
            self._task.cancel()

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


def unsent(transport: asyncio.BaseTransport | None) -> int | None:
    """Bytes that the system has of us and the client has not acknowledged; None where the system does not say."""
    client = None if transport is None else transport.get_extra_info("socket")
    if client is None or fcntl is None:
        return None
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(client.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))
    except OSError:
        return None
    return int(count)
