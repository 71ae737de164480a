"""Asks replicas that were put aside whether they are back, so that no request of a client has to find out.

It asks for /livez over a new connection: a replica that hangs, or stops listening because it ends, does not answer that. It decides
nothing else: when a replica is due, and for how long it is left alone, is for `upstreams` to say.
"""

import asyncio
from collections.abc import Mapping

from gateway import reports
from gateway.health import ask
from gateway.proxy import HttpClient
from gateway.upstreams import Replica, Upstream
from services.common.errors import Unavailable
from services.common.tasks import end

TICK = 0.25
"""Between two looks. With LONGEST and the time for an answer it makes less than six seconds from a return to the next request."""


class Trials:
    """All questions that are under way."""

    def __init__(self, client: HttpClient, upstreams: Mapping[str, Upstream]) -> None:
        self._client = client
        self._upstreams = tuple(upstreams.values())
        self._asking: dict[Replica, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Look after all replicas until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await asyncio.sleep(TICK)
                now = loop.time()
                for upstream in self._upstreams:
                    for replica in upstream.replicas:
                        if replica.is_due(now) and replica not in self._asking:
                            self._asking[replica] = asyncio.create_task(self._ask(upstream, replica))
        finally:
            await end(*self._asking.values())

    async def _ask(self, upstream: Upstream, replica: Replica) -> None:
        try:
            await ask(self._client, replica, "/livez", fresh=True)
        except Unavailable:
            if replica.away:  # else it has answered a request meanwhile
                upstream.failed(replica, asyncio.get_running_loop().time())
        else:
            upstream.returned(replica)
            reports.returned(upstream, replica)
        finally:
            del self._asking[replica]
