"""Composition root of the stream service: settings in, ASGI application out. Clients are opened in the lifespan."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.routing import Route

from gridcast._bus.keys import INVALIDATION_CHANNEL
from services.common.aio.cancellation import cancel_and_wait
from services.common.asgi import ASGIApp, Receive, Scope, Send
from services.common.auth.factory import Auth, create_auth, create_authorization
from services.common.auth.revocation_poller import RevocationPoller
from services.common.bus.redis import RedisClient
from services.common.bus.subscription import Subscription
from services.common.http.encoding import PreparedResponse
from services.common.http.hosts import HostPolicy
from services.common.http.origins import OriginPolicy
from services.common.live.addresses import TEMPLATES
from services.common.media_path import PATH_TEMPLATE
from services.common.store.factory import MediaStore, open_store
from services.common.telemetry import metrics
from services.common.telemetry.request_telemetry import RequestTelemetry
from services.common.web.app_factory import create_fastapi_app
from services.common.web.browser_protection import BrowserProtection
from services.common.web.health import ReadinessCheck
from services.common.web.middleware import RequestMiddleware
from services.common.web.route_list import list_routes
from services.common.web.routers import add_routes
from services.common.web.status import add_status_route
from services.stream import api
from services.stream.block_cache import BlockCache
from services.stream.download import FileDownload
from services.stream.growing.playback import UploadPlaybackRoute
from services.stream.growing.upload_list import UploadListRoute
from services.stream.live.handler import LiveHandler
from services.stream.live.service import LiveService
from services.stream.media_facts import MediaFactsReader
from services.stream.metadata_cache import MetadataCache
from services.stream.openapi import PLAY_LIST_TEMPLATE, PLAY_MEDIA_TEMPLATE, PLAY_TEMPLATE, add_bypass_paths
from services.stream.response_sender import SendTimeoutMonitor
from services.stream.settings import StreamSettings


def create_app(settings: StreamSettings | None = None, telemetry: RequestTelemetry | None = None) -> RequestMiddleware:
    """Return the service as an ASGI application."""
    settings = settings or StreamSettings()
    auth = create_auth(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store = open_store(settings)
        redis = RedisClient.from_url(settings.redis_url.get_secret_value())
        metadata_cache = MetadataCache(store.reader, settings.metadata_cache_entries, lambda: invalidations.subscribed)
        cache = BlockCache(store.blocks, settings.block_cache_size)
        send_timeout = SendTimeoutMonitor(settings.send_timeout)
        live = LiveService(settings, store, redis, cache, send_timeout, is_open=auth is None)
        invalidations = Subscription(
            redis,
            [INVALIDATION_CHANNEL],
            metadata_cache.on_invalidation,
            name="invalidation",
            on_disconnected=metadata_cache.clear,
        )
        metrics.BLOCK_CACHE_BYTES.set_function(lambda: cache.size_bytes)
        app.state.reader = store.reader
        app.state.metadata_cache = metadata_cache
        app.state.media_facts = MediaFactsReader(cache)
        stream.download = FileDownload(metadata_cache, cache, send_timeout)
        watch.handler = live.handler
        playback.open(store.playback, cache, send_timeout, auth)
        monitor = asyncio.create_task(send_timeout.run())
        live.start()
        invalidations.start()  # without Redis no metadata is cached, and downloads go on
        try:
            async with _running(auth, store):
                yield
        finally:
            await live.aclose()
            await cancel_and_wait(monitor)
            await invalidations.aclose()
            await redis.aclose()
            await playback.aclose()
            await cache.aclose()
            await store.aclose()

    async def check() -> None:
        await app.state.reader.check_health()

    of_auth = {} if auth is None else auth.readiness_checks()
    checks: dict[str, ReadinessCheck] = {settings.store_dependency: check, **of_auth}
    app = create_fastapi_app("stream", "Serves files and ranges of them.", lifespan, checks, add_bypass_paths)
    add_status_route(app, checks)
    add_routes(app, api.router)
    stream = _DownloadRoute()
    # The middleware calls the handler directly; what reaches this route has another method: 405.
    playback = UploadPlaybackRoute()
    watch = _LiveRoute()
    routes: dict[str, ASGIApp] = {"/file/stream": stream, "/files/{path:path}": stream, PLAY_TEMPLATE: playback}
    routes |= {PLAY_MEDIA_TEMPLATE: playback, PLAY_LIST_TEMPLATE: UploadListRoute(PLAY_LIST_TEMPLATE, playback.play)}
    routes |= dict.fromkeys(TEMPLATES.values(), watch)
    app.router.routes += [Route(path, one, methods=["GET"], include_in_schema=False) for path, one in routes.items()]
    watched = [(method, path) for method in ("GET", "HEAD") for path in TEMPLATES.values()]
    both = [(method, path) for method in ("GET", "HEAD") for path in ("/file/stream", PATH_TEMPLATE)]
    authorization = create_authorization(auth, [*list_routes(app), *both, *watched])
    return RequestMiddleware(
        app,
        {**dict.fromkeys(both, stream), **dict.fromkeys(watched, watch)},
        fast_path_handlers={**dict.fromkeys(both, stream.fast_path), **dict.fromkeys(watched, watch.fast_path)},
        telemetry=telemetry,
        check_request=BrowserProtection(HostPolicy(settings.allowed_hosts), OriginPolicy("")),
        authorization=authorization,
    )


@asynccontextmanager
async def _running(auth: Auth | None, store: MediaStore) -> AsyncIterator[None]:
    """Keep keys and revocations current, where there is authentication."""
    if auth is None:
        yield
        return
    auth.start()
    poller = RevocationPoller(
        auth.revocations, lambda: store.revocations.list_current(time.time()), auth.active_requests.cut_revoked
    )
    poller.start()
    try:
        yield
    finally:
        await poller.aclose()
        await auth.aclose()


class _DownloadRoute:
    """Calls the download handler, which exists from the lifespan on."""

    download: FileDownload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.download(scope, receive, send)

    def fast_path(self, scope: Scope) -> PreparedResponse | None:
        return self.download.fast_path(scope)


class _LiveRoute:
    """Calls the handler of live streams, which exists from the lifespan on."""

    handler: LiveHandler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.handler(scope, receive, send)

    def fast_path(self, scope: Scope) -> PreparedResponse | None:
        return self.handler.fast_path(scope)
