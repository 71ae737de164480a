"""Decides about each HTTP request: may it come in, who answers, what a browser is told. It moves no bytes.

Plain ASGI: a framework's routing would cost more than the way through.
"""

import asyncio
from collections.abc import Awaitable

from gateway import cors, reports, routes
from gateway.clients import client_of, is_trusted
from gateway.entrance import STATE, Entrance
from gateway.forward import Forward
from services.common.errors import BadGateway, GatewayTimeout, GridcastError, TooMany, Unavailable
from services.common.web import App, Message, Receive, Scope, Send, send_problem

PROBES = frozenset({"/livez", "/readyz"})


class Gateway:
    """The application behind services.common.web.Front."""

    def __init__(self, forward: Forward, own: App, docs: App, entrance: Entrance) -> None:
        self._forward = forward
        self._own = own
        self._docs = docs
        self._entrance = entrance

    def believes(self, scope: Scope) -> bool:
        """Whether an X-Request-ID is the word of a trusted proxy. A client's own would let it write into others' traces."""
        return is_trusted(_peer(scope), self._entrance.trusted)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """ASGI. Not a coroutine around another: each costs every request."""
        if scope["type"] == "lifespan":
            scope["state"][STATE] = self._entrance
            return self._own(scope, receive, send)
        if added := cors.answer(scope["headers"], self._entrance.origins):
            return self._answer_adding(added, scope, receive, send)
        return self._answer(scope, receive, send)

    async def _answer_adding(self, added: cors.Fields, scope: Scope, receive: Receive, send: Send) -> None:
        """With these fields, whoever answers."""
        begun = False

        async def adding(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message["headers"], *added]
            await send(message)

        try:
            await self._answer(scope, receive, adding)
        except GridcastError as error:
            if begun:
                raise
            await send_problem(adding, error, close=True)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["raw_path"], "ascii")
        entrance = self._entrance
        client = client_of(_peer(scope), scope["scheme"], scope["headers"], entrance.trusted)
        if entrance.rate is not None and path not in PROBES:
            try:
                entrance.rate.take(client.address, asyncio.get_running_loop().time())
            except TooMany:
                reports.refused("rate")
                raise
        if scope["method"] == "OPTIONS":
            known = routes.methods(path)
            preflight = cors.field(scope["headers"], b"access-control-request-method") is not None
            if preflight or "OPTIONS" not in known:
                await self._options(scope, routes.allow(known), send, preflight=preflight)
                return
        route = routes.match(scope["method"], path)
        scope["route"] = route.template
        if route.service != routes.GATEWAY:
            if scope["http_version"] == "1.0":
                _name_host(scope)
            try:
                await self._forward(scope, receive, send, route, client)
            except (BadGateway, GatewayTimeout, Unavailable) as error:
                reports.unanswered(route.service, error.status)
                raise
        elif path == "/openapi.json":
            await self._docs(scope, receive, send)
        else:
            await self._own(scope, receive, send)

    async def _options(self, scope: Scope, allow: str, send: Send, *, preflight: bool) -> None:
        """A CORS preflight, or an OPTIONS of a resource whose service does not know it."""
        headers = [(b"allow", allow.encode("ascii"))]
        if preflight and cors.answer(scope["headers"], self._entrance.origins):
            headers += cors.preflight(scope["headers"], allow)
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def _peer(scope: Scope) -> str:
    return scope["client"][0] if scope["client"] else "unknown"


def _name_host(scope: Scope) -> None:
    """A client of HTTP/1.0 need not say whom it asks. The service is asked in HTTP/1.1: for the address at which we were."""
    if cors.field(scope["headers"], b"host") is None:
        host, port = scope["server"] or ("localhost", None)
        name = f"[{host}]" if ":" in host else host
        scope["headers"].append((b"host", (f"{name}:{port}" if port else "localhost").encode("ascii")))
