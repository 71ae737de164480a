"""Asks the services how they are, for /readyz: the gateway's own small questions, which `docs` and `trials` have as well.

A service is ready when one of its replicas says so. Answers are kept for a second, so that probes of many do not multiply; nor do
those of many who ask at the same time.
"""

import asyncio
from collections.abc import Mapping

from gateway.answers import Unreadable
from gateway.line import Gone
from gateway.once import Once
from gateway.proxy import HttpClient, Unreachable
from gateway.upstreams import Replica, Upstream
from services.common.errors import Unavailable
from services.common.web import Check

KEPT_SECONDS = 1.0
ASK_SECONDS = 1.5
"""Shorter than web.CHECK_SECONDS, so that what is known is told."""
MAX_ANSWER = 4 * 1024 * 1024


async def ask(client: HttpClient, replica: Replica, path: str, *, fresh: bool = False) -> tuple[int, bytes]:
    """Status and body of a GET, `fresh` over a new connection. Raises Unavailable."""
    host = replica.origin.removeprefix("http://")
    head = f"GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: application/json\r\n\r\n".encode("ascii")
    try:
        async with asyncio.timeout(ASK_SECONDS):
            line = await client.ask("GET", replica.address, head, fresh=fresh)
            try:
                body = b""
                while data := await line.read():
                    body += data
                    if len(body) > MAX_ANSWER:
                        raise Unavailable("the answer is too long")
            finally:
                status = line.answer.status
                line.release()
    except (TimeoutError, Unreachable, Gone, Unreadable) as error:
        raise Unavailable("no answer") from error
    return status, body


class Health:
    """What /readyz says about the services."""

    def __init__(self, client: HttpClient, upstreams: Mapping[str, Upstream]) -> None:
        self._client = client
        self._upstreams = upstreams
        self._known: dict[str, tuple[float, int]] = {}

    def check(self, name: str) -> Check:
        """A check of the service `name`."""
        upstream = self._upstreams[name]

        async def count() -> int:
            ready = sum(await asyncio.gather(*(self._is_ready(replica) for replica in upstream.replicas)))
            self._known[name] = (asyncio.get_running_loop().time(), ready)
            return ready

        once = Once(count)

        async def check() -> None:
            at, ready = self._known.get(name, (-KEPT_SECONDS, 0))
            if asyncio.get_running_loop().time() - at >= KEPT_SECONDS:
                ready = await once()
            if not ready:
                raise Unavailable(f"none of {len(upstream.replicas)} ready")

        return check

    async def _is_ready(self, replica: Replica) -> bool:
        try:
            status, _ = await ask(self._client, replica, "/readyz")
        except Unavailable:
            return False
        return status == 200
