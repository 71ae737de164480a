"""Stores of every kind as the product opens them, each empty: fixture `stores`, the settings of some.

Parametrize it indirectly with tuples of STORE_KINDS, as in `with_stores(("gridfs-motor", "files-sqlite"))`.
"""

import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.common.settings import StoreSettings
from services.common.store.factory import MediaStore, open_store
from services.common.store.quotas import NO_QUOTA, Quota
from services.common.store.timings import StoreTimings
from tests.support.fault_proxy import FaultProxy, run_fault_proxy

STORE_KINDS = ("gridfs-motor", "gridfs-pymongo", "files-sqlite", "files-postgresql")


def with_stores(*kinds: tuple[str, ...]) -> pytest.MarkDecorator:
    """Run a test once for each tuple of kinds of stores."""
    return pytest.mark.parametrize("stores", kinds, indirect=True, ids=" ".join)


@pytest.fixture
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[StoreSettings]]:
    """The settings of empty stores; those of servers may have their tables and indexes already.

    Not asynchronous, because the servers are started without an event loop.
    """

    def make(kind: str) -> StoreSettings:
        name = f"test_{uuid.uuid4().hex[:12]}"
        store, _, variant = kind.partition("-")
        if store == "gridfs":
            url = request.getfixturevalue("mongod").url
            name = used.enter_context(request.getfixturevalue("prepared_databases").use())
            return StoreSettings(mongodb_uri=url, mongodb_database=name, mongodb_driver=variant)
        database_url = ""
        if variant == "postgresql":
            database = used.enter_context(request.getfixturevalue("migrated_postgresql").use())
            database_url = request.getfixturevalue("postgresql").url(database)
        return StoreSettings(store="files", files_dir=str(tmp_path / name), database_url=database_url)

    with contextlib.ExitStack() as used:
        yield [make(kind) for kind in request.param]


@asynccontextmanager
async def opened_store(
    settings: StoreSettings, timings: StoreTimings | None = None, quota: Quota = NO_QUOTA
) -> AsyncIterator[MediaStore]:
    """A store that is ready."""
    store = open_store(settings, timings, quota)
    try:
        await store.uploads.ensure_schema()
        yield store
    finally:
        await store.aclose()


@contextlib.contextmanager
def proxied_store(
    settings: StoreSettings, redis_url: str, more: Mapping[str, str]
) -> Iterator[tuple[dict[str, str], dict[str, str], FaultProxy | None]]:
    """The variables of services on a store, those of services that reach its database through a proxy, and the proxy.

    SQLite has none: then both are the same.
    """
    common = {"GRIDCAST_STORE": settings.store, "GRIDCAST_REDIS_URL": redis_url, **more}
    url = settings.mongodb_uri.get_secret_value()
    common["GRIDCAST_MONGODB_DATABASE"], name = settings.mongodb_database, "GRIDCAST_MONGODB_URI"
    common["GRIDCAST_MONGODB_DRIVER"] = settings.mongodb_driver
    if settings.store == "files":
        url = settings.database_url.get_secret_value()
        common["GRIDCAST_FILES_DIR"], name = settings.files_dir, "GRIDCAST_DATABASE_URL"
    if not url:
        yield common, common, None
        return
    port = int(url.rpartition(":")[2].partition("/")[0])
    with run_fault_proxy(port) as proxy:
        yield {**common, name: url}, {**common, name: url.replace(f":{port}", f":{proxy.port}")}, proxy
