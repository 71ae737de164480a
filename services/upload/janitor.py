"""Takes away what nobody wants any more and tells what nobody was told: in every replica now and then, or once by itself.

    python -m services.upload.janitor

It decides nothing: the store says what is due, by its own clock. Two at once do the same work twice and no harm.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from services.common import logs, metrics
from services.common.errors import GridcastError
from services.common.mongo import open_mongo
from services.common.push import Push
from services.common.store.gridfs import GridFSStore
from services.common.store.gridfs_keep import GridFSKeeper
from services.common.store.port import Announcement, Keeper
from services.upload.announce import Announcer
from services.upload.settings import UploadSettings

STRAYS_EVERY = 360
"""Rounds between two looks for what belongs to nothing: an hour at ten seconds a round."""

Announce = Callable[[Announcement], Awaitable[bool]]
_log = logging.getLogger("gridcast.janitor")


class Janitor:
    """Rounds over everything that is due."""

    def __init__(self, keeper: Keeper, announce: Announce) -> None:
        self._keeper = keeper
        self._announce = announce
        # At 0 from the start: an alarm asks for those that do not rise.
        self._rounds = {outcome: metrics.JANITOR_ROUNDS.labels(outcome) for outcome in ("done", "broken off", "failed")}
        self._versions = metrics.JANITOR_REMOVED.labels("versions")
        self._strays = metrics.JANITOR_REMOVED.labels("strays")

    async def round(self) -> None:
        """Everything once. Raises Unavailable where the store is away."""
        telling = True
        async for media in self._keeper.due():
            self._versions.inc(await self._keeper.keep(media))
            for announcement in await self._keeper.unannounced(media) if telling else ():
                # Where Redis is away, every further try would wait for it again.
                telling = telling and await self._announce(announcement)

    async def strays(self) -> None:
        """What belongs to nothing."""
        if count := await self._keeper.strays():
            self._strays.inc(count)
            _log.warning("deleted the chunks of %d files that no document names", count)

    async def run(self, seconds: float) -> None:
        """A round about every `seconds`, until cancelled; replicas do not go in step."""
        rounds = random.randrange(STRAYS_EVERY)  # noqa: S311  # spreads load, guards nothing
        while True:
            await asyncio.sleep(seconds * random.uniform(0.5, 1.5))  # noqa: S311  # the same
            try:
                await self.round()
                rounds += 1
                if rounds % STRAYS_EVERY == 0:
                    await self.strays()
                self._rounds["done"].inc()
            except GridcastError as error:
                self._rounds["broken off"].inc()
                _log.warning("a round was broken off: %s", error)
            except Exception:  # noqa: BLE001  # the next round finds everything again
                self._rounds["failed"].inc()
                _log.exception("a round failed")


async def once(settings: UploadSettings) -> None:
    """One round, and one look for strays."""
    mongo = open_mongo(settings.mongodb_uri.get_secret_value(), settings.mongodb_database, settings.mongo_driver)
    try:
        async with Push.open(settings.redis_url.get_secret_value(), "/upload") as push:
            store = GridFSStore(mongo, settings.times())
            await store.prepare()
            announcer = Announcer(store, push)
            janitor = Janitor(GridFSKeeper(mongo, settings.times()), announcer.announce)
            await janitor.round()
            await janitor.strays()
            await announcer.aclose()
    finally:
        await mongo.aclose()


if __name__ == "__main__":
    own = UploadSettings()
    logs.configure("janitor", own.log_level)
    asyncio.run(once(own))
