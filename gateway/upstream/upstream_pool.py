"""Load balancing and outlier detection over the upstreams of one service. The caller passes the time and reports results.

Load balancing: the upstream with the fewest active requests, round robin among equals.

Ejection: the first failure ejects an upstream, for BASE_EJECTION_SECONDS; each further failure in a row doubles the time, up to
MAX_EJECTION_SECONDS. A failure is a failed connect, no response, an invalid one or a timeout; a 5xx response is none. When the time
has passed, an active health check ends the ejection (`health_checks`), not a client's request: that would be a test that takes as
long as its upload.

Unresponsive: an upstream with active requests is checked as well. If two checks in a row get no response in time, the process
stands still (a frozen container, a host that is gone): it is ejected, and the requests that wait are retried elsewhere or ended. A
refused connection is not counted: a service that shuts down refuses new connections while it completes its requests.

Panic mode: if all upstreams are ejected, the one whose ejection ends first gets the request, because it may work and a 502 cannot.
"""

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

BASE_EJECTION_SECONDS = 0.5
"""Seconds of the first ejection."""
MAX_EJECTION_SECONDS = 4.0
"""Seconds of the longest ejection, and so the longest time until an upstream that works again is checked."""
CHECK_IN_USE_SECONDS = 2.0
"""Seconds between two health checks of an upstream with active requests."""
FROZEN_AFTER_SECONDS = 10.0
"""Seconds without a response after which requests and tunnels of an upstream are ended. Below the interval of WebSocket pings."""
MAX_BACKOFF_EXPONENT = 3
"""Doublings from the first to the longest ejection. Bounded: an upstream may fail for weeks, and 2.0 ** 1024 overflows a float."""

_HOST_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")


class Address(NamedTuple):
    """Where an upstream listens: an IP address, or a host name that stands for all upstreams of a service."""

    host: str
    port: int

    @property
    def origin(self) -> str:
        """The address as a URL without a path."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


def parse_address(url: str) -> Address:
    """Parse `http://host[:port]`. Raises ValueError, which does not quote the URL: it may contain a password."""
    try:
        parts = urlsplit(url)
        bare = not (parts.username or parts.password or parts.query or parts.fragment) and parts.path in {"", "/"}
        if parts.scheme == "http" and bare and _HOST_NAME.fullmatch(parts.hostname or ""):
            return Address(parts.hostname or "", parts.port or 80)
    except ValueError:
        pass
    raise ValueError("not an address of the form http://host:port, without user name and password")


class Closable(Protocol):
    """A tunnel, as far as the pool uses it."""

    def shutdown(self) -> None:
        """Close it."""


class Upstream:
    """One host of a service: its active requests and its health."""

    __slots__ = (
        "active_requests",
        "address",
        "consecutive_failures",
        "ejected",
        "ejected_until",
        "next_check_at",
        "origin",
        "timed_out_checks",
        "tunnels",
        "unresponsive_since",
    )

    def __init__(self, address: Address) -> None:
        self.address = address
        self.origin = address.origin
        self.active_requests = 0
        self.consecutive_failures = 0
        self.ejected_until = 0.0
        self.ejected = False
        self.next_check_at = 0.0
        self.timed_out_checks = 0
        self.unresponsive_since: float | None = None
        """When the first of the checks began that have timed out in a row, two or more; None where it responds."""
        self.tunnels: set[Closable] = set()

    def __enter__(self) -> None:
        """Count a request as active for the length of the block."""
        self.active_requests += 1

    def __exit__(self, *_error: object) -> None:
        self.active_requests -= 1

    def needs_health_check(self, now: float) -> bool:
        """Whether it is ejected and its ejection has passed, or it has active requests and was not checked for a while."""
        if self.ejected:
            return now >= self.ejected_until
        return self.active_requests > 0 and now >= self.next_check_at

    def is_frozen(self, now: float) -> bool:
        """Whether it has not responded for FROZEN_AFTER_SECONDS."""
        return self.unresponsive_since is not None and now - self.unresponsive_since >= FROZEN_AFTER_SECONDS


class UpstreamPool:
    """The upstreams of one service."""

    def __init__(self, name: str, addresses: Iterable[Address] = ()) -> None:
        self.name = name
        self.upstreams = [Upstream(address) for address in addresses]
        self.removed: list[Upstream] = []
        """Upstreams that discovery has removed and that have active requests."""
        self._round_robin_index = 0

    def select_least_requests(self, tried: Collection[Upstream] = ()) -> Upstream | None:
        """Return the upstream with the fewest active requests that is not in `tried`; None where all are."""
        candidates = [upstream for upstream in self.upstreams if upstream not in tried] if tried else self.upstreams
        if not candidates:
            return None
        healthy = [upstream for upstream in candidates if not upstream.ejected]
        if not healthy:
            return min(candidates, key=lambda upstream: upstream.ejected_until)
        self._round_robin_index += 1
        first = self._round_robin_index % len(healthy)
        selected = healthy[first]
        for upstream in healthy[first + 1 :] + healthy[:first] if selected.active_requests else ():
            if upstream.active_requests < selected.active_requests:
                selected = upstream
        return selected

    def record_failure(self, upstream: Upstream, now: float) -> None:
        """Eject `upstream` at `now` (seconds)."""
        upstream.consecutive_failures += 1
        upstream.ejected = True
        upstream.ejected_until = now + min(
            BASE_EJECTION_SECONDS * 2.0 ** min(upstream.consecutive_failures - 1, MAX_BACKOFF_EXPONENT),
            MAX_EJECTION_SECONDS,
        )

    def record_success(self, upstream: Upstream) -> None:
        """End the ejection of `upstream`, and forget its failures: it has responded to a request."""
        upstream.consecutive_failures = upstream.timed_out_checks = 0
        upstream.ejected = False
        upstream.unresponsive_since = None

    def record_check_timeout(self, upstream: Upstream, started_at: float, now: float) -> bool:
        """Record a health check that began at `started_at` and got no response in time. Returns whether it ejects `upstream`."""
        upstream.timed_out_checks += 1
        if upstream.timed_out_checks == 1:
            upstream.next_check_at = now
            return False
        if upstream.unresponsive_since is None:
            upstream.unresponsive_since = started_at
        was_ejected = upstream.ejected
        self.record_failure(upstream, now)
        return not was_ejected

    def end_ejection(self, upstream: Upstream) -> None:
        """End the ejection of `upstream`: it has passed a health check. Its failures still count if the next request fails."""
        upstream.timed_out_checks = 0
        upstream.unresponsive_since = None
        upstream.ejected = False

    def has_healthy(self) -> bool:
        """Whether a request may go to an upstream that is not ejected."""
        return any(not upstream.ejected for upstream in self.upstreams)

    def update(self, addresses: Collection[Address]) -> None:
        """Replace the upstreams by those at `addresses`. An upstream that stays keeps its active requests and its health."""
        known = {upstream.address: upstream for upstream in (*self.removed, *self.upstreams)}
        self.upstreams = [known.pop(address) if address in known else Upstream(address) for address in addresses]
        self.removed = [upstream for upstream in known.values() if upstream.active_requests]
