"""Takes away what nobody wants any more and tells what nobody was told: in every replica now and then, or once by itself.

    python -m services.upload.collect_garbage

It decides nothing: the store says what is due, by its own clock. Two at once do the same work twice and no harm.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from services.common.bus.publisher import EventPublisher
from services.common.errors import GridcastError
from services.common.store.gridfs.garbage_collector import GridFSGarbageCollector
from services.common.store.gridfs.mongo import open_mongo_database
from services.common.store.gridfs.upload_store import GridFSUploadStore
from services.common.store.upload_store import GarbageCollector, OutboxEvent
from services.common.telemetry import json_logging, metrics
from services.upload.outbox import OutboxPublisher
from services.upload.settings import UploadSettings

ORPHAN_SCAN_ROUNDS = 360
"""Rounds between two looks for what belongs to nothing: an hour at ten seconds a round."""

PublishEvent = Callable[[OutboxEvent], Awaitable[bool]]
_log = logging.getLogger("gridcast.gc")


class GarbageCollectionLoop:
    """Rounds over everything that is due."""

    def __init__(self, collector: GarbageCollector, publish: PublishEvent) -> None:
        self._collector = collector
        self._publish = publish
        # At 0 from the start: an alarm asks for those that do not rise.
        self._round_counters = {
            outcome: metrics.GC_RUNS.labels(outcome) for outcome in ("completed", "aborted", "failed")
        }
        self._versions_counter = metrics.GC_DELETED_FILES.labels("tombstone")
        self._orphans_counter = metrics.GC_DELETED_FILES.labels("orphan")

    async def run_once(self) -> None:
        """Everything once. Raises Unavailable where the store is away."""
        telling = True
        async for media in self._collector.list_due():
            self._versions_counter.inc(await self._collector.collect(media))
            for announcement in await self._collector.list_unpublished(media) if telling else ():
                # Where Redis is away, every further try would wait for it again.
                telling = telling and await self._publish(announcement)

    async def delete_orphans(self) -> None:
        """What belongs to nothing."""
        if count := await self._collector.delete_orphans():
            self._orphans_counter.inc(count)
            _log.warning("deleted the chunks of %d orphaned files", count)

    async def run(self, interval: float) -> None:
        """A round about every `seconds`, until cancelled; replicas do not go in step."""
        rounds = random.randrange(ORPHAN_SCAN_ROUNDS)  # noqa: S311  # spreads load, guards nothing
        while True:
            await asyncio.sleep(interval * random.uniform(0.5, 1.5))  # noqa: S311  # the same
            try:
                await self.run_once()
                rounds += 1
                if rounds % ORPHAN_SCAN_ROUNDS == 0:
                    await self.delete_orphans()
                self._round_counters["completed"].inc()
            except GridcastError as error:
                self._round_counters["aborted"].inc()
                _log.warning("garbage collection aborted: %s", error)
            except Exception:  # noqa: BLE001  # the next round finds everything again
                self._round_counters["failed"].inc()
                _log.exception("garbage collection failed")


async def run_standalone(settings: UploadSettings) -> None:
    """One round, and one look for strays."""
    mongo = open_mongo_database(
        settings.mongodb_uri.get_secret_value(), settings.mongodb_database, settings.mongodb_driver
    )
    try:
        async with EventPublisher.from_url(settings.redis_url.get_secret_value(), "/upload") as push:
            store = GridFSUploadStore(mongo, settings.store_timings())
            await store.ensure_schema()
            announcer = OutboxPublisher(store, push)
            janitor = GarbageCollectionLoop(GridFSGarbageCollector(mongo, settings.store_timings()), announcer.publish)
            await janitor.run_once()
            await janitor.delete_orphans()
            await announcer.aclose()
    finally:
        await mongo.aclose()


if __name__ == "__main__":
    own = UploadSettings()
    json_logging.configure_logging("gc", own.log_level)
    asyncio.run(run_standalone(own))
