"""/openapi.json: the services' own documents, fetched and joined. A service that does not answer is shown as it last was."""

import asyncio
import json
from collections.abc import Callable, Mapping

from gateway import openapi, routes
from gateway.health import ask
from gateway.once import Once
from gateway.proxy import HttpClient
from gateway.upstreams import Upstream
from services.common.errors import Unavailable
from services.common.web import Receive, Scope, Send, problems

KEPT_SECONDS = 5.0
OURS = problems(408, 413, 417, 429, 502, 503, 504)
"""What the gateway may answer in a service's place; 400, 414 and 431 stand in every document."""


class Docs:
    """A plain ASGI application that answers with the joined document."""

    def __init__(
        self, client: HttpClient, upstreams: Mapping[str, Upstream], own: Callable[[], openapi.Document]
    ) -> None:
        self._client = client
        self._upstreams = upstreams
        self._own = own
        self._known: dict[str, openapi.Document] = {}
        self._body = b""
        self._until = 0.0
        self._join = Once(self._make)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        del scope, receive
        if asyncio.get_running_loop().time() >= self._until:
            await self._join()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self._body)),
            (b"cache-control", b"no-cache"),
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})

    async def _make(self) -> None:
        await asyncio.gather(*(self._learn(upstream) for upstream in self._upstreams.values()))
        described = {name: (known, routes.described(name)) for name, known in self._known.items()}
        self._body = json.dumps(openapi.join(self._own(), described, OURS)).encode("ascii")
        self._until = (
            asyncio.get_running_loop().time() + KEPT_SECONDS if len(self._known) == len(self._upstreams) else 0.0
        )

    async def _learn(self, upstream: Upstream) -> None:
        replica = upstream.pick()
        if replica is None:
            return
        try:
            with replica:
                status, body = await ask(self._client, replica, "/openapi.json")
            if status == 200:
                self._known[upstream.name] = json.loads(body)
        except (Unavailable, ValueError):
            return
