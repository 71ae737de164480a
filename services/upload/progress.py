"""Tells one socket how its upload goes: `file.progress`, at most ten a second, the last value wins. It knows no HTTP and no store.

The upload only leaves a number here and goes on; whether Redis is quick, slow or away makes no difference to it.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Literal
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


Watch = Callable[[str | None, str, int | None], NoProgress]
"""Gives the progress for a sid, of a file name with so many bytes where that is known."""


class Progress(NoProgress):
    """The progress of one upload, for one socket."""

    def __init__(self, push: Push, sid: str, filename: str, total: int | None, tasks: set[asyncio.Task[None]]) -> None:
        self._filename = filename
        self._push = push
        self._sid = sid
        self._total = total
        self._key = uuid4().hex
        self._received = 0
        self._state: State = "receiving"
        self._ended = asyncio.Event()
        self._news = asyncio.Event()
        self._news.set()
        task = asyncio.create_task(self._run())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

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

    async def _run(self) -> None:
        before, at, rate = 0, time.monotonic(), 0.0
        ended = False
        while not ended:
            await self._news.wait()
            self._news.clear()
            ended, received, now = self._ended.is_set(), self._received, time.monotonic()
            # Half the weight on what came since the last one: steady, and within a second of a change.
            latest = (received - before) / (now - at) if now > at and before else 0.0
            rate = (rate + latest) / 2 if rate else latest
            before, at = received, now
            pause = await self._tell(received, round(rate))
            if not ended:
                await self._pause(pause)

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
        """Wait, though no longer than INTERVAL for the end of an upload."""
        await asyncio.sleep(INTERVAL)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds - INTERVAL):
                await self._ended.wait()


class Watchers:
    """Makes the progress of every upload, and ends what still runs."""

    def __init__(self, push: Push) -> None:
        self._push = push
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, sid: str | None, filename: str, total: int | None) -> NoProgress:
        """A Watch."""
        return Progress(self._push, sid, filename, total, self._tasks) if sid else NoProgress()

    async def aclose(self) -> None:
        """End what is under way: its last values are of no use to a socket whose upload is cut."""
        await end(*self._tasks)
