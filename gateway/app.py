"""Composition root of the gateway: settings in, ASGI application out. Clients are opened in the lifespan."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from gateway import own, routes
from gateway.docs import Docs
from gateway.door import Rate, Tunnels
from gateway.entrance import Entrance
from gateway.forward import Forward
from gateway.front import Gateway
from gateway.health import Health
from gateway.names import Names
from gateway.proxy import HttpClient
from gateway.settings import GatewaySettings
from gateway.trials import Trials
from gateway.upstreams import Upstream
from services.common.front import Front
from services.common.origins import Origins
from services.common.tasks import end
from services.common.web import build


def create_app(settings: GatewaySettings | None = None) -> Front:
    """The gateway as an ASGI application."""
    settings = settings or GatewaySettings()
    wanted = {
        routes.UPLOAD: settings.upload_urls,
        routes.STREAM: settings.stream_urls,
        routes.SOCKET: settings.socket_urls,
    }
    upstreams = {name: Upstream(name) for name in wanted}
    names = [Names(upstreams[name], addresses) for name, addresses in wanted.items()]
    client = HttpClient(settings.connect_seconds)
    forward = Forward(settings, client, upstreams)
    health = Health(client, upstreams)
    trials = Trials(client, upstreams)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await client.open()
        forward.open()
        await asyncio.gather(*(one.first() for one in names))
        tasks = [
            asyncio.create_task(forward.watch()),
            asyncio.create_task(trials.run()),
            *(asyncio.create_task(one.follow()) for one in names),
        ]
        try:
            yield
        finally:
            await end(*tasks)
            await client.close()

    checks = {name: health.check(name) for name in upstreams}
    app = build("gateway", "The one front: HTTP, WebSockets, web page, joined API document.", lifespan, checks)
    own.add(app)
    entrance = Entrance(
        upstream=upstreams[routes.SOCKET],
        origins=Origins(settings.allowed_origins),
        rate=Rate(settings.rate) if settings.rate else None,
        tunnels=Tunnels(settings.max_tunnels, settings.max_tunnels_per_client),
        trusted=settings.trusted_proxies,
        connect_seconds=settings.connect_seconds,
    )
    gateway = Gateway(forward, app, Docs(client, upstreams, app.openapi), entrance)
    return Front(gateway, believes=gateway.believes)
