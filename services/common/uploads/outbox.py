"""Publishes the events of the store's outbox, and acknowledges them to the store afterwards.

This order is safe: a crash before the publication leaves the event in the outbox, and it is published later with the same id.

The events of one name are published in the order of its changes, by whichever process: before an event those are published that
the outbox had before it. Two processes that do so at the same time publish the same events in the same order, and Redis removes the
second of each for four minutes, by its id. So nothing is published that was read too long ago.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from services.common.bus.publisher import EventPublisher
from services.common.errors import GridcastError
from services.common.store.upload_store import EventAcknowledger, OutboxEvent
from services.common.uploads.event_data import describe_event

PUBLISH_TIMEOUT_SECONDS = 2.0
"""How long a response waits for Redis. An event that is not published in this time is published later."""
MAX_READ_AGE_SECONDS = 60.0
"""How old the reading of an outbox may be: well below the time in which Redis removes duplicates. A process that was paused longer
leaves its events to the garbage collector."""

RelayEvents = Callable[[Sequence[OutboxEvent]], Awaitable[None]]
_log = logging.getLogger("gridcast.upload")


@dataclass(slots=True)
class _Turn:
    """The publications of one name in this process, while there are any."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0
    revision: int = 0
    """The last revision that was published."""


class OutboxPublisher:
    """Publishes committed changes. `relay` makes deliveries of them, where webhooks are on."""

    def __init__(self, store: EventAcknowledger, publisher: EventPublisher, relay: RelayEvents | None = None) -> None:
        self._store = store
        self._publisher = publisher
        self._relay_events = relay
        self._turns: dict[str, _Turn] = {}
        self._pending_acks: set[asyncio.Task[None]] = set()

    async def publish(self, event: OutboxEvent) -> bool:
        """Invalidate cached metadata, then broadcast the event after all earlier ones of its name.

        False where Redis is unavailable: the change is stored anyway.
        """
        published: list[OutboxEvent] = []
        relaying: asyncio.Task[None] | None = None
        if self._relay_events is not None and event.to_relay:
            # Not awaited: what is not relayed here is relayed later, from the outbox.
            relaying = self._start(self._relay(self._relay_events, event))
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_SECONDS), self._turn(event.name_key) as turn:
                await self._publisher.publish_invalidation(event.info.folder, event.info.filename)
                if event.previous is not None:
                    old = event.previous.name
                    await self._publisher.publish_invalidation(old.folder, old.filename)
                for following in (*event.earlier, event):
                    if not following.info.revision or following.info.revision > turn.revision:
                        await self._broadcast(following, event.read_at)
                        turn.revision = following.info.revision
                    published.append(following)
        except (GridcastError, TimeoutError) as error:
            _log.warning(
                "event %s of %s not published, will be retried: %s",
                event.type,
                event.info.id,
                str(error) or "no answer",
            )
            return False
        finally:
            if published:
                # Not awaited: an event that is published twice has the same id.
                self._start(self._ack(published[-1], relaying))
        return True

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._pending_acks.add(task)
        task.add_done_callback(self._pending_acks.discard)
        return task

    @staticmethod
    async def _relay(relay: RelayEvents, event: OutboxEvent) -> None:
        try:
            await relay(event.to_relay)
        except GridcastError as error:
            _log.warning("event %s of %s not relayed, will be retried: %s", event.type, event.info.id, error)
        except Exception:  # noqa: BLE001  # the outbox still has the event
            _log.exception("event %s of %s not relayed, will be retried", event.type, event.info.id)

    @asynccontextmanager
    async def _turn(self, name_key: str) -> AsyncIterator[_Turn]:
        """Publish the events of one name one after another; those that another request has published meanwhile are known."""
        turn = self._turns.setdefault(name_key, _Turn())
        turn.waiting += 1
        try:
            async with turn.lock:
                yield turn
        finally:
            turn.waiting -= 1
            if not turn.waiting:
                del self._turns[name_key]

    async def _broadcast(self, event: OutboxEvent, read_at: float) -> None:
        if time.monotonic() - read_at > MAX_READ_AGE_SECONDS:
            raise TimeoutError("read too long ago")
        resync = event.type == "socket.resync"
        data = {"reason": "events were lost"} if resync else describe_event(event)
        await self._publisher.broadcast(event.type, data, id=event.id)

    async def aclose(self) -> None:
        """Wait for the acknowledgements in progress."""
        if self._pending_acks:
            await asyncio.wait(self._pending_acks, timeout=PUBLISH_TIMEOUT_SECONDS)

    async def _ack(self, event: OutboxEvent, relaying: asyncio.Task[None] | None = None) -> None:
        if relaying is not None:
            # Acknowledged afterwards, it leaves the outbox at once; before, the garbage collector would have to remove it.
            await asyncio.wait({relaying})
        try:
            await self._store.ack_event(event)
        except GridcastError as error:
            _log.warning(
                "event %s of %s not acknowledged, will be published again: %s", event.type, event.info.id, error
            )
