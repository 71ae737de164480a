"""What tests of live streams at running stream services share: the store of a service, opened beside it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.common.bus.redis import RedisClient
from services.common.settings import StoreSettings
from services.common.store.timings import StoreTimings
from tests.support.databases import FilesFolder, ServerProcess
from tests.support.live_writer import LiveWriter
from tests.support.opened_stores import opened_store


def store_settings(mongod: ServerProcess, database: str) -> StoreSettings:
    """The store that `storage_env` gives to a service."""
    if isinstance(mongod, FilesFolder):
        return StoreSettings(store="files", files_dir=str(mongod.data_dir / database))
    return StoreSettings(mongodb_uri=mongod.url, mongodb_database=database)


def prepare_store(mongod: ServerProcess, database: str) -> None:
    """Make the tables or indexes that a stream service finds when it starts."""

    async def prepare() -> None:
        async with opened_store(store_settings(mongod, database), StoreTimings()):
            pass

    asyncio.run(prepare())


@asynccontextmanager
async def live_writer(
    mongod: ServerProcess, redis_url: str, database: str, *, target: int = 2, folder: str = "live"
) -> AsyncIterator[LiveWriter]:
    """A publisher of one new stream."""
    redis = RedisClient.from_url(redis_url)
    try:
        async with opened_store(store_settings(mongod, database), StoreTimings()) as store:
            yield await LiveWriter(store, redis, target=target).create(folder)
    finally:
        await redis.aclose()
