"""Composition root of the live service: builds the ASGI application from settings. Clients are opened in the lifespan."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from services.common.aio.cancellation import cancel_and_wait
from services.common.auth.factory import create_auth, create_authorization
from services.common.auth.revocation_poller import RevocationPoller
from services.common.bus.publisher import EventPublisher
from services.common.http.hosts import HostPolicy
from services.common.http.origins import OriginPolicy
from services.common.store.factory import open_store
from services.common.store.schema_preparation import SchemaPreparation
from services.common.telemetry.request_telemetry import RequestTelemetry
from services.common.web.app_factory import create_fastapi_app
from services.common.web.browser_protection import BrowserProtection
from services.common.web.health import ReadinessCheck
from services.common.web.middleware import RequestMiddleware
from services.common.web.route_list import list_routes
from services.common.web.status import add_status_route
from services.live.settings import LiveSettings


def create_app(settings: LiveSettings | None = None, telemetry: RequestTelemetry | None = None) -> RequestMiddleware:
    """Return the service as an ASGI application. `settings`: read from the environment where None."""
    settings = settings or LiveSettings()
    auth = create_auth(settings)
    schema = SchemaPreparation()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store = open_store(settings, settings.store_timings(), settings.quota())
        app.state.store = store.uploads
        async with EventPublisher.from_url(settings.redis_url.get_secret_value(), "/live"):
            preparation = asyncio.create_task(schema.run(store.uploads))
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
                await cancel_and_wait(preparation)
                await store.aclose()

    async def check_store() -> None:
        schema.check_prepared()
        await app.state.store.check_health()

    checks: dict[str, ReadinessCheck] = {settings.store_dependency: check_store}
    if auth is not None:
        checks |= auth.readiness_checks()
    app = create_fastapi_app("live", "Takes live streams in, and makes files of them.", lifespan, checks)
    add_status_route(app, checks)
    protection = BrowserProtection(HostPolicy(settings.allowed_hosts), OriginPolicy(""))
    authorization = create_authorization(auth, list_routes(app))
    return RequestMiddleware(app, check_request=protection, telemetry=telemetry, authorization=authorization)
