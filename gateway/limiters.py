"""Who may come in: pages of which origins, how many tunnels, how many requests of one client.

Pure: the caller tells the time. Counts are this process's own; with N gateways a client gets N times as much.
"""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from math import ceil

from services.common.errors import ServiceUnavailable, TooManyRequests

MAX_TRACKED_CLIENTS = 10_000
"""Clients whose rate is kept; the one not seen for longest is forgotten, which gives it a full allowance again."""


class RateLimiter:
    """So many requests a second from one client, and twice as many at once. None of a client's requests waits: it is refused."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._burst = max(1.0, 2.0 * per_second)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def acquire(self, address: str, now: float) -> None:
        """Count one request. Raises TooMany with the seconds until the next one is answered."""
        key = client_key(address)
        left, at = self._buckets.pop(key, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._per_second)
        if taken := left >= 1.0:
            left -= 1.0
        self._buckets[key] = (left, now)
        if len(self._buckets) > MAX_TRACKED_CLIENTS:
            self._buckets.popitem(last=False)
        if not taken:
            wait = ceil((1.0 - left) / self._per_second)
            raise TooManyRequests("request rate limit exceeded", {"retry-after": str(wait)})


class ConnectionLimiter:
    """Open WebSockets, all and by client."""

    def __init__(self, max_connections: int, max_per_client: int) -> None:
        """`most_per_client` may be 0: no limit."""
        self._max_connections = max_connections
        self._max_per_client = max_per_client
        self._count = 0
        self._by_client: dict[str, int] = {}

    def acquire(self, address: str) -> None:
        """Count one more. Raises Unavailable or TooMany; those that are open stay."""
        if self._count >= self._max_connections:
            raise ServiceUnavailable("too many WebSocket connections", retry_after=5)
        key = client_key(address)
        mine = self._by_client.get(key, 0)
        if self._max_per_client and mine >= self._max_per_client:
            raise TooManyRequests("too many WebSocket connections from this address", {"retry-after": "5"})
        self._count += 1
        self._by_client[key] = mine + 1

    def release(self, address: str) -> None:
        """One that entered is over."""
        key = client_key(address)
        self._count -= 1
        if self._by_client[key] > 1:
            self._by_client[key] -= 1
        else:
            del self._by_client[key]


def client_key(address: str) -> str:
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
