"""Composition root of the stream service: settings in, ASGI application out. Clients are opened in the lifespan."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from services.common.mongo import open_mongo
from services.common.store.gridfs_read import GridFSReader
from services.common.web import Front, build
from services.stream import api
from services.stream.read import FileStream
from services.stream.settings import StreamSettings


def create_app(settings: StreamSettings | None = None) -> Front:
    """The service as an ASGI application."""
    settings = settings or StreamSettings()
    stream = FileStream()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        mongo = open_mongo(settings.mongodb_uri.get_secret_value(), settings.mongodb_database, settings.mongo_driver)
        app.state.reader = stream.reader = GridFSReader(mongo)
        try:
            yield
        finally:
            await mongo.aclose()

    async def check() -> None:
        await app.state.reader.check()

    app = build("stream", "Serves files and ranges of them.", lifespan, {"mongodb": check}, api.document_stream)
    app.include_router(api.router)
    return Front(app, {("GET", "/file/stream"): stream, ("HEAD", "/file/stream"): stream})
