"""Who may come in: pages of which origins, how many tunnels, how many requests of one client.

Pure: the caller tells the time. Counts are this process's own; with N gateways a client gets N times as much.
"""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from math import ceil

from services.common.errors import TooMany, Unavailable

REMEMBERED = 10_000
"""Clients whose rate is kept; the one not seen for longest is forgotten, which gives it a full allowance again."""


class Rate:
    """So many requests a second from one client, and twice as many at once. None of a client's requests waits: it is refused."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._most = max(1.0, 2.0 * per_second)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str, now: float) -> None:
        """Count one request. Raises TooMany with the seconds until the next one is answered."""
        key = group(address)
        left, at = self._buckets.pop(key, (self._most, now))
        left = min(self._most, left + (now - at) * self._per_second)
        if taken := left >= 1.0:
            left -= 1.0
        self._buckets[key] = (left, now)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        if not taken:
            wait = ceil((1.0 - left) / self._per_second)
            raise TooMany("too many requests from this address", {"retry-after": str(wait)})


class Tunnels:
    """Open WebSockets, all and by client."""

    def __init__(self, most: int, most_per_client: int) -> None:
        """`most_per_client` may be 0: no limit."""
        self._most = most
        self._most_per_client = most_per_client
        self._count = 0
        self._by_client: dict[str, int] = {}

    def enter(self, address: str) -> None:
        """Count one more. Raises Unavailable or TooMany; those that are open stay."""
        if self._count >= self._most:
            raise Unavailable("this gateway has all the sockets that it can hold", retry_after=5)
        key = group(address)
        mine = self._by_client.get(key, 0)
        if self._most_per_client and mine >= self._most_per_client:
            raise TooMany("too many sockets from this address", {"retry-after": "5"})
        self._count += 1
        self._by_client[key] = mine + 1

    def leave(self, address: str) -> None:
        """One that entered is over."""
        key = group(address)
        self._count -= 1
        if self._by_client[key] > 1:
            self._by_client[key] -= 1
        else:
            del self._by_client[key]


def group(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 that one IPv6 subscriber has at least."""
    if ":" not in address:
        return address
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return f"{int(parsed) >> 64:x}"
