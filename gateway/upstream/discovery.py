"""DNS discovery: resolves the host names of a service at intervals, so that upstreams are added and removed without a restart.

A compose service or a headless Kubernetes Service has one name for all its replicas. If a lookup fails, the last addresses stay.
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
"""Seconds between two lookups: the time until a new upstream gets requests. One that has gone is ejected long before."""
INITIAL_DNS_TIMEOUT_SECONDS = 2.0
"""Seconds for the first lookup, before requests are accepted."""

_log = logging.getLogger("gridcast.gateway")


def is_ip_literal(address: Address) -> bool:
    """Whether the host is an IP address, which needs no lookup."""
    try:
        ip_address(address.host)
    except ValueError:
        return False
    return True


class DnsDiscovery:
    """Updates the upstreams of one service with what its host names resolve to."""

    def __init__(self, pool: UpstreamPool, addresses: Iterable[Address]) -> None:
        self._pool = pool
        self._configured = tuple(addresses)
        self._resolved: dict[Address, tuple[Address, ...]] = {
            address: (address,) for address in self._configured if is_ip_literal(address)
        }
        self._hostnames = tuple(address for address in self._configured if address not in self._resolved)
        pool.update(self._all_addresses())
        proxy_events.upstreams_changed(pool)

    async def resolve_initial(self) -> None:
        """Resolve before requests are accepted, for at most INITIAL_DNS_TIMEOUT_SECONDS."""
        with suppress(TimeoutError):
            async with asyncio.timeout(INITIAL_DNS_TIMEOUT_SECONDS):
                await self.refresh()

    async def run(self) -> None:
        """Resolve at intervals until cancelled. Returns at once if all addresses are IP addresses."""
        while self._hostnames:
            await self.refresh()
            await asyncio.sleep(DNS_REFRESH_INTERVAL_SECONDS)

    async def refresh(self) -> None:
        """Resolve all host names once."""
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
        """Return the resolved addresses in the order of the settings, without duplicates."""
        return list(dict.fromkeys(address for name in self._configured for address in self._resolved.get(name, ())))
