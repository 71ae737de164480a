"""Tells one socket how its upload goes: `file.progress`, at most ten a second, the last value wins. It knows no HTTP and no store.

The upload only leaves a number here and goes on; whether Redis is quick, slow or away makes no difference to it.
"""

import asyncio
import time
from contextlib import suppress
from typing import Literal, Protocol
from uuid import uuid4

from services.common.errors import GridcastError
from services.common.push import Push
from services.common.tasks import end

State = Literal["receiving", "verifying", "stored", "failed"]
INTERVAL = 0.1
UNKNOWN_INTERVAL = 2.0
"""Between two tries where nobody knows the socket."""


class NoProgress:
    """Where no socket was named."""

    def received(self, count: int, total: int | None = None) -> None:
        """So many bytes of the file have come so far."""

    def state(self, state: State) -> None:
        """What happens to them. `stored` and `failed` are the last."""

    def close(self) -> None:
        """Nothing more is known for now: the upload goes on in another request, or never."""


class Watch(Protocol):
    """Gives the progress for a sid, of a file name with so many bytes where that is known.

    `upload` names one that may come in several requests: they go on with one progress.
    """

    def __call__(self, sid: str | None, filename: str, total: int | None, upload: str = "") -> NoProgress: ...


class Progress(NoProgress):
    """The progress of one upload, for one socket."""

    def __init__(self, push: Push, sid: str, filename: str, key: str) -> None:
        self._filename = filename
        self._push = push
        self._sid = sid
        self._total: int | None = None
        self._key = key
        self._received = 0
        self._state: State = "receiving"
        self._ended = asyncio.Event()
        self._news = asyncio.Event()

    def open(self, total: int | None) -> None:
        """A request begins, the first one or another."""
        self._total = self._total if total is None else total
        self._state = "receiving"
        self._ended.clear()
        self._news.set()

    def received(self, count: int, total: int | None = None) -> None:
        """Leave the number."""
        self._received = count
        self._total = self._total if total is None else total
        self._news.set()

    def state(self, state: State) -> None:
        """Leave the state."""
        if not self._ended.is_set():
            self._state = state
            self._news.set()
            if state in {"stored", "failed"}:
                self._ended.set()

    def close(self) -> None:
        """Push what is left."""
        self._ended.set()
        self._news.set()

    async def run(self) -> None:
        """Push until the end, and a moment longer: another request may go on, and is not told of more often for that."""
        before, at, rate = 0, time.monotonic(), 0.0
        while not self._ended.is_set() or self._news.is_set():
            await self._news.wait()
            self._news.clear()
            received, now = self._received, time.monotonic()
            # Half the weight on what came since the last one: steady, and within a second of a change.
            latest = (received - before) / (now - at) if now > at and before else 0.0
            rate = (rate + latest) / 2 if rate else latest
            before, at = received, now
            await self._pause(await self._tell(received, round(rate)))

    async def _tell(self, received: int, rate: int) -> float:
        """Push; how long to wait before the next one."""
        data = {
            "filename": self._filename,
            "received": received,
            "total": self._total,
            "rate": rate,
            "state": self._state,
        }
        try:
            receipt = await self._push.send(self._sid, "file.progress", data, last_value=self._key)
        except GridcastError:
            return UNKNOWN_INTERVAL
        return UNKNOWN_INTERVAL if receipt.status == "unknown" else INTERVAL

    async def _pause(self, seconds: float) -> None:
        """Wait, though no longer than INTERVAL where the request has ended."""
        await asyncio.sleep(INTERVAL)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds - INTERVAL):
                await self._ended.wait()


class Watchers:
    """Makes the progress of every upload, and ends what still runs."""

    def __init__(self, push: Push) -> None:
        self._push = push
        self._open: dict[tuple[str, str], tuple[Progress, asyncio.Task[None]]] = {}

    def watch(self, sid: str | None, filename: str, total: int | None, upload: str = "") -> NoProgress:
        """A Watch."""
        if not sid:
            return NoProgress()
        key = (sid, upload or uuid4().hex)
        if key not in self._open:
            progress = Progress(self._push, sid, filename, key[1])
            task = asyncio.create_task(progress.run())
            self._open[key] = progress, task
            task.add_done_callback(lambda _: self._open.pop(key))
        progress = self._open[key][0]
        progress.open(total)
        return progress

    async def aclose(self) -> None:
        """End what is under way: its last values are of no use to a socket whose upload is cut."""
        await end(*(task for _, task in self._open.values()))
