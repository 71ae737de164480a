"""Stores of every kind as the product opens them, each new and empty: fixture `make_store_settings`."""

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pymongo
import pytest

from services.common.settings import StoreSettings
from services.common.store.factory import MediaStore, open_store
from services.common.store.timings import StoreTimings

STORE_KINDS = ("gridfs-motor", "gridfs-pymongo", "files-sqlite", "files-postgresql")

MakeStoreSettings = Callable[[str], StoreSettings]


@pytest.fixture
def make_store_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStoreSettings]:
    """A call that returns the settings of a new store of one of STORE_KINDS."""
    mongodb: list[tuple[str, str]] = []
    postgresql: list[tuple[Any, str]] = []

    def make(kind: str) -> StoreSettings:
        name = f"test_{uuid.uuid4().hex[:12]}"
        store, _, variant = kind.partition("-")
        if store == "gridfs":
            url = request.getfixturevalue("mongod").url
            mongodb.append((url, name))
            return StoreSettings(mongodb_uri=url, mongodb_database=name, mongodb_driver=variant)
        database_url = ""
        if variant == "postgresql":
            server = request.getfixturevalue("postgresql")
            server.execute(f"CREATE DATABASE {name}", "postgres")
            postgresql.append((server, name))
            database_url = server.url(name)
        return StoreSettings(store="files", files_dir=str(tmp_path / name), database_url=database_url)

    yield make
    for url, name in mongodb:
        with pymongo.MongoClient[dict[str, Any]](url) as client:
            client.drop_database(name)
    for server, name in postgresql:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)", "postgres")


@asynccontextmanager
async def opened_store(settings: StoreSettings, timings: StoreTimings | None = None) -> AsyncIterator[MediaStore]:
    """A store that is ready."""
    store = open_store(settings, timings)
    try:
        await store.uploads.ensure_schema()
        yield store
    finally:
        await store.aclose()
