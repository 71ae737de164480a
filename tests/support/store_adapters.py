"""A store, its reader and its garbage collector as two replicas would have them, and the fixture `adapters` over every store."""

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from services.common.media import MediaName, sha256_etag
from services.common.store.files.files_database import FilesDatabase, open_files_database
from services.common.store.files.garbage_collector import FilesGarbageCollector
from services.common.store.files.growing_files import FilesGrowingFiles
from services.common.store.files.live_messages import FilesLiveMessages
from services.common.store.files.live_store import FilesLiveStore
from services.common.store.files.media_reader import FilesMediaReader
from services.common.store.files.upload_store import FilesUploadStore
from services.common.store.garbage_collector import GarbageCollector
from services.common.store.gridfs.garbage_collector import GridFSGarbageCollector
from services.common.store.gridfs.growing_files import GridFSGrowingFiles
from services.common.store.gridfs.live_messages import GridFSLiveMessages
from services.common.store.gridfs.live_store import GridFSLiveStore
from services.common.store.gridfs.media_reader import GridFSMediaReader
from services.common.store.gridfs.mongo import MongoDriver, open_mongo_database
from services.common.store.gridfs.upload_store import GridFSUploadStore
from services.common.store.growing_files import GrowingFiles
from services.common.store.live_messages import LiveMessages
from services.common.store.live_store import LiveStore
from services.common.store.media_reader import MediaReader
from services.common.store.preconditions import NO_PRECONDITIONS, Preconditions
from services.common.store.quotas import NO_QUOTA, Quota
from services.common.store.timings import StoreTimings
from services.common.store.upload_store import (
    NewUpload,
    OutboxEvent,
    StoredFile,
    UploadHandle,
    UploadStore,
)
from tests.support.databases import TEST_STORE, FilesFolder, ServerProcess
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_inspectors import FilesInspector, MongoInspector, StoreInspector, sqlite_query

NAME = MediaName("f", "n")
TIMINGS = StoreTimings(lease_ttl=0.4, tombstone_ttl=0.3, second_purge_after=1.2, outbox_retry_after=0)
STORES = ("gridfs-motor", "gridfs-pymongo", "files-sqlite", "files-postgresql")


if TYPE_CHECKING or TEST_STORE == "gridfs":
    StoreUnderTest = GridFSUploadStore
    """The class of the store that TEST_STORE chooses, for tests that change one of its calls."""
else:
    StoreUnderTest = FilesUploadStore


class StoreAdapters(ABC):
    """All sides of one store."""

    def __init__(
        self,
        store: UploadStore,
        keeper: GarbageCollector,
        reader: MediaReader,
        growing: GrowingFiles,
        live: LiveStore,
        messages: LiveMessages,
        inspector: StoreInspector,
    ) -> None:
        self.store = store
        self.growing = growing
        self.live = live
        self.messages = messages
        self.keeper = keeper
        self.reader = reader
        self.inspector = inspector

    @abstractmethod
    def open_live(self) -> LiveStore:
        """The streams as another process has opened them."""

    async def collect_once(self) -> None:
        async for media in self.keeper.list_due():
            await self.keeper.collect(media)

    async def collect_until_done(self, inspector: StoreInspector) -> None:
        """Run the collector until nothing is due."""
        for _ in range(100):
            await self.collect_once()
            if all(not document["doomed"] and not document["uploads"] for document in inspector.list_documents()):
                return
            await asyncio.sleep(0.05)
        pytest.fail(f"never settled: {inspector.list_documents()}")

    async def store_file(
        self, data: bytes, name: MediaName = NAME, expected: Preconditions = NO_PRECONDITIONS
    ) -> UploadHandle:
        upload, _ = await self._store(data, name, expected)
        return upload

    async def store_event(self, data: bytes, name: MediaName = NAME) -> OutboxEvent:
        """Store a file and return the event of its commit."""
        _, event = await self._store(data, name, NO_PRECONDITIONS)
        return event

    async def _store(self, data: bytes, name: MediaName, expected: Preconditions) -> tuple[UploadHandle, OutboxEvent]:
        upload = await self.store.create_upload(name, NewUpload(), expected)
        blocks = [data[start : start + CHUNK_SIZE] for start in range(0, len(data), CHUNK_SIZE)]
        if blocks:
            await self.store.write_blocks(upload, 0, blocks)
        return upload, await self.store.commit(upload, finished_upload(data), expected)


class GridFSAdapters(StoreAdapters):
    """Those of a database of MongoDB."""

    inspector: MongoInspector
    store: GridFSUploadStore

    def __init__(self, mongo: Any, inspector: MongoInspector, quota: Quota = NO_QUOTA) -> None:
        self.mongo = mongo
        store = GridFSUploadStore(mongo, TIMINGS, quota)
        super().__init__(
            store,
            GridFSGarbageCollector(mongo, TIMINGS, quota),
            GridFSMediaReader(mongo),
            GridFSGrowingFiles(mongo, store),
            GridFSLiveStore(mongo),
            GridFSLiveMessages(mongo),
            inspector,
        )

    def open_live(self) -> LiveStore:
        return GridFSLiveStore(self.mongo)


class FilesAdapters(StoreAdapters):
    """Those of a folder with its database."""

    inspector: FilesInspector
    store: FilesUploadStore
    reader: FilesMediaReader
    keeper: FilesGarbageCollector

    def __init__(self, files: FilesDatabase, inspector: FilesInspector, timings: StoreTimings = TIMINGS) -> None:
        self.files = files
        store = FilesUploadStore(files, timings)
        super().__init__(
            store,
            FilesGarbageCollector(files, timings),
            FilesMediaReader(files),
            FilesGrowingFiles(files, store),
            FilesLiveStore(files),
            FilesLiveMessages(files),
            inspector,
        )

    def open_live(self) -> LiveStore:
        return FilesLiveStore(self.files)


def finished_upload(data: bytes) -> StoredFile:
    return StoredFile(len(data), "text/plain", hashlib.sha256(data).hexdigest())


def sha256_is(data: bytes) -> Preconditions:
    return Preconditions(etag_in=frozenset({sha256_etag(hashlib.sha256(data).hexdigest())}))


def new_tus_upload(client: str, **metadata: str) -> NewUpload:
    return NewUpload(None, 60, metadata, client)


@asynccontextmanager
async def open_gridfs(uri: str, database: str, driver: MongoDriver) -> AsyncIterator[GridFSAdapters]:
    """A GridFS store that is ready."""
    mongo = open_mongo_database(uri, database, driver)
    inspector = MongoInspector(uri, database)
    try:
        adapters = GridFSAdapters(mongo, inspector)
        await adapters.store.ensure_schema()
        yield adapters
    finally:
        inspector.close()
        await mongo.aclose()


@asynccontextmanager
async def open_files(
    folder: Path, inspector: FilesInspector | None = None, url: str = "", timings: StoreTimings = TIMINGS
) -> AsyncIterator[FilesAdapters]:
    """A files store that is ready; on SQLite without `url`."""
    files = open_files_database(url, str(folder))
    try:
        adapters = FilesAdapters(
            files, inspector or FilesInspector(folder, sqlite_query(folder / "gridcast.sqlite3")), timings
        )
        await adapters.store.ensure_schema()
        yield adapters
    finally:
        await files.aclose()


@pytest.fixture
async def store_backend(mongod: ServerProcess, database_name: str) -> AsyncIterator[Any]:
    """What `StoreUnderTest` is made of, ready: a database of MongoDB, or a folder with its database."""
    if isinstance(mongod, FilesFolder):
        async with open_files(mongod.data_dir / database_name) as files:
            yield files.files
    else:
        async with open_gridfs(mongod.url, database_name, "motor") as gridfs:
            yield gridfs.mongo


@pytest.fixture(params=STORES)
async def adapters(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StoreAdapters]:
    """Each store, empty and ready."""
    kind, _, variant = request.param.partition("-")
    if kind == "gridfs":
        mongod, databases = request.getfixturevalue("mongod"), request.getfixturevalue("prepared_databases")
        with databases.use() as database:
            async with open_gridfs(mongod.url, database, variant) as gridfs:
                yield gridfs
    elif variant == "sqlite":
        request.getfixturevalue("create_migrated_sqlite")(tmp_path / "files")
        async with open_files(tmp_path / "files") as files:
            yield files
    else:
        server, databases = (request.getfixturevalue(name) for name in ("postgresql", "migrated_postgresql"))
        with databases.use() as database, server.open_session(database) as query:
            inspector = FilesInspector(tmp_path / "files", query)
            async with open_files(tmp_path / "files", inspector, server.url(database)) as files:
                yield files
