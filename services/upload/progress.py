"""Publishes the progress of uploads to a socket: `file.progress`, at most ten a second, where the latest value replaces older ones.

The upload only sets a number and continues: whether Redis is fast, slow or unavailable makes no difference to it.
"""

import asyncio
import time
from contextlib import suppress
from typing import Literal, Protocol
from uuid import uuid4

from services.common.aio.cancellation import cancel_and_wait
from services.common.bus.publisher import EventPublisher
from services.common.errors import GridcastError

ProgressState = Literal["receiving", "verifying", "stored", "failed"]
REPORT_INTERVAL_SECONDS = 0.1
UNKNOWN_SOCKET_INTERVAL_SECONDS = 2.0
"""Between two attempts while no socket with that id is connected."""


class Progress(Protocol):
    """The progress of one upload."""

    def set_received(self, count: int, total: int | None = None) -> None:
        """Set how many bytes of the file were received, and its length where it became known."""

    def set_state(self, state: ProgressState) -> None:
        """Set the state. `stored` and `failed` are final."""

    def close(self) -> None:
        """End without a final state: the upload continues in another request, or never."""


class StartProgress(Protocol):
    """Starts the progress of an upload for a socket id, with the file name and its length in bytes where that is known.

    `upload_id` identifies an upload that may take several requests: they share one progress.
    """

    def __call__(self, sid: str | None, filename: str, total: int | None, upload_id: str = "") -> Progress: ...


class NullProgress:
    """The progress of an upload for which no socket was given."""

    def set_received(self, count: int, total: int | None = None) -> None:
        """Do nothing."""

    def set_state(self, state: ProgressState) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class UploadProgress:
    """The progress of one upload, published to one socket."""

    def __init__(self, publisher: EventPublisher, sid: str, filename: str, conflation_key: str) -> None:
        self._filename = filename
        self._publisher = publisher
        self._sid = sid
        self._total: int | None = None
        self._conflation_key = conflation_key
        self._bytes_received = 0
        self._state: ProgressState = "receiving"
        self._finished = asyncio.Event()
        self._changed = asyncio.Event()

    def start_request(self, total: int | None) -> None:
        """Begin a request, the first one or another of the same upload."""
        self._total = self._total if total is None else total
        self._state = "receiving"
        self._finished.clear()
        self._changed.set()

    def set_received(self, count: int, total: int | None = None) -> None:
        """Set the number; it is published later."""
        self._bytes_received = count
        self._total = self._total if total is None else total
        self._changed.set()

    def set_state(self, state: ProgressState) -> None:
        """Set the state; it is published later."""
        if not self._finished.is_set():
            self._state = state
            self._changed.set()
            if state in {"stored", "failed"}:
                self._finished.set()

    def close(self) -> None:
        """Let `run` publish the last values and end."""
        self._finished.set()
        self._changed.set()

    async def run(self) -> None:
        """Publish until the end, and an interval longer: a further request continues here and publishes no more often."""
        before, at, rate = 0, time.monotonic(), 0.0
        while not self._finished.is_set() or self._changed.is_set():
            await self._changed.wait()
            self._changed.clear()
            received, now = self._bytes_received, time.monotonic()
            # Half the weight is on the bytes since the last message: steady, and within a second of a change.
            latest = (received - before) / (now - at) if now > at and before else 0.0
            rate = (rate + latest) / 2 if rate else latest
            before, at = received, now
            await self._wait_interval(await self._publish(received, round(rate)))

    async def _publish(self, bytes_received: int, rate: int) -> float:
        """Publish a message; returns the seconds to wait before the next one."""
        data = {
            "filename": self._filename,
            "received": bytes_received,
            "total": self._total,
            "rate": rate,
            "state": self._state,
        }
        try:
            result = await self._publisher.send(self._sid, "file.progress", data, conflation_key=self._conflation_key)
        except GridcastError:
            return UNKNOWN_SOCKET_INTERVAL_SECONDS
        return UNKNOWN_SOCKET_INTERVAL_SECONDS if result.status == "unknown" else REPORT_INTERVAL_SECONDS

    async def _wait_interval(self, seconds: float) -> None:
        """Wait, but no longer than REPORT_INTERVAL_SECONDS once the request has ended."""
        await asyncio.sleep(REPORT_INTERVAL_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds - REPORT_INTERVAL_SECONDS):
                await self._finished.wait()


class ProgressReporter:
    """Starts the progress of every upload, and cancels those in progress at shutdown."""

    def __init__(self, publisher: EventPublisher) -> None:
        self._publisher = publisher
        self._active: dict[tuple[str, str], tuple[UploadProgress, asyncio.Task[None]]] = {}

    def start(self, sid: str | None, filename: str, total: int | None, upload_id: str = "") -> Progress:
        """Start or continue a progress: a `StartProgress`."""
        if not sid:
            return NullProgress()
        key = (sid, upload_id or uuid4().hex)
        if key not in self._active:
            progress = UploadProgress(self._publisher, sid, filename, key[1])
            task = asyncio.create_task(progress.run())
            self._active[key] = progress, task
            task.add_done_callback(lambda _: self._active.pop(key))
        progress = self._active[key][0]
        progress.start_request(total)
        return progress

    async def aclose(self) -> None:
        """Cancel all progress: a socket whose upload is aborted does not need the last values."""
        await cancel_and_wait(*(task for _, task in self._active.values()))
