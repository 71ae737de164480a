"""Handles HTTP requests: hosts, origins, rate limit, CORS, route; then the reverse proxy or a page of the gateway responds.

Plain ASGI: the routing of a framework would cost more than the rest of the way through the gateway.
"""

import asyncio
from collections.abc import Awaitable

from gateway import cors, proxy_events, routes
from gateway.admission import STATE_KEY, AdmissionPolicy
from gateway.forwarded import Client, is_trusted_proxy, resolve_client
from gateway.proxy.reverse_proxy import ReverseProxy
from services.common.asgi import ASGIApp, Receive, Scope, Send
from services.common.errors import (
    BadGateway,
    Forbidden,
    GatewayTimeout,
    MisdirectedRequest,
    ServiceUnavailable,
    TooManyRequests,
)
from services.common.http.headers import Header, find_header
from services.common.http.origins import SAFE_METHODS

PROBE_PATHS = frozenset({"/livez", "/readyz"})
"""Paths that no rate limit applies to."""


class GatewayHandler:
    """The ASGI application that `RequestMiddleware` wraps."""

    def __init__(
        self, reverse_proxy: ReverseProxy, local_app: ASGIApp, openapi: ASGIApp, admission: AdmissionPolicy
    ) -> None:
        """`local_app` serves the gateway's own routes, `openapi` /openapi.json."""
        self._reverse_proxy = reverse_proxy
        self._local_app = local_app
        self._openapi = openapi
        self._admission = admission

    def trusts_request_id(self, scope: Scope) -> bool:
        """Whether the X-Request-ID comes from a trusted proxy. A client could write into the traces of others with its own."""
        return is_trusted_proxy(_peer_address(scope), self._admission.trusted_proxies)

    def check_request(self, scope: Scope) -> None:
        """Raise MisdirectedRequest for a foreign Host, and Forbidden where a page of a foreign origin would change state."""
        headers, admission = scope["headers"], self._admission
        try:
            admission.hosts.check(headers)
            if scope["method"] not in SAFE_METHODS:
                client = self._client(scope)
                admission.origins.check_request(headers, client.host, https=client.scheme == "https")
        except (MisdirectedRequest, Forbidden) as error:
            proxy_events.request_rejected("host" if isinstance(error, MisdirectedRequest) else "origin")
            raise

    def response_headers(self, scope: Scope) -> tuple[Header, ...]:
        """Return the headers that say which other pages may use the response."""
        return cors.response_headers(scope["headers"], self._admission.origins)

    def client_address(self, scope: Scope) -> str:
        """Return the client's address, behind trusted proxies."""
        return self._client(scope).address

    def _client(self, scope: Scope) -> Client:
        trusted = self._admission.trusted_proxies
        return resolve_client(_peer_address(scope), scope["scheme"], scope["headers"], trusted)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """ASGI. Returns a coroutine instead of awaiting it: each one more would cost every request."""
        if scope["type"] == "lifespan":
            scope["state"][STATE_KEY] = self._admission
            return self._local_app(scope, receive, send)
        return self._handle(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["raw_path"], "ascii")
        admission = self._admission
        client = self._client(scope)
        if admission.rate_limiter is not None and path not in PROBE_PATHS:
            try:
                admission.rate_limiter.acquire(client.address, asyncio.get_running_loop().time())
            except TooManyRequests:
                proxy_events.request_rejected("rate_limit")
                raise
        if scope["method"] == "OPTIONS":
            methods = routes.methods_of(path)
            preflight = find_header(scope["headers"], b"access-control-request-method") is not None
            if preflight or "OPTIONS" not in methods:
                await self._handle_options(scope, routes.allow_header(methods), send, preflight=preflight)
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
        """Respond to a CORS preflight, or to OPTIONS that the service does not support. `allow`: the methods of the resource."""
        headers = [(b"allow", allow.encode("ascii"))]
        if preflight and cors.has_cors_headers(scope["headers"], self._admission.origins):
            headers += cors.preflight_headers(scope["headers"], allow)
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def _peer_address(scope: Scope) -> str:
    return scope["client"][0] if scope["client"] else "unknown"


def _add_missing_host(scope: Scope) -> None:
    """Add a Host header where an HTTP/1.0 client sent none: HTTP/1.1 requires it (RFC 9112, 3.2). It is the gateway's address."""
    if find_header(scope["headers"], b"host") is None:
        host, port = scope["server"] or ("localhost", None)
        name = f"[{host}]" if ":" in host else host
        scope["headers"].append((b"host", (f"{name}:{port}" if port else "localhost").encode("ascii")))
