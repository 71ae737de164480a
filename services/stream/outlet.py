"""The client's end of an answer: one block at a time, not for longer than our patience, and not once nobody listens.

It knows ASGI as uvicorn speaks it: `send` waits before it writes, not after, and says nothing when the client has gone.
"""

import asyncio
from types import TracebackType
from typing import Self

from services.common.errors import Unavailable
from services.common.web import Message, Receive, Send
from services.stream.reply import Reply

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
        self._marks: dict[asyncio.Task[object], int] = {}
        self._lost: set[asyncio.Task[object]] = set()
        self._now = 0

    async def run(self) -> None:
        """Look at everyone four times in every span of patience, for ever."""
        while True:
            await asyncio.sleep(self.seconds / 4)
            self._now += 1
            for task, mark in self._marks.items():
                if self._now - mark > 4 and task not in self._lost:
                    self._lost.add(task)
                    task.cancel()

    def mark(self, task: asyncio.Task[object]) -> None:
        """Something was taken, or begins."""
        self._marks[task] = self._now

    def release(self, task: asyncio.Task[object]) -> bool:
        """The answer is over; whether it was ended here."""
        del self._marks[task]
        if task not in self._lost:
            return False
        self._lost.discard(task)
        return True


class Outlet:
    """Where an answer goes. `with` it, Stalled and Gone say what became of the client, Unavailable that it never began."""

    __slots__ = ("_patience", "_pieces", "_receive", "_send", "_task", "_watch", "began")

    def __init__(self, receive: Receive, send: Send, patience: Patience) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("not in a task")
        self._send = send
        self.began = False
        self._receive = receive
        self._patience = patience
        self._task = task
        self._watch: asyncio.Task[None] | None = None
        self._pieces = 0

    def __enter__(self) -> Self:
        self._patience.mark(self._task)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._patience.release(self._task) and kind is asyncio.CancelledError and not self._task.uncancel():
            if not self.began:  # it was the store that let us wait: the client had nothing to take
                raise Unavailable("the store does not answer") from error
            raise Stalled from error

    async def head(self, reply: Reply) -> None:
        """Status and fields."""
        self.began = True
        await self._send(start(reply))

    async def piece(self, data: bytes | memoryview) -> None:
        """A part of the body. A memoryview spares a copy: uvicorn hands what it gets to the transport."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def room(self) -> None:
        """Return when what was sent is on its way, so that the next block need not be held meanwhile. Raises Gone."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": True})
        self._patience.mark(self._task)
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

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
