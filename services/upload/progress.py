"""Tells one socket how its upload goes: `file.progress`, at most ten a second, the last value wins. It knows no HTTP and no store.

The upload only leaves a number here and goes on; whether Redis is quick, slow or away makes no difference to it.
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
"""Between two tries where nobody knows the socket."""


class NullProgress:
    """Where no socket was named."""

    def set_received(self, count: int, total: int | None = None) -> None:
        """So many bytes of the file have come so far."""

    def set_state(self, state: ProgressState) -> None:
        """What happens to them. `stored` and `failed` are the last."""

    def close(self) -> None:
        """Nothing more is known for now: the upload goes on in another request, or never."""


class StartProgress(Protocol):
    """Gives the progress for a sid, of a file name with so many bytes where that is known.

    `upload` names one that may come in several requests: they go on with one progress.
    """

    def __call__(self, sid: str | None, filename: str, total: int | None, upload_id: str = "") -> NullProgress: ...


class UploadProgress(NullProgress):
    """The progress of one upload, for one socket."""

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
        """A request begins, the first one or another."""
        self._total = self._total if total is None else total
        self._state = "receiving"
        self._finished.clear()
        self._changed.set()

    def set_received(self, count: int, total: int | None = None) -> None:
        """Leave the number."""
        self._bytes_received = count
        self._total = self._total if total is None else total
        self._changed.set()

    def set_state(self, state: ProgressState) -> None:
        """Leave the state."""
        if not self._finished.is_set():
            self._state = state
            self._changed.set()
            if state in {"stored", "failed"}:
                self._finished.set()

    def close(self) -> None:
        """Push what is left."""
        self._finished.set()
        self._changed.set()

    async def run(self) -> None:
        """Push until the end, and a moment longer: another request may go on, and is not told of more often for that."""
        before, at, rate = 0, time.monotonic(), 0.0
        while not self._finished.is_set() or self._changed.is_set():
            await self._changed.wait()
            self._changed.clear()
            received, now = self._bytes_received, time.monotonic()
            # Half the weight on what came since the last one: steady, and within a second of a change.
            latest = (received - before) / (now - at) if now > at and before else 0.0
            rate = (rate + latest) / 2 if rate else latest
            before, at = received, now
            await self._wait_interval(await self._publish(received, round(rate)))

    async def _publish(self, bytes_received: int, rate: int) -> float:
        """Push; how long to wait before the next one."""
        data = {
            "filename": self._filename,
            "received": bytes_received,
            "total": self._total,
            "rate": rate,
            "state": self._state,
        }
        try:
            receipt = await self._publisher.send(self._sid, "file.progress", data, conflation_key=self._conflation_key)
        except GridcastError:
            return UNKNOWN_SOCKET_INTERVAL_SECONDS
        return UNKNOWN_SOCKET_INTERVAL_SECONDS if receipt.status == "unknown" else REPORT_INTERVAL_SECONDS

    async def _wait_interval(self, seconds: float) -> None:
        """Wait, though no longer than INTERVAL where the request has ended."""
        await asyncio.sleep(REPORT_INTERVAL_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds - REPORT_INTERVAL_SECONDS):
                await self._finished.wait()


class ProgressReporter:
    """Makes the progress of every upload, and ends what still runs."""

    def __init__(self, publisher: EventPublisher) -> None:
        self._publisher = publisher
        self._active: dict[tuple[str, str], tuple[UploadProgress, asyncio.Task[None]]] = {}

    def start(self, sid: str | None, filename: str, total: int | None, upload_id: str = "") -> NullProgress:
        """A Watch."""
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
        """End what is under way: its last values are of no use to a socket whose upload is cut."""
        await cancel_and_wait(*(task for _, task in self._active.values()))
