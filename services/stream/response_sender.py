"""The client's end of an answer: one block at a time, not for longer than our patience, and not once nobody listens.

It knows ASGI as uvicorn speaks it: `send` waits before it writes, not after, and says nothing when the client has gone.
"""

import asyncio
from types import TracebackType
from typing import Self

from services.common.asgi import Message, Receive, Send
from services.common.server.connection_info import UNKNOWN, ConnectionInfo
from services.stream.response_plan import ResponsePlan

YIELD_EVERY_CHUNKS = 8
"""Pieces (2 MiB of blocks) after which others get their turn: a client that is fast enough would keep the loop for itself.
From then on it is watched whether the client is there: what a shorter answer could waste costs less than watching."""

HIGH_WATER_BYTES = 64 * 1024
"""Bytes that the transport takes in any case: uvicorn's high-water mark."""


def response_start_message(plan: ResponsePlan, *, extended: bool) -> Message:
    """The head of an answer; `extended`: as our server takes it, with the fields that answers share apart."""
    message = {"type": "http.response.start", "status": plan.status, "headers": plan.headers}
    if extended:
        return {**message, "preencoded": plan.preencoded_headers}
    return {**message, "headers": [*plan.headers, *plan.preencoded_headers.fields]}


class ClientDisconnected(Exception):
    """The client has closed the connection."""


class ClientStalled(Exception):
    """The client took nothing for too long."""


class SendTimeoutMonitor:
    """Ends the answers of clients who took nothing for `seconds`. One clock for all: a timer for each answer cost 5 of 40 us."""

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self._last_progress: dict[ResponseSender, int] = {}
        self._tick = 0

    async def run(self) -> None:
        """Look at everyone four times in every span of patience, for ever."""
        while True:
            await asyncio.sleep(self.timeout_seconds / 4)
            self._tick += 1
            for outlet, mark in self._last_progress.items():
                # Linux has room again when a third of its buffer was taken, more than a megabyte: minutes for somebody who listens.
                if mark < self._tick and outlet.has_progressed():
                    self._last_progress[outlet] = self._tick
                elif self._tick - mark > 4:
                    outlet.abort()

    def record_progress(self, sender: "ResponseSender") -> None:
        """The client took something, or is given something."""
        self._last_progress[sender] = self._tick

    def pause(self, sender: "ResponseSender") -> None:
        """It is the store that is waited for."""
        self._last_progress.pop(sender, None)


class ResponseSender:
    """Where an answer goes. `with` it, Stalled and Gone say what became of the client."""

    __slots__ = (
        "_chunks_sent",
        "_connection",
        "_disconnect_task",
        "_receive",
        "_send",
        "_send_queue_bytes",
        "_send_timeout",
        "_stalled",
        "_task",
        "started",
    )

    def __init__(
        self, receive: Receive, send: Send, send_timeout: SendTimeoutMonitor, connection: ConnectionInfo = UNKNOWN
    ) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("not in a task")
        self._send = send
        self.started = False
        self._receive = receive
        self._send_timeout = send_timeout
        self._task = task
        self._connection = connection
        self._send_queue_bytes: int | None = None
        self._stalled = False
        self._disconnect_task: asyncio.Task[None] | None = None
        self._chunks_sent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._disconnect_task is not None:
            self._disconnect_task.cancel()
        self._send_timeout.pause(self)
        if self._stalled and kind is asyncio.CancelledError and not self._task.uncancel():
            raise ClientStalled from error

    async def send_head(self, plan: ResponsePlan) -> None:
        """Status and fields."""
        self.started = True
        self._send_timeout.record_progress(self)
        await self._send(response_start_message(plan, extended=self._connection.extended_start))

    def pause_send_timeout(self) -> None:
        """Whoever answers waits for the store: that is no fault of the client's."""
        self._send_timeout.pause(self)

    async def send_chunk(self, data: bytes | memoryview) -> None:
        """A part of the body. A memoryview spares a copy: uvicorn hands what it gets to the transport."""
        self._send_timeout.record_progress(self)
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def drain(self) -> None:
        """Return when what was sent is on its way, so that the next block need not be held meanwhile. Raises Gone."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": True})
        self._chunks_sent += 1
        if self._chunks_sent % YIELD_EVERY_CHUNKS == 0:
            if self._disconnect_task is None:
                self._disconnect_task = asyncio.create_task(self._wait_for_disconnect())
            await asyncio.sleep(0)
        if self._disconnect_task is not None and self._disconnect_task.done():
            raise ClientDisconnected

    async def send_last_chunk(self, data: bytes) -> None:
        """The last part of the body. Leaving without this makes the server cut the connection."""
        await self._send({"type": "http.response.body", "body": data})

    def has_progressed(self) -> bool:
        """Whether the client took anything since this was asked before. Where the system does not say, no."""
        before, self._send_queue_bytes = self._send_queue_bytes, self._connection.unacknowledged_bytes()
        return before is not None and before != self._send_queue_bytes

    def abort(self) -> None:
        """End it: the client is stalled."""
        if not self._stalled:
            self._stalled = True
            self._task.cancel()

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
