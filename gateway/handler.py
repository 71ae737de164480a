"""Decides about each HTTP request: may it come in, who answers, what a browser is told. It moves no bytes.

Plain ASGI: a framework's routing would cost more than the way through.
"""

import asyncio
from collections.abc import Awaitable

from gateway import cors, proxy_events, routes
from gateway.admission import STATE_KEY, AdmissionPolicy
from gateway.forwarded import is_trusted_proxy, resolve_client
from gateway.proxy.reverse_proxy import ReverseProxy
from services.common.asgi import ASGIApp, Message, Receive, Scope, Send
from services.common.errors import BadGateway, GatewayTimeout, GridcastError, ServiceUnavailable, TooManyRequests
from services.common.http.headers import Header, find_header
from services.common.web.app_factory import send_problem

PROBE_PATHS = frozenset({"/livez", "/readyz"})


class GatewayHandler:
    """The application behind services.common.web.middleware.RequestMiddleware."""

    def __init__(
        self, reverse_proxy: ReverseProxy, local_app: ASGIApp, openapi: ASGIApp, admission: AdmissionPolicy
    ) -> None:
        self._reverse_proxy = reverse_proxy
        self._local_app = local_app
        self._openapi = openapi
        self._admission = admission

    def trusts_request_id(self, scope: Scope) -> bool:
        """Whether an X-Request-ID is the word of a trusted proxy. A client's own would let it write into others' traces."""
        return is_trusted_proxy(_peer_address(scope), self._admission.trusted_proxies)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """ASGI. Not a coroutine around another: each costs every request."""
        if scope["type"] == "lifespan":
            scope["state"][STATE_KEY] = self._admission
            return self._local_app(scope, receive, send)
        if added := cors.response_headers(scope["headers"], self._admission.origins):
            return self._handle_with_headers(added, scope, receive, send)
        return self._handle(scope, receive, send)

    async def _handle_with_headers(
        self, extra_headers: list[Header], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """With these fields, whoever answers."""
        begun = False

        async def adding(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message["headers"], *extra_headers]
            await send(message)

        try:
            await self._handle(scope, receive, adding)
        except GridcastError as error:
            if begun:
                raise
            await send_problem(adding, error, close_connection=True)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["raw_path"], "ascii")
        entrance = self._admission
        client = resolve_client(_peer_address(scope), scope["scheme"], scope["headers"], entrance.trusted_proxies)
        if entrance.rate_limiter is not None and path not in PROBE_PATHS:
            try:
                entrance.rate_limiter.acquire(client.address, asyncio.get_running_loop().time())
            except TooManyRequests:
                proxy_events.request_rejected("rate_limit")
                raise
        if scope["method"] == "OPTIONS":
            known = routes.methods_of(path)
            preflight = find_header(scope["headers"], b"access-control-request-method") is not None
            if preflight or "OPTIONS" not in known:
                await self._handle_options(scope, routes.allow_header(known), send, preflight=preflight)
                return
        route = routes.match_route(scope["method"], path)
        scope["route"] = route.template
        if route.service != routes.GATEWAY:
            if scope["http_version"] == "1.0":
                _add_missing_host(scope)
            try:
                await self._reverse_proxy(scope, receive, send, route, client)
            except (BadGateway, GatewayTimeout, ServiceUnavailable) as error:
                proxy_events.upstream_error(route.service, error.status)
                raise
        elif path == "/openapi.json":
            await self._openapi(scope, receive, send)
        else:
            await self._local_app(scope, receive, send)

    async def _handle_options(self, scope: Scope, allow: str, send: Send, *, preflight: bool) -> None:
        """A CORS preflight, or an OPTIONS of a resource whose service does not know it."""
        headers = [(b"allow", allow.encode("ascii"))]
        if preflight and cors.response_headers(scope["headers"], self._admission.origins):
            headers += cors.preflight_headers(scope["headers"], allow)
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def _peer_address(scope: Scope) -> str:
    return scope["client"][0] if scope["client"] else "unknown"


def _add_missing_host(scope: Scope) -> None:
    """A client of HTTP/1.0 need not say whom it asks. The service is asked in HTTP/1.1: for the address at which we were."""
    if find_header(scope["headers"], b"host") is None:
        host, port = scope["server"] or ("localhost", None)
        name = f"[{host}]" if ":" in host else host
        scope["headers"].append((b"host", (f"{name}:{port}" if port else "localhost").encode("ascii")))
