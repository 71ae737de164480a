"""Asks replicas that were put aside whether they are back, so that no request of a client has to find out.

It asks for /livez over a new connection: a replica that hangs, or stops listening because it ends, does not answer that. It decides
nothing else: when a replica is due, and for how long it is left alone, is for `upstreams` to say.
"""

import asyncio
from collections.abc import Mapping

from gateway import proxy_events
from gateway.upstream.connection_pool import ConnectionPool
from gateway.upstream.readiness import fetch_small
from gateway.upstream.upstream_pool import Upstream, UpstreamPool
from services.common.aio.cancellation import cancel_and_wait
from services.common.errors import ServiceUnavailable

CHECK_INTERVAL_SECONDS = 0.25
"""Between two looks. With LONGEST and the time for an answer it makes less than six seconds from a return to the next request."""


class ActiveHealthChecks:
    """All questions that are under way."""

    def __init__(self, connection_pool: ConnectionPool, pools: Mapping[str, UpstreamPool]) -> None:
        self._connection_pool = connection_pool
        self._pools = tuple(pools.values())
        self._running_checks: dict[Upstream, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Look after all replicas until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await asyncio.sleep(CHECK_INTERVAL_SECONDS)
                now = loop.time()
                for upstream in self._pools:
                    for replica in upstream.upstreams:
                        if replica.needs_health_check(now) and replica not in self._running_checks:
                            self._running_checks[replica] = asyncio.create_task(self._check_upstream(upstream, replica))
        finally:
            await cancel_and_wait(*self._running_checks.values())

    async def _check_upstream(self, pool: UpstreamPool, upstream: Upstream) -> None:
        try:
            await fetch_small(self._connection_pool, upstream, "/livez", new_connection=True)
        except ServiceUnavailable:
            if upstream.ejected:  # else it has answered a request meanwhile
                pool.record_failure(upstream, asyncio.get_running_loop().time())
        else:
            pool.end_ejection(upstream)
            proxy_events.upstream_recovered(pool, upstream)
        finally:
            del self._running_checks[upstream]
