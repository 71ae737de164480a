"""Publishes the events of the store's outbox, and acknowledges them to the store afterwards.

This order is safe: a crash before the publication leaves the event in the outbox, and it is published later with the same id.
"""

import asyncio
import logging

from services.common.bus.publisher import EventPublisher
from services.common.errors import GridcastError
from services.common.store.upload_store import EventAcknowledger, OutboxEvent

PUBLISH_TIMEOUT_SECONDS = 2.0
"""How long a response waits for Redis. An event that is not published in this time is published later."""

_log = logging.getLogger("gridcast.upload")


class OutboxPublisher:
    """Publishes committed changes."""

    def __init__(self, store: EventAcknowledger, publisher: EventPublisher) -> None:
        self._store = store
        self._publisher = publisher
        self._pending_acks: set[asyncio.Task[None]] = set()

    async def publish(self, event: OutboxEvent) -> bool:
        """Invalidate cached metadata, then broadcast the event. False where Redis is unavailable: the change is stored anyway."""
        info = event.info
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_SECONDS):
                await self._publisher.publish_invalidation(info.folder, info.filename)
                await self._publisher.broadcast(event.type, info.to_public_dict(), id=event.id)
        except (GridcastError, TimeoutError) as error:
            _log.warning("event %s of %s not published, will be retried: %s", event.type, info.id, error)
            return False
        # Not awaited: an event that is published twice has the same id.
        task = asyncio.create_task(self._ack(event))
        self._pending_acks.add(task)
        task.add_done_callback(self._pending_acks.discard)
        return True

    async def aclose(self) -> None:
        """Wait for the acknowledgements in progress."""
        if self._pending_acks:
            await asyncio.wait(self._pending_acks, timeout=PUBLISH_TIMEOUT_SECONDS)

    async def _ack(self, event: OutboxEvent) -> None:
        try:
            await self._store.ack_event(event)
        except GridcastError as error:
            _log.warning(
                "event %s of %s not acknowledged, will be published again: %s", event.type, event.info.id, error
            )
