"""Opens the store that the settings choose: the only place outside its package that names an implementation."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.common.settings import MongoSettings
from services.common.store.garbage_collector import GarbageCollector
from services.common.store.gridfs.garbage_collector import GridFSGarbageCollector
from services.common.store.gridfs.media_reader import GridFSMediaReader
from services.common.store.gridfs.mongo import open_mongo_database
from services.common.store.gridfs.revocation_store import GridFSRevocationStore
from services.common.store.gridfs.upload_store import GridFSUploadStore
from services.common.store.media_reader import MediaReader
from services.common.store.revocation_store import RevocationStore
from services.common.store.timings import StoreTimings
from services.common.store.upload_store import UploadStore


@dataclass(frozen=True, slots=True)
class MediaStore:
    """The sides of one opened store, and the call that closes its connections."""

    uploads: UploadStore
    reader: MediaReader
    garbage: GarbageCollector
    revocations: RevocationStore
    aclose: Callable[[], Awaitable[None]]


def open_store(settings: MongoSettings, timings: StoreTimings | None = None) -> MediaStore:
    """Open the store; it connects with the first call. Must be called in a running event loop.

    `timings` is needed by processes that write or collect garbage. Raises ConfigurationError for an invalid connection string.
    """
    mongo = open_mongo_database(
        settings.mongodb_uri.get_secret_value(), settings.mongodb_database, settings.mongodb_driver
    )
    return MediaStore(
        uploads=GridFSUploadStore(mongo, timings),
        reader=GridFSMediaReader(mongo),
        garbage=GridFSGarbageCollector(mongo, timings),
        revocations=GridFSRevocationStore(mongo),
        aclose=mongo.aclose,
    )
