"""Composition root of the gateway: builds the ASGI application from settings. Connections are opened in the lifespan."""

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
from gateway.status import StatusGatherer, add_status_route
from gateway.upstream.connection_pool import ConnectionPool
from gateway.upstream.discovery import DnsDiscovery
from gateway.upstream.health_checks import ActiveHealthChecks
from gateway.upstream.readiness import UpstreamReadiness
from gateway.upstream.upstream_pool import UpstreamPool
from services.common.aio.cancellation import cancel_and_wait
from services.common.auth.route_rules import RuleTable
from services.common.http.hosts import HostPolicy
from services.common.http.origins import OriginPolicy
from services.common.telemetry.request_telemetry import RequestTelemetry
from services.common.web.app_factory import create_fastapi_app
from services.common.web.middleware import RequestMiddleware
from services.common.web.route_list import list_routes


def create_app(settings: GatewaySettings | None = None, telemetry: RequestTelemetry | None = None) -> RequestMiddleware:
    """Build the gateway as an ASGI application. `settings`: read from the environment where None."""
    settings = settings or GatewaySettings()
    addresses = {
        routes.UPLOAD: settings.upload_urls,
        routes.STREAM: settings.stream_urls,
        routes.SOCKET: settings.socket_urls,
        routes.LIVE: settings.live_urls,
    }
    upstream_pools = {name: UpstreamPool(name) for name in addresses}
    discoveries = [DnsDiscovery(pool, addresses[name]) for name, pool in upstream_pools.items()]
    connection_pool = ConnectionPool(settings.connect_timeout)
    reverse_proxy = ReverseProxy(settings, connection_pool, upstream_pools)
    readiness = UpstreamReadiness(connection_pool, upstream_pools)
    health_checks = ActiveHealthChecks(connection_pool, upstream_pools)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await connection_pool.open()
        reverse_proxy.bind_to_running_loop()
        await asyncio.gather(*(discovery.resolve_initial() for discovery in discoveries))
        tasks = [
            asyncio.create_task(reverse_proxy.run_monitor()),
            asyncio.create_task(health_checks.run()),
            *(asyncio.create_task(discovery.run()) for discovery in discoveries),
        ]
        try:
            yield
        finally:
            await cancel_and_wait(*tasks)
            await connection_pool.aclose()

    checks = {name: readiness.readiness_check(name) for name in upstream_pools}
    app = create_fastapi_app(
        "gateway",
        "Files, resumable uploads, live video and pushes to WebSockets. /asyncapi.yaml describes the WebSockets.",
        lifespan,
        checks,
        document_title="Gridcast",
    )
    static_files.add_static_routes(app)
    gatherer = StatusGatherer(connection_pool, upstream_pools, needs_approval=settings.auth != "off")
    add_status_route(app, gatherer, checks)
    RuleTable([*routes.all_operations(), *list_routes(app)])  # no route without a rule
    admission = AdmissionPolicy(
        socket_upstreams=upstream_pools[routes.SOCKET],
        hosts=HostPolicy(settings.allowed_hosts),
        origins=OriginPolicy(settings.allowed_origins),
        rate_limiter=RateLimiter(settings.request_rate_per_client) if settings.request_rate_per_client else None,
        connection_limiter=ConnectionLimiter(settings.max_tunnels, settings.max_tunnels_per_client),
        trusted_proxies=settings.trusted_proxies,
        connect_timeout=settings.connect_timeout,
    )
    openapi = OpenAPIAggregator(connection_pool, upstream_pools, app.openapi)
    handler = GatewayHandler(reverse_proxy, app, openapi, admission)
    return RequestMiddleware(
        handler,
        trusts_request_id=handler.trusts_request_id,
        check_request=handler.check_request,
        response_headers=handler.response_headers,
        telemetry=telemetry,
        client_address=handler.client_address,
    )
