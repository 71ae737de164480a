"""Tells the world of a change: pushes an event that the store has noted, then lets the store forget it. It knows no HTTP.

The order makes it safe: a crash before the push leaves the note, and the event goes out later with the same id.
"""

import asyncio
import logging

from services.common.bus.publisher import EventPublisher
from services.common.errors import GridcastError
from services.common.store.upload_store import OutboxEvent, UploadStore

PUBLISH_TIMEOUT_SECONDS = 2.0
"""How long an answer waits for Redis. What does not get through is pushed later."""

_log = logging.getLogger("gridcast.upload")


class OutboxPublisher:
    """Pushes what was committed."""

    def __init__(self, store: UploadStore, publisher: EventPublisher) -> None:
        self._store = store
        self._publisher = publisher
        self._pending_acks: set[asyncio.Task[None]] = set()

    async def publish(self, event: OutboxEvent) -> bool:
        """Drop cached metadata everywhere, then tell every socket. Never raises for a Redis that is away: the file is stored."""
        info = event.info
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_SECONDS):
                await self._publisher.publish_invalidation(info.folder, info.filename)
                await self._publisher.broadcast(event.type, info.to_public_dict(), id=event.id)
        except (GridcastError, TimeoutError) as error:
            _log.warning("event %s of %s not published, will be retried: %s", event.type, info.id, error)
            return False
        # Nobody waits for this: an event that is pushed twice has the same id.
        task = asyncio.create_task(self._ack(event))
        self._pending_acks.add(task)
        task.add_done_callback(self._pending_acks.discard)
        return True

    async def aclose(self) -> None:
        """Wait for what is under way."""
        if self._pending_acks:
            await asyncio.wait(self._pending_acks, timeout=PUBLISH_TIMEOUT_SECONDS)

    async def _ack(self, event: OutboxEvent) -> None:
        try:
            await self._store.ack_event(event)
        except GridcastError as error:
            _log.warning(
                "event %s of %s not acknowledged, will be published again: %s", event.type, event.info.id, error
            )
