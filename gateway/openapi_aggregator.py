"""Serves /openapi.json: the documents of all services, fetched and merged. If a service does not respond, its last one is used."""

import asyncio
import json
from collections.abc import Callable, Mapping

from gateway import openapi_merge, routes
from gateway.upstream.connection_pool import ConnectionPool
from gateway.upstream.readiness import fetch_small
from gateway.upstream.upstream_pool import UpstreamPool
from services.common.aio.singleflight import SingleFlight
from services.common.asgi import Receive, Scope, Send
from services.common.errors import ServiceUnavailable
from services.common.web.openapi import openapi_problems

DOCUMENT_TTL_SECONDS = 5.0
"""Seconds for which the merged document is served without fetching again."""
GATEWAY_ERROR_RESPONSES = openapi_problems(408, 413, 417, 429, 502, 503, 504)
"""Problems that the gateway itself may respond with on a service's routes; 400, 414 and 431 are in every service's document."""


class OpenAPIAggregator:
    """A plain ASGI application that responds with the merged document."""

    def __init__(
        self,
        connection_pool: ConnectionPool,
        pools: Mapping[str, UpstreamPool],
        gateway_document: Callable[[], openapi_merge.OpenAPIDocument],
    ) -> None:
        """`pools` by service; `gateway_document` returns the document of the gateway's own routes."""
        self._connection_pool = connection_pool
        self._pools = pools
        self._gateway_document = gateway_document
        self._documents: dict[str, openapi_merge.OpenAPIDocument] = {}
        self._cached_body = b""
        self._fresh_until = 0.0
        self._refresh = SingleFlight(self._aggregate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        del scope, receive
        if asyncio.get_running_loop().time() >= self._fresh_until:
            await self._refresh()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self._cached_body)),
            (b"cache-control", b"no-cache"),
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._cached_body})

    async def _aggregate(self) -> None:
        await asyncio.gather(*(self._fetch_document(pool) for pool in self._pools.values()))
        documents = {name: (document, routes.routed_operations(name)) for name, document in self._documents.items()}
        merged = openapi_merge.merge_documents(self._gateway_document(), documents, GATEWAY_ERROR_RESPONSES)
        self._cached_body = json.dumps(merged).encode("ascii") + b"\n"
        self._fresh_until = (
            asyncio.get_running_loop().time() + DOCUMENT_TTL_SECONDS
            if len(self._documents) == len(self._pools)
            else 0.0
        )

    async def _fetch_document(self, pool: UpstreamPool) -> None:
        upstream = pool.select_least_requests()
        if upstream is None:
            return
        try:
            with upstream:
                status, body = await fetch_small(self._connection_pool, upstream, "/openapi.json")
            if status == 200:
                self._documents[pool.name] = json.loads(body)
        except (ServiceUnavailable, ValueError):
            return
