"""Asks the services how they are, for /readyz: the gateway's own small questions, which `docs` and `trials` have as well.

A service is ready when one of its replicas says so. Answers are kept for a second, so that probes of many do not multiply; nor do
those of many who ask at the same time.
"""

import asyncio
from collections.abc import Mapping

from gateway.upstream.connect import ConnectError
from gateway.upstream.connection_pool import ConnectionPool
from gateway.upstream.response_parser import RemoteProtocolError
from gateway.upstream.upstream_connection import ServerDisconnected
from gateway.upstream.upstream_pool import Upstream, UpstreamPool
from services.common.aio.singleflight import SingleFlight
from services.common.errors import ServiceUnavailable
from services.common.web.app_factory import ReadinessCheck

READINESS_TTL_SECONDS = 1.0
UPSTREAM_FETCH_TIMEOUT_SECONDS = 1.5
"""Shorter than web.CHECK_SECONDS, so that what is known is told."""
MAX_FETCHED_BYTES = 4 * 1024 * 1024


async def fetch_small(
    connection_pool: ConnectionPool, upstream: Upstream, path: str, *, new_connection: bool = False
) -> tuple[int, bytes]:
    """Status and body of a GET, `fresh` over a new connection. Raises Unavailable."""
    host = upstream.origin.removeprefix("http://")
    head = f"GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: application/json\r\n\r\n".encode("ascii")
    try:
        async with asyncio.timeout(UPSTREAM_FETCH_TIMEOUT_SECONDS):
            line = await connection_pool.request("GET", upstream.address, head, new_connection=new_connection)
            try:
                body = b""
                while data := await line.read():
                    body += data
                    if len(body) > MAX_FETCHED_BYTES:
                        raise ServiceUnavailable("response too large")
            finally:
                status = line.response.status
                line.release()
    except (TimeoutError, ConnectError, ServerDisconnected, RemoteProtocolError) as error:
        raise ServiceUnavailable("no response") from error
    return status, body


class UpstreamReadiness:
    """What /readyz says about the services."""

    def __init__(self, connection_pool: ConnectionPool, pools: Mapping[str, UpstreamPool]) -> None:
        self._connection_pool = connection_pool
        self._pools = pools
        self._cached_counts: dict[str, tuple[float, int]] = {}

    def readiness_check(self, name: str) -> ReadinessCheck:
        """A check of the service `name`."""
        upstream = self._pools[name]

        async def count() -> int:
            ready = sum(await asyncio.gather(*(self._is_ready(replica) for replica in upstream.upstreams)))
            self._cached_counts[name] = (asyncio.get_running_loop().time(), ready)
            return ready

        once = SingleFlight(count)

        async def check() -> None:
            at, ready = self._cached_counts.get(name, (-READINESS_TTL_SECONDS, 0))
            if asyncio.get_running_loop().time() - at >= READINESS_TTL_SECONDS:
                ready = await once()
            if not ready:
                raise ServiceUnavailable(f"0 of {len(upstream.upstreams)} hosts ready")

        return check

    async def _is_ready(self, upstream: Upstream) -> bool:
        try:
            status, _ = await fetch_small(self._connection_pool, upstream, "/readyz")
        except ServiceUnavailable:
            return False
        return status == 200
