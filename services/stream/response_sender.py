"""Sends a response block by block, and ends it when the client is too slow or has disconnected.

`send` of our server and of uvicorn waits before it writes, not after, and does not report a disconnected client: so `drain` follows
each block, and a long response watches `receive` for `http.disconnect`.
"""

import asyncio
from types import TracebackType
from typing import Self

from services.common.asgi import ClientDisconnected, Message, Receive, Send
from services.common.server.connection_info import UNKNOWN, ConnectionInfo
from services.stream.response_plan import ResponsePlan

YIELD_EVERY_CHUNKS = 8
"""Chunks (2 MiB of blocks) after which the event loop runs other tasks: a fast client would keep it for itself. From then on the
response also watches for a disconnect; what a shorter response could waste costs less than watching.
"""

HIGH_WATER_BYTES = 64 * 1024
"""Bytes that the transport accepts at once: the high-water mark of its write buffer."""


def response_start_message(plan: ResponsePlan, *, extended: bool) -> Message:
    """Return the ASGI message that starts the response.

    With `extended`, as our server accepts it, the headers that all responses about a file share stay encoded as they are.
    """
    message = {"type": "http.response.start", "status": plan.status, "headers": plan.headers}
    if extended:
        return {**message, "preencoded": plan.preencoded_headers}
    return {**message, "headers": [*plan.headers, *plan.preencoded_headers.fields]}


class ClientStalled(Exception):
    """Nothing could be written to the client within the send timeout."""


class SendTimeoutMonitor:
    """Aborts responses whose client has not accepted a byte for `timeout_seconds`.

    One task checks all responses: a timer for each cost 5 of the 40 us of a response.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self._last_progress: dict[ResponseSender, int] = {}
        self._tick = 0

    async def run(self) -> None:
        """Check all responses four times per timeout, until cancelled."""
        while True:
            await asyncio.sleep(self.timeout_seconds / 4)
            self._tick += 1
            for sender, progress_tick in self._last_progress.items():
                # Linux reports room only when a third of the send buffer is free, more than a megabyte: minutes of audio.
                if progress_tick < self._tick and sender.has_progressed():
                    self._last_progress[sender] = self._tick
                elif self._tick - progress_tick > 4:
                    sender.abort()

    def record_progress(self, sender: "ResponseSender") -> None:
        """Restart the timeout: the client accepted bytes, or is about to be sent some."""
        self._last_progress[sender] = self._tick

    def pause(self, sender: "ResponseSender") -> None:
        """Stop the timeout while the response waits for the store."""
        self._last_progress.pop(sender, None)


class ResponseSender:
    """Sends one response. Use it as a context manager, which raises ClientStalled where the send timeout aborted the response."""

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
        """Send the status and the headers."""
        self.started = True
        self._send_timeout.record_progress(self)
        await self._send(response_start_message(plan, extended=self._connection.extended_start))

    def pause_send_timeout(self) -> None:
        """Stop the send timeout while the response waits for the store."""
        self._send_timeout.pause(self)

    async def send_chunk(self, data: bytes | memoryview) -> None:
        """Send a part of the body. A memoryview saves a copy, because the server passes it to the transport as it is."""
        self._send_timeout.record_progress(self)
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def drain(self) -> None:
        """Wait until the write buffer has room, so that no further block is held meanwhile. Raises ClientDisconnected."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": True})
        self._chunks_sent += 1
        if self._chunks_sent % YIELD_EVERY_CHUNKS == 0:
            if self._disconnect_task is None:
                self._disconnect_task = asyncio.create_task(self._wait_for_disconnect())
            await asyncio.sleep(0)
        if self._disconnect_task is not None and self._disconnect_task.done():
            raise ClientDisconnected

    async def send_last_chunk(self, data: bytes) -> None:
        """Send the last part of the body. A response that ends without it makes the server reset the connection."""
        await self._send({"type": "http.response.body", "body": data})

    def has_progressed(self) -> bool:
        """Return whether the client has acknowledged bytes since the last call; False where the system does not report it."""
        before, self._send_queue_bytes = self._send_queue_bytes, self._connection.unacknowledged_bytes()
        return before is not None and before != self._send_queue_bytes

    def abort(self) -> None:
        """Cancel the response: its send timeout has expired."""
        if not self._stalled:
            self._stalled = True
            self._task.cancel()

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
