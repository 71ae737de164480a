"""Composition root of the stream service: settings in, ASGI application out. Clients are opened in the lifespan."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.routing import Route

from services.common import metrics
from services.common.answer import Ready
from services.common.front import Front
from services.common.mongo import open_mongo
from services.common.push import INVALIDATE
from services.common.redis import Redis
from services.common.store.gridfs_read import GridFSReader
from services.common.subscription import Subscription
from services.common.tasks import end
from services.common.web import Receive, Scope, Send, build
from services.stream import api
from services.stream.cache import BlockCache
from services.stream.catalogue import Catalogue
from services.stream.document import document_stream
from services.stream.outlet import Patience
from services.stream.read import FileStream
from services.stream.settings import StreamSettings


def create_app(settings: StreamSettings | None = None) -> Front:
    """The service as an ASGI application."""
    settings = settings or StreamSettings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        mongo = open_mongo(settings.mongodb_uri.get_secret_value(), settings.mongodb_database, settings.mongo_driver)
        redis = Redis.open(settings.redis_url.get_secret_value())
        reader = GridFSReader(mongo)
        catalogue = Catalogue(reader, settings.cache_names, lambda: changes.live)
        changes = Subscription(redis, [INVALIDATE], catalogue.changed, heard="changes", on_lost=catalogue.forget)
        cache = BlockCache(reader, settings.cache_bytes)
        metrics.CACHE_BYTES.set_function(lambda: cache.size)
        app.state.reader = reader
        app.state.catalogue = catalogue
        patience = Patience(settings.patience)
        stream.flow = FileStream(catalogue, cache, patience)
        clock = asyncio.create_task(patience.run())
        changes.start()  # Redis may be away: then nothing is remembered, and all else goes on
        try:
            yield
        finally:
            await end(clock)
            await changes.aclose()
            await redis.aclose()
            await cache.aclose()
            await mongo.aclose()

    async def check() -> None:
        await app.state.reader.check()

    app = build("stream", "Serves files and ranges of them.", lifespan, {"mongodb": check}, document_stream)
    app.include_router(api.router)
    stream = _Stream()
    # What is not sent there directly has another method: 405.
    app.router.routes.append(Route("/file/stream", stream, methods=["GET"], include_in_schema=False))
    both = ("GET", "/file/stream"), ("HEAD", "/file/stream")
    return Front(app, dict.fromkeys(both, stream), prompt=dict.fromkeys(both, stream.at_once))


class _Stream:
    """The flow that the lifespan makes."""

    flow: FileStream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.flow(scope, receive, send)

    def at_once(self, scope: Scope) -> Ready | None:
        return self.flow.at_once(scope)
