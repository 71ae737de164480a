"""Opens the store that the settings choose: the only place outside its package that names an implementation."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.common.settings import StoreSettings
from services.common.store.delivery_store import WebhookStore
from services.common.store.errors import InvalidStoreSettings
from services.common.store.file_importer import FileImporter
from services.common.store.garbage_collector import GarbageCollector
from services.common.store.growing_files import GrowingFiles
from services.common.store.live_messages import LiveMessages
from services.common.store.live_store import LiveStore
from services.common.store.media_reader import BlockReader, MediaReader
from services.common.store.quotas import NO_QUOTA, Quota
from services.common.store.revocation_store import RevocationStore
from services.common.store.timings import StoreTimings
from services.common.store.upload_playback import UploadPlayback
from services.common.store.upload_store import UploadStore


@dataclass(frozen=True, slots=True)
class MediaStore:
    """The sides of one opened store, and the call that closes its connections."""

    uploads: UploadStore
    reader: MediaReader
    blocks: BlockReader
    """What a cache reads from: its blocks have the size that suits reading."""
    garbage: GarbageCollector
    importer: FileImporter
    revocations: RevocationStore
    webhooks: WebhookStore
    playback: UploadPlayback
    live: LiveStore
    messages: LiveMessages
    growing: GrowingFiles
    aclose: Callable[[], Awaitable[None]]


def open_store(
    settings: StoreSettings,
    timings: StoreTimings | None = None,
    quota: Quota = NO_QUOTA,
    *,
    relays_events: bool = False,
) -> MediaStore:
    """Open the store; it connects with the first call. Must be called in a running event loop.

    `timings` is needed by processes that write or collect garbage, and `quota` by those that take uploads or count what owners
    have; with `relays_events` the events of their changes stay in the outbox until they are relayed. Raises InvalidStoreSettings
    for a connection string that the driver of MongoDB refuses. What the other store needs is not imported, and need not be there.
    """
    if settings.store == "files":
        return _open_files(settings, timings, quota, relays_events=relays_events)
    return _open_gridfs(settings, timings, quota, relays_events=relays_events)


def _open_gridfs(
    settings: StoreSettings, timings: StoreTimings | None, quota: Quota, *, relays_events: bool
) -> MediaStore:
    from services.common.store.gridfs.delivery_store import GridFSDeliveryStore  # noqa: PLC0415
    from services.common.store.gridfs.file_importer import GridFSFileImporter  # noqa: PLC0415
    from services.common.store.gridfs.garbage_collector import GridFSGarbageCollector  # noqa: PLC0415
    from services.common.store.gridfs.growing_files import GridFSGrowingFiles  # noqa: PLC0415
    from services.common.store.gridfs.live_messages import GridFSLiveMessages  # noqa: PLC0415
    from services.common.store.gridfs.live_store import GridFSLiveStore  # noqa: PLC0415
    from services.common.store.gridfs.media_reader import GridFSMediaReader  # noqa: PLC0415
    from services.common.store.gridfs.mongo import ConfigurationError, open_mongo_database  # noqa: PLC0415
    from services.common.store.gridfs.revocation_store import GridFSRevocationStore  # noqa: PLC0415
    from services.common.store.gridfs.upload_playback import GridFSUploadPlayback  # noqa: PLC0415
    from services.common.store.gridfs.upload_store import GridFSUploadStore  # noqa: PLC0415

    uri = settings.mongodb_uri.get_secret_value()
    try:
        mongo = open_mongo_database(uri, settings.mongodb_database, settings.mongodb_driver)
    except ConfigurationError as error:
        raise InvalidStoreSettings(str(error)) from None
    uploads = GridFSUploadStore(mongo, timings, quota, relays_events=relays_events)
    reader = GridFSMediaReader(mongo)
    return MediaStore(
        uploads=uploads,
        reader=reader,
        blocks=reader,
        garbage=GridFSGarbageCollector(mongo, timings, quota, relays_events=relays_events),
        importer=GridFSFileImporter(mongo, timings),
        revocations=GridFSRevocationStore(mongo),
        webhooks=GridFSDeliveryStore(mongo, timings),
        playback=GridFSUploadPlayback(mongo),
        live=GridFSLiveStore(mongo),
        messages=GridFSLiveMessages(mongo),
        growing=GridFSGrowingFiles(mongo, uploads),
        aclose=mongo.aclose,
    )


def _open_files(
    settings: StoreSettings, timings: StoreTimings | None, quota: Quota, *, relays_events: bool
) -> MediaStore:
    from services.common.store.files.delivery_store import FilesDeliveryStore  # noqa: PLC0415
    from services.common.store.files.file_importer import FilesFileImporter  # noqa: PLC0415
    from services.common.store.files.files_database import open_files_database  # noqa: PLC0415
    from services.common.store.files.garbage_collector import FilesGarbageCollector  # noqa: PLC0415
    from services.common.store.files.growing_files import FilesGrowingFiles  # noqa: PLC0415
    from services.common.store.files.live_messages import FilesLiveMessages  # noqa: PLC0415
    from services.common.store.files.live_store import FilesLiveStore  # noqa: PLC0415
    from services.common.store.files.media_reader import FilesBlockReader, FilesMediaReader  # noqa: PLC0415
    from services.common.store.files.revocation_store import FilesRevocationStore  # noqa: PLC0415
    from services.common.store.files.upload_playback import FilesUploadPlayback  # noqa: PLC0415
    from services.common.store.files.upload_store import FilesUploadStore  # noqa: PLC0415

    files = open_files_database(settings.database_url.get_secret_value(), settings.files_dir)
    uploads = FilesUploadStore(files, timings, quota, relays_events=relays_events)
    return MediaStore(
        uploads=uploads,
        reader=FilesMediaReader(files),
        blocks=FilesBlockReader(files),
        garbage=FilesGarbageCollector(files, timings, quota, relays_events=relays_events),
        importer=FilesFileImporter(files, timings),
        revocations=FilesRevocationStore(files),
        webhooks=FilesDeliveryStore(files),
        playback=FilesUploadPlayback(files),
        live=FilesLiveStore(files),
        messages=FilesLiveMessages(files),
        growing=FilesGrowingFiles(files, uploads),
        aclose=files.aclose,
    )
