"""Limits per client: the rate of requests, the number of open WebSocket tunnels.

The caller passes the time. Counts are those of one gateway process: with N gateways a client gets N times as much.
"""

from collections import OrderedDict
from math import ceil

from services.common.aio.token_bucket import TokenBucket
from services.common.errors import ServiceUnavailable, TooManyRequests
from services.common.http.clients import client_key

MAX_TRACKED_CLIENTS = 10_000
"""Clients with a token bucket. Beyond it the one not seen for longest is dropped, and so starts with a full bucket again."""


class RateLimiter:
    """Token buckets by client. A request beyond the rate is refused, never delayed."""

    def __init__(self, per_second: float) -> None:
        """`per_second`: requests of one client on average; its burst is twice as many, and at least one."""
        self._per_second = per_second
        self._burst = max(1.0, 2.0 * per_second)
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def acquire(self, address: str, now: float) -> None:
        """Count one request at `now` (seconds). Raises TooManyRequests; its `Retry-After` is when the next one is allowed."""
        key = client_key(address)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._per_second, self._burst, now)
            if len(self._buckets) > MAX_TRACKED_CLIENTS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        if not bucket.try_acquire(now):
            wait = ceil(bucket.seconds_until())
            raise TooManyRequests("request rate limit exceeded", {"retry-after": str(wait)})


class ConnectionLimiter:
    """Counts open tunnels, in all and by client."""

    def __init__(self, max_connections: int, max_per_client: int) -> None:
        """`max_per_client` of 0: no limit."""
        self._max_connections = max_connections
        self._max_per_client = max_per_client
        self._count = 0
        self._by_client: dict[str, int] = {}

    def acquire(self, address: str) -> None:
        """Count one more. Raises ServiceUnavailable at the limit of the gateway, TooManyRequests at that of the client."""
        if self._count >= self._max_connections:
            raise ServiceUnavailable("too many WebSocket connections", retry_after=5)
        key = client_key(address)
        count = self._by_client.get(key, 0)
        if self._max_per_client and count >= self._max_per_client:
            raise TooManyRequests("too many WebSocket connections from this address", {"retry-after": "5"})
        self._count += 1
        self._by_client[key] = count + 1

    def release(self, address: str) -> None:
        """Count one less: a tunnel that was acquired for `address` is closed."""
        key = client_key(address)
        self._count -= 1
        if self._by_client[key] > 1:
            self._by_client[key] -= 1
        else:
            del self._by_client[key]
