"""Load balancing and outlier detection over the upstreams of one service. The caller passes the time and reports results.

Load balancing: the upstream with the fewest active requests, round robin among equals.

Ejection: the first failure ejects an upstream, for BASE_EJECTION_SECONDS; each further failure in a row doubles the time, up to
MAX_EJECTION_SECONDS. A failure is a failed connect, no response, an invalid one or a timeout; a 5xx response is none. When the time
has passed, an active health check ends the ejection (`health_checks`), not a client's request: that would be a test that takes as
long as its upload.

Panic mode: if all upstreams are ejected, the one whose ejection ends first gets the request, because it may work and a 502 cannot.
"""

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

BASE_EJECTION_SECONDS = 0.5
"""Seconds of the first ejection."""
MAX_EJECTION_SECONDS = 4.0
"""Seconds of the longest ejection, and so the longest time until an upstream that works again is checked."""
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


class Upstream:
    """One host of a service: its active requests and its health."""

    __slots__ = ("active_requests", "address", "consecutive_failures", "ejected", "ejected_until", "origin")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.origin = address.origin
        self.active_requests = 0
        self.consecutive_failures = 0
        self.ejected_until = 0.0
        self.ejected = False

    def __enter__(self) -> None:
        """Count a request as active for the length of the block."""
        self.active_requests += 1

    def __exit__(self, *_error: object) -> None:
        self.active_requests -= 1

    def needs_health_check(self, now: float) -> bool:
        """Whether it is ejected and the time of its ejection has passed."""
        return self.ejected and now >= self.ejected_until


class UpstreamPool:
    """The upstreams of one service."""

    def __init__(self, name: str, addresses: Iterable[Address] = ()) -> None:
        self.name = name
        self.upstreams = [Upstream(address) for address in addresses]
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
        upstream.consecutive_failures = 0
        upstream.ejected = False

    def end_ejection(self, upstream: Upstream) -> None:
        """End the ejection of `upstream`: it has passed a health check. Its failures still count if the next request fails."""
        upstream.ejected = False

    def update(self, addresses: Collection[Address]) -> None:
        """Replace the upstreams by those at `addresses`. An upstream that stays keeps its active requests and its health."""
        known = {upstream.address: upstream for upstream in self.upstreams}
        self.upstreams = [known.get(address) or Upstream(address) for address in addresses]
