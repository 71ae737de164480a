"""Composition root of the gateway: settings in, ASGI application out. Clients are opened in the lifespan."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from gateway import own, routes
from gateway.docs import Docs
from gateway.forward import Forward
from gateway.health import Health
from gateway.proxy import Client
from gateway.settings import GatewaySettings
from gateway.tunnel import Entrance
from gateway.upstreams import Upstream
from services.common.web import App, Front, Receive, Scope, Send, build


class Gateway:
    """Sends each request where the table says. Plain ASGI: a framework's routing would cost more than the way through."""

    def __init__(self, forward: Forward, own: App, state: dict[str, object]) -> None:
        self._forward = forward
        self._own = own
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            scope["state"].update(self._state)
            await self._own(scope, receive, send)
            return
        path = str(scope["raw_path"], "ascii")
        if scope["method"] == "OPTIONS" and await own.options(scope, path, send):
            return
        route = routes.match(scope["method"], path)
        if route.service == routes.GATEWAY:
            await self._own(scope, receive, send)
        else:
            await self._forward(scope, receive, send, route)


def create_app(settings: GatewaySettings | None = None) -> Front:
    """The gateway as an ASGI application."""
    settings = settings or GatewaySettings()
    upstreams = {
        routes.UPLOAD: Upstream(routes.UPLOAD, settings.upload_urls),
        routes.STREAM: Upstream(routes.STREAM, settings.stream_urls),
        routes.SOCKET: Upstream(routes.SOCKET, settings.socket_urls),
    }
    client = Client(settings.connect_seconds)
    forward = Forward(settings, client, upstreams)
    health = Health(client, upstreams)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await client.open()
        watching = asyncio.create_task(forward.watch())
        try:
            yield
        finally:
            watching.cancel()
            await client.close()

    checks = {name: health.check(name) for name in upstreams}
    app = build("gateway", "The one front: HTTP, WebSockets, web page, joined API document.", lifespan, checks)
    own.add(app)
    direct = {("GET", "/openapi.json"): Docs(client, upstreams, app.openapi)}
    state: dict[str, object] = {"entrance": Entrance(upstreams[routes.SOCKET], settings.connect_seconds)}
    return Front(Gateway(forward, app, state), direct)  # type: ignore[arg-type]  # Front asks no more of it than ASGI
