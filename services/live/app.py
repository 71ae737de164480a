"""Composition root of the live service: builds the ASGI application from settings. Clients are opened in the lifespan."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI

from services.common.aio.cancellation import cancel_and_wait
from services.common.auth.factory import Auth, create_auth, create_authorization
from services.common.auth.revocation_poller import RevocationPoller
from services.common.bus.publisher import EventPublisher
from services.common.http.hosts import HostPolicy
from services.common.http.origins import OriginPolicy
from services.common.store.factory import open_store
from services.common.store.schema_preparation import SchemaPreparation
from services.common.telemetry.request_telemetry import RequestTelemetry
from services.common.uploads.cleanup import CleanupRunner
from services.common.uploads.limits import DiskSpaceMonitor, UploadLimiter
from services.common.uploads.locks import UploadLocks
from services.common.uploads.outbox import OutboxPublisher
from services.common.web.app_factory import create_fastapi_app
from services.common.web.browser_protection import BrowserProtection
from services.common.web.health import ReadinessCheck
from services.common.web.middleware import RequestMiddleware
from services.common.web.route_list import list_routes
from services.common.web.routers import add_routes
from services.common.web.status import add_status_route
from services.common.webhooks.upload_hook import UploadHook
from services.live.endpoints import control, ingest, messages
from services.live.endpoints.dependencies import LiveContext
from services.live.idle_streams import IdleStreams
from services.live.intake import IntakeRules
from services.live.live_events import LiveEvents
from services.live.live_streams import LiveStreams
from services.live.messages import TimedMessages
from services.live.paced_rehash import PacedRehash
from services.live.receiving import LiveReceiver
from services.live.recordings import Recordings
from services.live.settings import LiveSettings
from services.live.stream_ending import StreamEnder
from services.live.stream_limits import StreamLimits
from services.live.stream_writer import LiveStores


class LiveProcess:
    """What the requests of one process share with its shutdown."""

    def __init__(self, settings: LiveSettings) -> None:
        self.limiter = UploadLimiter(settings.live_max_publishers, settings.live_max_publishers)
        self.stopping = asyncio.Event()
        self._timeout = settings.shutdown_timeout

    async def drain(self) -> None:
        """Let endless bodies end at a fragment, and other requests end; then abort what is left."""
        self.stopping.set()
        await self.limiter.drain(self._timeout)


def create_app(
    settings: LiveSettings | None = None,
    telemetry: RequestTelemetry | None = None,
    process: LiveProcess | None = None,
) -> RequestMiddleware:
    """Return the service as an ASGI application. `settings`: read from the environment where None.

    A caller that passes `process` can drain it at shutdown.
    """
    settings = settings or LiveSettings()
    process = process or LiveProcess(settings)
    auth = create_auth(settings)
    schema = SchemaPreparation()

    def lifespan(app: FastAPI) -> AbstractAsyncContextManager[None]:
        return _lifespan(app, settings, process, auth, schema)

    async def check_accepting() -> None:
        process.limiter.check_accepting()

    async def check_store() -> None:
        schema.check_prepared()
        await app.state.store.check_health()

    checks: dict[str, ReadinessCheck] = {settings.store_dependency: check_store, "process": check_accepting}
    if auth is not None:
        checks |= auth.readiness_checks()
    app = create_fastapi_app("live", "Takes live streams in, and makes files of them.", lifespan, checks)
    add_status_route(app, checks)
    add_routes(app, control.router)
    add_routes(app, ingest.router)
    add_routes(app, messages.router)
    protection = BrowserProtection(HostPolicy(settings.allowed_hosts), OriginPolicy(""))
    authorization = create_authorization(auth, list_routes(app))
    return RequestMiddleware(app, check_request=protection, telemetry=telemetry, authorization=authorization)


@asynccontextmanager
async def _lifespan(
    app: FastAPI, settings: LiveSettings, process: LiveProcess, auth: Auth | None, schema: SchemaPreparation
) -> AsyncIterator[None]:
    """Open the clients and start the background tasks; end them at shutdown."""
    # The events of commits stay until the upload service has relayed them: webhooks are not known here.
    store = open_store(settings, settings.store_timings(), settings.quota(), relays_events=True)
    app.state.store = store.uploads
    async with EventPublisher.from_url(settings.redis_url.get_secret_value(), "/live") as publisher:
        stores = LiveStores(store.uploads, store.live, store.growing, store.reader)
        hook_endpoint = settings.hook_endpoint()
        hook = None if hook_endpoint is None else UploadHook(hook_endpoint)
        events = LiveEvents(publisher)
        # Events of files have one source, whichever service has made them: the upload service publishes what is left over.
        outbox = OutboxPublisher(store.uploads, EventPublisher(publisher.redis, "/upload"))
        rehash = PacedRehash(store.reader, store.growing, store.live, publisher.publish_invalidation)
        locks, cleanup = UploadLocks(), CleanupRunner()
        ender = StreamEnder(stores, locks, events, outbox.publish, rehash.add)
        disk_space = DiskSpaceMonitor(settings.min_free_space, process.limiter.abort_all)
        limits = StreamLimits(
            settings.live_max_bytes,
            settings.live_max_duration,
            settings.live_max_rate,
            settings.live_intake_factor,
        )
        app.state.live_context = LiveContext(
            settings=settings,
            streams=LiveStreams(
                stores,
                cleanup,
                limits,
                settings.live_token_ttl,
                settings.live_max_streams_per_owner,
                events.count_viewers,
            ),
            ender=ender,
            receiver=LiveReceiver(
                stores,
                locks,
                events,
                ender,
                Recordings(stores, ender),
                disk_space,
                cleanup,
                IntakeRules(settings.live_interrupted_after),
                process.stopping,
            ),
            messages=TimedMessages(store.messages, publisher, settings.live_max_messages),
            limiter=process.limiter,
            disk_space=disk_space,
            sids=None if auth is None else auth.sids,
            hook=hook,
        )
        idle = IdleStreams(store.live, ender, events, settings.live_interrupted_after, settings.live_token_ttl)
        work = (
            schema.run(store.uploads),
            disk_space.run(store.uploads),
            idle.run(),
            rehash.run(),
            rehash.find_left_over(),
        )
        tasks = [asyncio.create_task(one) for one in work]
        poller = None
        if auth is not None:
            auth.start()
            poller = RevocationPoller(
                auth.revocations,
                lambda: store.revocations.list_current(time.time()),
                auth.active_requests.cut_revoked,
            )
            poller.start()
        try:
            yield
        finally:
            if poller is not None:
                await poller.aclose()
            if auth is not None:
                await auth.aclose()
            await cancel_and_wait(*tasks)
            if hook is not None:
                await hook.aclose()
            await events.aclose()
            await outbox.aclose()
            await store.aclose()
