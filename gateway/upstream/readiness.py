"""Readiness of the services for /readyz, and the small requests of the gateway itself (`fetch_small`).

A service is ready if one of its upstreams is. Results are cached for READINESS_TTL_SECONDS and concurrent checks are joined, so
that probes from many sources do not multiply.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gateway.upstream.connect import ConnectError
from gateway.upstream.connection_pool import ConnectionPool
from gateway.upstream.response_parser import RemoteProtocolError
from gateway.upstream.upstream_connection import ServerDisconnected
from gateway.upstream.upstream_pool import Upstream, UpstreamPool
from services.common.aio.singleflight import SingleFlight
from services.common.errors import ServiceUnavailable
from services.common.http.headers import Header
from services.common.web.health import ReadinessCheck

READINESS_TTL_SECONDS = 1.0
"""Seconds for which a result is cached."""
UPSTREAM_FETCH_TIMEOUT_SECONDS = 1.5
"""Seconds for a request of the gateway itself. Below READINESS_CHECK_TIMEOUT_SECONDS, so that a partial result is reported."""
MAX_FETCHED_BYTES = 4 * 1024 * 1024
"""Largest response body that `fetch_small` accepts."""


class UpstreamTimeout(ServiceUnavailable):
    """The upstream has not responded in time; it has neither refused the connection nor closed it."""


class SmallResponse(NamedTuple):
    """A response that was read as a whole."""

    status: int
    headers: list[Header]
    body: bytes


async def fetch_small(
    connection_pool: ConnectionPool, upstream: Upstream, path: str, *, new_connection: bool = False
) -> tuple[int, bytes]:
    """GET `path` and return status and body, as `fetch_response` does."""
    response = await fetch_response(connection_pool, upstream, path, new_connection=new_connection)
    return response.status, response.body


async def fetch_response(
    connection_pool: ConnectionPool,
    upstream: Upstream,
    path: str,
    fields: Iterable[Header] = (),
    *,
    new_connection: bool = False,
) -> SmallResponse:
    """GET `path` with these header fields and return the response. `new_connection`: use no idle connection, and leave none.

    Raises UpstreamTimeout where there is no response within UPSTREAM_FETCH_TIMEOUT_SECONDS, ServiceUnavailable where the connection
    fails or the response is too large.
    """
    host = upstream.origin.removeprefix("http://")
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
    head = f"GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: application/json\r\n".encode("ascii") + lines + b"\r\n"
    try:
        async with asyncio.timeout(UPSTREAM_FETCH_TIMEOUT_SECONDS):
            connection = await connection_pool.request("GET", upstream.address, head, new_connection=new_connection)
            try:
                body = b""
                while data := await connection.read():
                    body += data
                    if len(body) > MAX_FETCHED_BYTES:
                        raise ServiceUnavailable("response too large")
            finally:
                status, headers = connection.response.status, list(connection.response.headers)
                if new_connection:  # checks every two seconds would leave 15 idle connections to each upstream
                    connection.abort()
                else:
                    connection.release()
    except (TimeoutError, ConnectError, ServerDisconnected, RemoteProtocolError) as error:
        timed_out = isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError)
        raise (UpstreamTimeout if timed_out else ServiceUnavailable)("no response") from error
    return SmallResponse(status, headers, body)


class UpstreamReadiness:
    """Makes the readiness checks of the services."""

    def __init__(self, connection_pool: ConnectionPool, pools: Mapping[str, UpstreamPool]) -> None:
        self._connection_pool = connection_pool
        self._pools = pools
        self._cached_counts: dict[str, tuple[float, int]] = {}

    def readiness_check(self, name: str) -> ReadinessCheck:
        """Return a check of the service `name`, which raises ServiceUnavailable if no upstream is ready."""
        pool = self._pools[name]

        async def count() -> int:
            ready = sum(await asyncio.gather(*(self._is_ready(upstream) for upstream in pool.upstreams)))
            self._cached_counts[name] = (asyncio.get_running_loop().time(), ready)
            return ready

        shared_count = SingleFlight(count)

        async def check() -> None:
            at, ready = self._cached_counts.get(name, (-READINESS_TTL_SECONDS, 0))
            if asyncio.get_running_loop().time() - at >= READINESS_TTL_SECONDS:
                ready = await shared_count()
            if not ready:
                raise ServiceUnavailable(f"0 of {len(pool.upstreams)} hosts ready")

        return check

    async def _is_ready(self, upstream: Upstream) -> bool:
        try:
            status, _ = await fetch_small(self._connection_pool, upstream, "/readyz")
        except ServiceUnavailable:
            return False
        return status == 200
