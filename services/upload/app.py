"""Composition root of the upload service: settings in, ASGI application out. Clients are opened in the lifespan."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI

from services.common.errors import GridcastError, Unavailable
from services.common.mongo import open_mongo
from services.common.push import Push
from services.common.store.gridfs import GridFSStore
from services.common.web import Front, build
from services.upload import api
from services.upload.announce import Announcer
from services.upload.settings import UploadSettings

PREPARE_EVERY = 1.0
"""Seconds between two tries to make the indexes while MongoDB is away."""

_log = logging.getLogger("gridcast.upload")


def create_app(settings: UploadSettings | None = None) -> Front:
    """The service as an ASGI application."""
    settings = settings or UploadSettings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        mongo = open_mongo(settings.mongodb_uri.get_secret_value(), settings.mongodb_database, settings.mongo_driver)
        store = GridFSStore(mongo)
        app.state.settings = settings
        app.state.store = store
        async with Push.open(settings.redis_url.get_secret_value(), "/upload") as push:
            app.state.announcer = Announcer(store, push)
            preparing = asyncio.create_task(_prepare(app, store))
            try:
                yield
            finally:
                preparing.cancel()
                with suppress(asyncio.CancelledError):
                    await preparing
                await mongo.aclose()

    async def check() -> None:
        if fault := getattr(app.state, "fault", None):
            raise Unavailable(fault)
        await app.state.store.check()

    app = build("upload", "Writes files into the store.", lifespan, {"mongodb": check})
    app.include_router(api.router)
    return Front(app)


async def _prepare(app: FastAPI, store: GridFSStore) -> None:
    """Make the indexes as soon as MongoDB is there. Until they are, the service is not ready."""
    while True:
        try:
            await store.prepare()
        except GridcastError as error:
            app.state.fault = error.detail
        except RuntimeError as error:
            app.state.fault = str(error)
            _log.error("the store cannot be used: %s", error)  # the text says all
        else:
            app.state.fault = None
            return
        await asyncio.sleep(PREPARE_EVERY)
