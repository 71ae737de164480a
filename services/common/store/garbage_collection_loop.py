"""Runs the garbage collector of a store: one run, or runs at an interval. The store decides what is due, by its own clock.

Two loops at the same time do the same work twice, and no harm.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from services.common.errors import GridcastError
from services.common.store.garbage_collector import GarbageCollector
from services.common.store.upload_store import OutboxEvent
from services.common.telemetry import metrics

ORPHAN_SCAN_ROUNDS = 360
"""Runs between two searches for orphans: about an hour at an interval of ten seconds."""

PublishEvent = Callable[[OutboxEvent], Awaitable[bool]]
RelayEvents = Callable[[str], Awaitable[None]]
_log = logging.getLogger("gridcast.gc")


class GarbageCollectionLoop:
    """Runs over everything that is due.

    `publish` returns whether it has published the event. `relay` relays what is not relayed under an entry, where webhooks are on.
    """

    def __init__(self, collector: GarbageCollector, publish: PublishEvent, relay: RelayEvents | None = None) -> None:
        self._collector = collector
        self._publish = publish
        self._relay = relay
        # Created at 0 on start: an alert fires where the counter does not increase.
        self._round_counters = {
            outcome: metrics.GC_RUNS.labels(outcome) for outcome in ("completed", "aborted", "failed")
        }
        self._versions_counter = metrics.GC_DELETED_FILES.labels("tombstone")
        self._orphans_counter = metrics.GC_DELETED_FILES.labels("orphan")

    async def run_once(self) -> None:
        """Collect and publish everything that is due. Raises ServiceUnavailable where the store is unavailable."""
        publishing = True
        async for media_id in self._collector.list_due():
            self._versions_counter.inc(await self._collector.collect(media_id))
            if self._relay is not None:
                await self._relay(media_id)
            for event in await self._collector.list_unpublished(media_id) if publishing else ():
                # While Redis is unavailable, every further attempt would wait for its timeout again.
                publishing = publishing and await self._publish(event)

    async def delete_orphans(self) -> None:
        """Delete blocks that no entry references, and count what owners have."""
        await self._collector.count_quotas()
        if count := await self._collector.delete_orphans():
            self._orphans_counter.inc(count)
            _log.warning("deleted the chunks of %d orphaned files", count)

    async def run(self, interval: float) -> None:
        """Run about every `interval` seconds until cancelled, with jitter so that replicas do not run in step."""
        rounds = random.randrange(ORPHAN_SCAN_ROUNDS)  # noqa: S311  # spreads load, not a secret
        while True:
            await asyncio.sleep(interval * random.uniform(0.5, 1.5))  # noqa: S311  # spreads load, not a secret
            try:
                await self.run_once()
                rounds += 1
                if rounds % ORPHAN_SCAN_ROUNDS == 0:
                    await self.delete_orphans()
                self._round_counters["completed"].inc()
            except GridcastError as error:
                self._round_counters["aborted"].inc()
                _log.warning("garbage collection aborted: %s", error)
            except Exception:  # noqa: BLE001  # the next run finds everything again
                self._round_counters["failed"].inc()
                _log.exception("garbage collection failed")
