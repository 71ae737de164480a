"""Composition root of the upload service: builds the ASGI application from settings. Clients are opened in the lifespan."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from fastapi import FastAPI

from services.common.aio.cancellation import cancel_and_wait
from services.common.auth.factory import Auth, create_auth, create_authorization
from services.common.bus.publisher import EventPublisher
from services.common.http.hosts import HostPolicy
from services.common.http.origins import OriginPolicy
from services.common.store.factory import open_store
from services.common.store.garbage_collection_loop import GarbageCollectionLoop
from services.common.store.schema_preparation import SchemaPreparation
from services.common.telemetry.request_telemetry import RequestTelemetry
from services.common.uploads.cleanup import CleanupRunner
from services.common.uploads.limits import DiskSpaceMonitor, UploadLimiter
from services.common.uploads.outbox import OutboxPublisher
from services.common.uploads.policy import UploadPolicy
from services.common.web.app_factory import create_fastapi_app
from services.common.web.browser_protection import BrowserProtection
from services.common.web.health import ReadinessCheck
from services.common.web.middleware import RequestMiddleware
from services.common.web.route_list import list_routes
from services.common.web.routers import add_routes
from services.common.web.status import add_status_route
from services.common.webhooks.upload_hook import UploadHook
from services.upload.endpoints import delete, delete_many, form, links, move, poster, put, restore, revocations, tus
from services.upload.endpoints import webhooks as webhooks_api
from services.upload.endpoints.dependencies import UploadContext
from services.upload.endpoints.tus_folder import folder_of_new_upload
from services.upload.links import LinkIssuer
from services.upload.playback import PlaybackReporter
from services.upload.progress import ProgressReporter
from services.upload.revoking import create_revocation_poller, revoke
from services.upload.settings import UploadSettings
from services.upload.tus.resumable_uploads import ResumableUploads
from services.upload.webhooks.webhooks import Webhooks


def create_limiter(settings: UploadSettings) -> UploadLimiter:
    """The limiter that the settings ask for."""
    return UploadLimiter(settings.max_concurrent_uploads, settings.max_uploads_per_client)


def create_app(
    settings: UploadSettings | None = None,
    limiter: UploadLimiter | None = None,
    telemetry: RequestTelemetry | None = None,
) -> RequestMiddleware:
    """The service as an ASGI application. A caller that passes the limiter can drain it at shutdown."""
    settings = settings or UploadSettings()
    limiter = limiter or create_limiter(settings)
    auth = create_auth(settings)
    schema = SchemaPreparation()

    def lifespan(app: FastAPI) -> AbstractAsyncContextManager[None]:
        return _lifespan(app, settings, limiter, auth, schema)

    async def check_accepting() -> None:
        limiter.check_accepting()

    async def check_store() -> None:
        schema.check_prepared()
        await app.state.store.check_health()

    checks: dict[str, ReadinessCheck] = {settings.store_dependency: check_store, "process": check_accepting}
    if auth is not None:
        checks |= auth.readiness_checks()
    app = create_fastapi_app("upload", "Writes files into the store.", lifespan, checks)
    add_status_route(app, checks)
    for endpoint in (
        form,
        put,
        delete,
        delete_many,
        move,
        poster,
        restore,
        tus,
        links,
        revocations,
        webhooks_api,
    ):
        add_routes(app, endpoint.router)
    protection = BrowserProtection(HostPolicy(settings.allowed_hosts), OriginPolicy(""))
    authorization = create_authorization(auth, list_routes(app), folder_of_new_upload)
    return RequestMiddleware(app, check_request=protection, telemetry=telemetry, authorization=authorization)


@asynccontextmanager
async def _lifespan(
    app: FastAPI, settings: UploadSettings, limiter: UploadLimiter, auth: Auth | None, schema: SchemaPreparation
) -> AsyncIterator[None]:
    """Open the clients and start the background tasks; end them at shutdown."""
    endpoints = settings.webhook_endpoints()
    store = open_store(settings, settings.store_timings(), settings.quota(), relays_events=endpoints is not None)
    webhooks = None if endpoints is None else Webhooks(store.webhooks, endpoints)
    hook_endpoint = settings.hook_endpoint()
    hook = None if hook_endpoint is None else UploadHook(hook_endpoint)
    app.state.store = store.uploads
    async with EventPublisher.from_url(settings.redis_url.get_secret_value(), "/upload") as publisher:
        policy = UploadPolicy(settings.max_file_size, settings.allowed_media_types)
        disk_space = DiskSpaceMonitor(settings.min_free_space, limiter.abort_all)
        outbox = OutboxPublisher(store.uploads, publisher, None if webhooks is None else webhooks.relay)
        progress_reporter = ProgressReporter(publisher)
        playback = PlaybackReporter(publisher, None if auth is None else auth.play_seals.seal)
        cleanup = CleanupRunner()
        poller = None if auth is None else create_revocation_poller(auth, store.revocations, publisher.redis)
        store_revocation = partial(revoke, store.revocations, poller)
        app.state.upload_context = UploadContext(
            settings=settings,
            store=store.uploads,
            policy=policy,
            limiter=limiter,
            disk_space=disk_space,
            outbox=outbox,
            start_progress=progress_reporter.start,
            playback=playback,
            cleanup=cleanup,
            sids=None if auth is None else auth.sids,
            revoke=store_revocation,
            link_uses=store.revocations,
            links=None
            if auth is None
            else LinkIssuer(auth.link_signer, auth.revocations, store.reader, store.live, store_revocation),
            hook=hook,
            webhooks=webhooks,
            resumable_uploads=ResumableUploads(
                store.uploads,
                policy,
                disk_space,
                progress_reporter.start,
                cleanup,
                settings.unfinished_upload_ttl,
                playback,
            ),
        )
        tasks = [
            asyncio.create_task(schema.run(store.uploads)),
            asyncio.create_task(disk_space.run(store.uploads)),
        ]
        if settings.gc_interval:
            relay = None if webhooks is None else webhooks.relayer.relay_left_over
            gc_loop = GarbageCollectionLoop(store.garbage, outbox.publish, relay)
            tasks.append(asyncio.create_task(gc_loop.run(settings.gc_interval)))
        if webhooks is not None:
            webhooks.start()
        if auth is not None and poller is not None:
            auth.start()
            poller.start()
        try:
            yield
        finally:
            if auth is not None and poller is not None:
                await poller.aclose()
                await auth.aclose()
            await cancel_and_wait(*tasks)
            await progress_reporter.aclose()
            await playback.aclose()
            await outbox.aclose()
            for part in (webhooks, hook):
                if part is not None:
                    await part.aclose()
            await store.aclose()
