"""Composition root of the gateway: settings in, ASGI application out. Clients are opened in the lifespan."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from gateway import routes, static_files
from gateway.admission import AdmissionPolicy
from gateway.handler import GatewayHandler
from gateway.limiters import ConnectionLimiter, RateLimiter
from gateway.openapi_aggregator import OpenAPIAggregator
from gateway.proxy.reverse_proxy import ReverseProxy
from gateway.settings import GatewaySettings
from gateway.upstream.connection_pool import ConnectionPool
from gateway.upstream.discovery import DnsDiscovery
from gateway.upstream.health_checks import ActiveHealthChecks
from gateway.upstream.readiness import UpstreamReadiness
from gateway.upstream.upstream_pool import UpstreamPool
from services.common.aio.cancellation import cancel_and_wait
from services.common.http.origins import OriginPolicy
from services.common.web.app_factory import create_fastapi_app
from services.common.web.middleware import RequestMiddleware


def create_app(settings: GatewaySettings | None = None) -> RequestMiddleware:
    """The gateway as an ASGI application."""
    settings = settings or GatewaySettings()
    wanted = {
        routes.UPLOAD: settings.upload_urls,
        routes.STREAM: settings.stream_urls,
        routes.SOCKET: settings.socket_urls,
    }
    upstreams = {name: UpstreamPool(name) for name in wanted}
    names = [DnsDiscovery(upstreams[name], addresses) for name, addresses in wanted.items()]
    client = ConnectionPool(settings.connect_timeout)
    forward = ReverseProxy(settings, client, upstreams)
    health = UpstreamReadiness(client, upstreams)
    trials = ActiveHealthChecks(client, upstreams)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await client.open()
        forward.bind_to_running_loop()
        await asyncio.gather(*(one.resolve_initial() for one in names))
        tasks = [
            asyncio.create_task(forward.run_monitor()),
            asyncio.create_task(trials.run()),
            *(asyncio.create_task(one.run()) for one in names),
        ]
        try:
            yield
        finally:
            await cancel_and_wait(*tasks)
            await client.aclose()

    checks = {name: health.readiness_check(name) for name in upstreams}
    app = create_fastapi_app(
        "gateway", "The one front: HTTP, WebSockets, web page, joined API document.", lifespan, checks
    )
    static_files.add_static_routes(app)
    entrance = AdmissionPolicy(
        socket_upstreams=upstreams[routes.SOCKET],
        origins=OriginPolicy(settings.allowed_origins),
        rate_limiter=RateLimiter(settings.request_rate_per_client) if settings.request_rate_per_client else None,
        connection_limiter=ConnectionLimiter(settings.max_tunnels, settings.max_tunnels_per_client),
        trusted_proxies=settings.trusted_proxies,
        connect_timeout=settings.connect_timeout,
    )
    gateway = GatewayHandler(forward, app, OpenAPIAggregator(client, upstreams, app.openapi), entrance)
    return RequestMiddleware(gateway, trusts_request_id=gateway.trusts_request_id)
