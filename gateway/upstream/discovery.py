"""Services that are given by name: looked up again and again, so that replicas come and go without a restart.

A compose service or a headless Kubernetes Service has one name for all its replicas. Where a lookup fails, what was known stays.
"""

import asyncio
import logging
import socket
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address

from gateway import proxy_events
from gateway.upstream.upstream_pool import Address, UpstreamPool

DNS_REFRESH_INTERVAL_SECONDS = 2.0
"""Between two lookups: a replica that is new gets requests after that, one that is gone is ejected long before."""
INITIAL_DNS_TIMEOUT_SECONDS = 2.0
"""For the first lookup, before requests are taken."""

_log = logging.getLogger("gridcast.gateway")


def is_ip_literal(address: Address) -> bool:
    """Whether it stands for itself."""
    try:
        ip_address(address.host)
    except ValueError:
        return False
    return True


class DnsDiscovery:
    """Keeps the replicas of one service in step with what its names stand for."""

    def __init__(self, pool: UpstreamPool, addresses: Iterable[Address]) -> None:
        self._pool = pool
        self._configured = tuple(addresses)
        self._resolved: dict[Address, tuple[Address, ...]] = {
            one: (one,) for one in self._configured if is_ip_literal(one)
        }
        self._hostnames = tuple(one for one in self._configured if one not in self._resolved)
        pool.update(self._all_addresses())
        proxy_events.upstreams_changed(pool)

    async def resolve_initial(self) -> None:
        """Look up before requests are taken; a resolver that is silent keeps nobody waiting for long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(INITIAL_DNS_TIMEOUT_SECONDS):
                await self.refresh()

    async def run(self) -> None:
        """Look up for ever; returns at once where there is no name."""
        while self._hostnames:
            await self.refresh()
            await asyncio.sleep(DNS_REFRESH_INTERVAL_SECONDS)

    async def refresh(self) -> None:
        """Look all names up once."""
        await asyncio.gather(*(self._resolve(name) for name in self._hostnames))

    async def _resolve(self, name: Address) -> None:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(name.host, name.port, type=socket.SOCK_STREAM)
        except OSError as error:
            _log.warning("DNS lookup failed", extra={"fields": {"hostname": name.host, "reason": str(error)}})
            return
        addresses = tuple(sorted({Address(str(entry[4][0]), name.port) for entry in found}))
        if addresses and addresses != self._resolved.get(name):
            self._resolved[name] = addresses
            self._pool.update(self._all_addresses())
            proxy_events.upstreams_changed(self._pool)

    def _all_addresses(self) -> list[Address]:
        return list(dict.fromkeys(one for name in self._configured for one in self._resolved.get(name, ())))
