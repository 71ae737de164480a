"""What the live service publishes: events on the topic of a stream, what is durable to its publisher, and wake-ups for its readers.

In the background and in order: whether Redis is fast, slow or unavailable makes no difference to a publisher. Events are published
again until Redis takes them; wake-ups are not, because readers ask the store as well.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import uuid4

from services.common.aio.cancellation import cancel_and_wait
from services.common.bus.publisher import EventPublisher
from services.common.errors import GridcastError
from services.common.live.viewer_counts import count_key
from services.common.live.wakeups import CHANNEL, WakeUp, encode_wake_up

MAX_WAITING_EVENTS = 10_000
"""Events that wait while Redis is away; the oldest ones are dropped beyond."""
MAX_WAITING_WAKE_UPS = 1_000
EVENT_RETRY_SECONDS = 1.0
RECEIVED_INTERVAL_SECONDS = 1.0
VIEWERS_TIMEOUT_SECONDS = 1.0
LIVE_EVENT_TIMEOUT_SECONDS = 5.0

_log = logging.getLogger("gridcast.live")
_Publication = Callable[[], Awaitable[object]]


class _Lane:
    """Publications one after another. With `retries`, one that fails is repeated until it does not."""

    def __init__(self, limit: int, *, retries: bool) -> None:
        self._waiting: deque[_Publication] = deque(maxlen=limit)
        self._added = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._retries = retries

    def add(self, publication: _Publication) -> None:
        """Add one behind those that wait."""
        self._waiting.append(publication)
        self._idle.clear()
        self._added.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        is_away = False
        while True:
            await self._added.wait()
            self._added.clear()
            while self._waiting:
                publication = self._waiting.popleft()
                try:
                    async with asyncio.timeout(LIVE_EVENT_TIMEOUT_SECONDS):
                        await publication()
                    is_away = False
                except (GridcastError, TimeoutError) as error:
                    if not is_away:
                        _log.warning("live event not published: %s", str(error) or "no answer")
                    is_away = True
                    if self._retries and len(self._waiting) < MAX_WAITING_EVENTS - 1:
                        self._waiting.appendleft(publication)
                        await asyncio.sleep(EVENT_RETRY_SECONDS)
                except Exception:  # noqa: BLE001  # the next one may succeed
                    _log.exception("live event not published")
            self._idle.set()

    async def drain(self, seconds: float) -> None:
        """Wait until nothing waits, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("%d live events are lost with this process", len(self._waiting))


class LiveEvents:
    """The publications of one process."""

    def __init__(self, publisher: EventPublisher) -> None:
        self._publisher = publisher
        self._events = _Lane(MAX_WAITING_EVENTS, retries=True)
        self._wake_ups = _Lane(MAX_WAITING_WAKE_UPS, retries=False)
        self._received_at: dict[str, float] = {}
        self._tasks = [asyncio.create_task(lane.run()) for lane in (self._events, self._wake_ups)]

    def wake_readers(self, stream_id: str, last_segment: int, state: str) -> None:
        """Say that a stream has changed."""
        message = encode_wake_up(WakeUp(stream_id, last_segment, state))
        self._wake_ups.add(lambda: self._publisher.redis.execute("PUBLISH", CHANNEL, message))

    def publish(self, stream_id: str, type: str, data: Mapping[str, Any]) -> None:  # noqa: A002  # CloudEvents' name
        """Publish an event on the topic of a stream."""
        event_id, content = uuid4().hex, {"id": stream_id, **data}
        self._events.add(lambda: self._publisher.publish(f"live/{stream_id}", type, content, id=event_id))

    def tell_publisher(self, sid: str | None, stream_id: str, received: int, last_segment: int) -> None:
        """Tell a publisher's socket what is durable, at most once a second."""
        if not sid:
            return
        now = time.monotonic()
        if now - self._received_at.get(sid, 0.0) < RECEIVED_INTERVAL_SECONDS:
            return
        if len(self._received_at) > MAX_WAITING_EVENTS:
            self._received_at.clear()
        self._received_at[sid] = now
        data = {"id": stream_id, "bytes": received, "segment": last_segment}
        self._wake_ups.add(lambda: self._publisher.send(sid, "live.received", data, conflation_key=stream_id))

    async def count_viewers(self, stream_id: str) -> int | None:
        """Return how many watch a stream, as the stream services have counted; None where Redis cannot say."""
        try:
            async with asyncio.timeout(VIEWERS_TIMEOUT_SECONDS):
                found = await self._publisher.redis.execute("GET", count_key(stream_id))
        except (GridcastError, TimeoutError):
            return None
        return 0 if found is None else int(found)

    async def aclose(self) -> None:
        """Publish what waits, for a moment, then end."""
        await self._events.drain(LIVE_EVENT_TIMEOUT_SECONDS / 2)
        await cancel_and_wait(*self._tasks)
