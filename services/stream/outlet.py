"""The client's end of an answer: one block at a time, not for longer than its patience, and not once nobody listens.

It knows ASGI as uvicorn speaks it: `send` waits before it writes, not after, and says nothing when the client has gone.
"""

import asyncio
from types import TracebackType
from typing import Self

from services.common.web import Receive, Send
from services.stream.reply import Reply

TURN = 8
"""Pieces (2 MiB of blocks) after which others get their turn: a client that is fast enough would keep the loop for itself.
From then on it is watched whether the client is there: what a shorter answer could waste costs less than watching."""


class Gone(Exception):
    """The client has closed the connection."""


class Outlet:
    """Where an answer goes. Inside `async with`, TimeoutError says that the client took nothing for `patience` seconds."""

    def __init__(self, receive: Receive, send: Send, patience: float) -> None:
        self.began = False
        self._receive = receive
        self._send = send
        self._patience = patience
        self._limit = asyncio.timeout(patience)
        self._watch: asyncio.Task[None] | None = None
        self._pieces = 0

    async def __aenter__(self) -> Self:
        await self._limit.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is not None:
            self._watch.cancel()
        await self._limit.__aexit__(kind, error, trace)

    async def head(self, reply: Reply) -> None:
        """Status and fields."""
        self.began = True
        await self._send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})

    async def room(self) -> None:
        """Return when what was sent is on its way, so that the next block need not be held meanwhile. Raises Gone."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": True})
        self._limit.reschedule(asyncio.get_running_loop().time() + self._patience)
        self._pieces += 1
        if self._pieces % TURN == 0:
            if self._watch is None:
                self._watch = asyncio.create_task(self._until_gone())
            await asyncio.sleep(0)
        if self._watch is not None and self._watch.done():
            raise Gone

    async def piece(self, data: bytes | memoryview) -> None:
        """A part of the body. A memoryview spares a copy: uvicorn hands what it gets to the transport."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """The last part of the body. Leaving without this makes the server cut the connection."""
        await self._send({"type": "http.response.body", "body": data})

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
