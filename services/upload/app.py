"""Composition root of the upload service: settings in, ASGI application out. Clients are opened in the lifespan."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from services.common.errors import GridcastError, Unavailable
from services.common.front import Front
from services.common.mongo import open_mongo
from services.common.push import Push
from services.common.store.gridfs import GridFSStore
from services.common.store.gridfs_keep import GridFSKeeper
from services.common.tasks import end
from services.common.web import build
from services.upload import api, tus
from services.upload.announce import Announcer
from services.upload.edge import Services
from services.upload.janitor import Janitor
from services.upload.limits import Limits
from services.upload.progress import Watchers
from services.upload.resume import Resumer
from services.upload.settings import UploadSettings

PREPARE_EVERY = 1.0
"""Seconds between two tries to make the indexes while MongoDB is away."""

_log = logging.getLogger("gridcast.upload")


def limits_of(settings: UploadSettings) -> Limits:
    """The limits that the settings ask for."""
    return Limits(
        most=settings.max_uploads,
        max_length=settings.max_upload,
        floor=settings.min_free,
        media_types=settings.media_types,
    )


def create_app(settings: UploadSettings | None = None, limits: Limits | None = None) -> Front:
    """The service as an ASGI application. Who gives the limits can drain them at the end."""
    settings = settings or UploadSettings()
    limits = limits or limits_of(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        mongo = open_mongo(settings.mongodb_uri.get_secret_value(), settings.mongodb_database, settings.mongo_driver)
        store = GridFSStore(mongo, settings.times())
        app.state.store = store
        async with Push.open(settings.redis_url.get_secret_value(), "/upload") as push:
            announcer = Announcer(store, push)
            watchers = Watchers(push)
            resumer = Resumer(store, limits, watchers.watch, settings.upload_expiry)
            app.state.services = Services(settings, store, limits, announcer, watchers.watch, resumer)
            tasks = [asyncio.create_task(_prepare(app, store)), asyncio.create_task(limits.watch(store))]
            if settings.janitor_every:
                janitor = Janitor(GridFSKeeper(mongo, settings.times()), announcer.announce)
                tasks.append(asyncio.create_task(janitor.run(settings.janitor_every)))
            try:
                yield
            finally:
                await end(*tasks)
                await watchers.aclose()
                await announcer.aclose()
                await mongo.aclose()

    async def open_() -> None:
        limits.check_open()

    async def check() -> None:
        if fault := getattr(app.state, "fault", None):
            raise Unavailable(fault)
        await app.state.store.check()

    app = build("upload", "Writes files into the store.", lifespan, {"mongodb": check, "process": open_})
    app.include_router(api.router)
    app.include_router(tus.router)
    return Front(app)


async def _prepare(app: FastAPI, store: GridFSStore) -> None:
    """Make the indexes as soon as MongoDB is there. Until they are, the service is not ready."""
    app.state.fault, told = None, ""
    while True:
        try:
            await store.prepare()
        except GridcastError as error:
            app.state.fault = error.detail
        except Exception as error:  # noqa: BLE001  # a right that is missing, say: who grants it need not restart us
            ours = isinstance(error, RuntimeError)  # the others may name what is none of a client's business
            app.state.fault = str(error) if ours else "the store cannot be used"
            if str(error) != told:
                told = str(error)
                _log.error("the store cannot be used: %s", error)  # the text says all
        else:
            app.state.fault = None
            return
        await asyncio.sleep(PREPARE_EVERY)
