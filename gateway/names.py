"""Services that are given by name: looked up again and again, so that replicas come and go without a restart.

A compose service or a headless Kubernetes Service has one name for all its replicas. Where a lookup fails, what was known stays.
"""

import asyncio
import logging
import socket
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address

from gateway import reports
from gateway.upstreams import Address, Upstream

LOOKUP_SECONDS = 2.0
"""Between two lookups: a replica that is new gets requests after that, one that is gone is ejected long before."""
FIRST_SECONDS = 2.0
"""For the first lookup, before requests are taken."""

_log = logging.getLogger("gridcast.gateway")


def is_literal(address: Address) -> bool:
    """Whether it stands for itself."""
    try:
        ip_address(address.host)
    except ValueError:
        return False
    return True


class Names:
    """Keeps the replicas of one service in step with what its names stand for."""

    def __init__(self, upstream: Upstream, addresses: Iterable[Address]) -> None:
        self._upstream = upstream
        self._wanted = tuple(addresses)
        self._known: dict[Address, tuple[Address, ...]] = {one: (one,) for one in self._wanted if is_literal(one)}
        self._names = tuple(one for one in self._wanted if one not in self._known)
        upstream.update(self._all())
        reports.replicas(upstream)

    async def first(self) -> None:
        """Look up before requests are taken; a resolver that is silent keeps nobody waiting for long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SECONDS):
                await self.look()

    async def follow(self) -> None:
        """Look up for ever; returns at once where there is no name."""
        while self._names:
            await self.look()
            await asyncio.sleep(LOOKUP_SECONDS)

    async def look(self) -> None:
        """Look all names up once."""
        await asyncio.gather(*(self._look(name) for name in self._names))

    async def _look(self, name: Address) -> None:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(name.host, name.port, type=socket.SOCK_STREAM)
        except OSError as error:
            _log.warning("lookup failed", extra={"fields": {"name": name.host, "why": str(error)}})
            return
        addresses = tuple(sorted({Address(str(entry[4][0]), name.port) for entry in found}))
        if addresses and addresses != self._known.get(name):
            self._known[name] = addresses
            self._upstream.update(self._all())
            reports.replicas(self._upstream)

    def _all(self) -> list[Address]:
        return list(dict.fromkeys(one for name in self._wanted for one in self._known.get(name, ())))
