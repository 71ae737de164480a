"""Composition root of the upload service: settings in, ASGI application out. Clients are opened in the lifespan."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from services.common.aio.cancellation import cancel_and_wait
from services.common.bus.publisher import EventPublisher
from services.common.errors import GridcastError, ServiceUnavailable
from services.common.store.gridfs.garbage_collector import GridFSGarbageCollector
from services.common.store.gridfs.mongo import open_mongo_database
from services.common.store.gridfs.upload_store import GridFSUploadStore
from services.common.web.app_factory import create_fastapi_app
from services.common.web.middleware import RequestMiddleware
from services.upload.collect_garbage import GarbageCollectionLoop
from services.upload.endpoints import files, tus
from services.upload.endpoints.dependencies import UploadContext
from services.upload.limits import UploadLimiter
from services.upload.outbox import OutboxPublisher
from services.upload.progress import ProgressReporter
from services.upload.settings import UploadSettings
from services.upload.tus.resumable_uploads import ResumableUploads

SCHEMA_RETRY_SECONDS = 1.0
"""Seconds between two tries to make the indexes while MongoDB is away."""

_log = logging.getLogger("gridcast.upload")


def create_limiter(settings: UploadSettings) -> UploadLimiter:
    """The limits that the settings ask for."""
    return UploadLimiter(
        max_uploads=settings.max_concurrent_uploads,
        max_size=settings.max_file_size,
        min_free_bytes=settings.min_free_space,
        media_types=settings.allowed_media_types,
    )


def create_app(settings: UploadSettings | None = None, limiter: UploadLimiter | None = None) -> RequestMiddleware:
    """The service as an ASGI application. Who gives the limits can drain them at the end."""
    settings = settings or UploadSettings()
    limiter = limiter or create_limiter(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        mongo = open_mongo_database(
            settings.mongodb_uri.get_secret_value(), settings.mongodb_database, settings.mongodb_driver
        )
        store = GridFSUploadStore(mongo, settings.store_timings())
        app.state.store = store
        async with EventPublisher.from_url(settings.redis_url.get_secret_value(), "/upload") as push:
            announcer = OutboxPublisher(store, push)
            watchers = ProgressReporter(push)
            resumer = ResumableUploads(store, limiter, watchers.start, settings.unfinished_upload_ttl)
            app.state.services = UploadContext(settings, store, limiter, announcer, watchers.start, resumer)
            tasks = [
                asyncio.create_task(_ensure_schema(app, store)),
                asyncio.create_task(limiter.monitor_disk_space(store)),
            ]
            if settings.gc_interval:
                janitor = GarbageCollectionLoop(
                    GridFSGarbageCollector(mongo, settings.store_timings()), announcer.publish
                )
                tasks.append(asyncio.create_task(janitor.run(settings.gc_interval)))
            try:
                yield
            finally:
                await cancel_and_wait(*tasks)
                await watchers.aclose()
                await announcer.aclose()
                await mongo.aclose()

    async def check_accepting() -> None:
        limiter.check_accepting()

    async def check_store() -> None:
        if fault := getattr(app.state, "fault", None):
            raise ServiceUnavailable(fault)
        await app.state.store.check_health()

    app = create_fastapi_app(
        "upload", "Writes files into the store.", lifespan, {"mongodb": check_store, "process": check_accepting}
    )
    app.include_router(files.router)
    app.include_router(tus.router)
    return RequestMiddleware(app)


async def _ensure_schema(app: FastAPI, store: GridFSUploadStore) -> None:
    """Make the indexes as soon as MongoDB is there. Until they are, the service is not ready."""
    app.state.fault, told = None, ""
    while True:
        try:
            await store.ensure_schema()
        except GridcastError as error:
            app.state.fault = error.detail
        except Exception as error:  # noqa: BLE001  # a right that is missing, say: who grants it need not restart us
            ours = isinstance(error, RuntimeError)  # the others may name what is none of a client's business
            app.state.fault = str(error) if ours else "store initialization failed"
            if str(error) != told:
                told = str(error)
                _log.error("store initialization failed: %s", error)  # the text says all
        else:
            app.state.fault = None
            return
        await asyncio.sleep(SCHEMA_RETRY_SECONDS)
