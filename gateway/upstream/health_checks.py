"""Active health checks of upstreams that are ejected or in use.

No client's request has to find out whether an ejected upstream works again, or waits for one that stands still. A check is a GET of
/livez over a new connection: an upstream that hangs, or has closed its listening socket because it stops, does not respond to that.
`UpstreamPool` decides when an upstream is checked, for how long it is ejected and when it is frozen.
"""

import asyncio
from collections.abc import Mapping

from gateway import proxy_events
from gateway.upstream.connection_pool import ConnectionPool
from gateway.upstream.readiness import UpstreamTimeout, fetch_small
from gateway.upstream.upstream_pool import CHECK_IN_USE_SECONDS, Upstream, UpstreamPool
from services.common.aio.cancellation import cancel_and_wait
from services.common.errors import ServiceUnavailable

CHECK_INTERVAL_SECONDS = 0.25
"""Seconds between two looks for upstreams to check. With MAX_EJECTION_SECONDS and the timeout of a check, an upstream that works
again gets requests within six seconds.
"""


class ActiveHealthChecks:
    """Runs the health checks; each upstream has at most one at a time."""

    def __init__(self, connection_pool: ConnectionPool, pools: Mapping[str, UpstreamPool]) -> None:
        self._connection_pool = connection_pool
        self._pools = tuple(pools.values())
        self._running_checks: dict[Upstream, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Check ejected upstreams until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await asyncio.sleep(CHECK_INTERVAL_SECONDS)
                now = loop.time()
                for pool in self._pools:
                    for upstream in (*pool.upstreams, *pool.removed):
                        if upstream.needs_health_check(now) and upstream not in self._running_checks:
                            self._running_checks[upstream] = asyncio.create_task(self._check_upstream(pool, upstream))
        finally:
            await cancel_and_wait(*self._running_checks.values())

    async def _check_upstream(self, pool: UpstreamPool, upstream: Upstream) -> None:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        try:
            await fetch_small(self._connection_pool, upstream, "/livez", new_connection=True)
        except UpstreamTimeout:
            if pool.record_check_timeout(upstream, started_at, loop.time()):
                proxy_events.upstream_ejected(pool, upstream, "the health checks get no response")
            if upstream.is_frozen(loop.time()):
                for tunnel in tuple(upstream.tunnels):
                    tunnel.shutdown()
        except ServiceUnavailable:
            if (
                upstream.ejected
            ):  # otherwise it has responded to a request meanwhile, or refuses connections because it stops
                pool.record_failure(upstream, loop.time())
            else:
                upstream.next_check_at = loop.time() + CHECK_IN_USE_SECONDS
        else:
            recovered = upstream.ejected
            pool.end_ejection(upstream)
            upstream.next_check_at = loop.time() + CHECK_IN_USE_SECONDS
            if recovered:
                proxy_events.upstream_recovered(pool, upstream)
        finally:
            del self._running_checks[upstream]
