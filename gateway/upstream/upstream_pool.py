"""The replicas of one service: which is asked next, which is left alone for a while, and how it comes back.

No I/O and no clock: the caller tells the time and what happened. A replica that could not be reached is ejected for half a
second, then twice as long each time, up to `LONGEST`. After that it is due for a question of our own (`trials`), and back when it
answers that: a client's request would be a trial that takes as long as its upload. When all are ejected they are asked all the
same: a guess is better than a refusal.
"""

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

BASE_EJECTION_SECONDS = 0.5
MAX_EJECTION_SECONDS = 4.0
"""Seconds of ejection. A replica that is back is asked whether it is within LONGEST."""
MAX_BACKOFF_EXPONENT = 3
"""From SHORTEST to LONGEST. A replica may fail for weeks, and 2.0 to the power of 1,024 is no float."""

_HOST_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")


class Address(NamedTuple):
    """Where a replica listens, or the name under which all replicas of a service are found."""

    host: str
    port: int

    @property
    def origin(self) -> str:
        """As the beginning of a URL."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


def parse_address(url: str) -> Address:
    """An `http://host[:port]`. Raises ValueError."""
    parts = urlsplit(url)
    bare = not (parts.username or parts.password or parts.query or parts.fragment) and parts.path in {"", "/"}
    if parts.scheme != "http" or not bare or not _HOST_NAME.fullmatch(parts.hostname or ""):
        raise ValueError(f"not an address of the form http://host:port: {url!r}")
    return Address(parts.hostname or "", parts.port or 80)


class Upstream:
    """One process of a service, and what is known of it."""

    __slots__ = ("active_requests", "address", "consecutive_failures", "ejected", "ejected_until", "origin")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.origin = address.origin
        self.active_requests = 0
        self.consecutive_failures = 0
        self.ejected_until = 0.0
        self.ejected = False

    def __enter__(self) -> None:
        """A request is in flight inside this block."""
        self.active_requests += 1

    def __exit__(self, *_error: object) -> None:
        self.active_requests -= 1

    def needs_health_check(self, now: float) -> bool:
        """Whether it should be asked if it is back."""
        return self.ejected and now >= self.ejected_until


class UpstreamPool:
    """All replicas of one service."""

    def __init__(self, name: str, addresses: Iterable[Address] = ()) -> None:
        self.name = name
        self.upstreams = [Upstream(address) for address in addresses]
        self._round_robin_index = 0

    def select_least_requests(self, tried: Collection[Upstream] = ()) -> Upstream | None:
        """The replica with the fewest requests in flight, in turn among equals; None when all were tried."""
        left = [replica for replica in self.upstreams if replica not in tried] if tried else self.upstreams
        if not left:
            return None
        ready = [replica for replica in left if not replica.ejected]
        if not ready:
            return min(left, key=lambda replica: replica.ejected_until)
        self._round_robin_index += 1
        first = self._round_robin_index % len(ready)
        chosen = ready[first]
        for replica in ready[first + 1 :] + ready[:first] if chosen.active_requests else ():
            if replica.active_requests < chosen.active_requests:
                chosen = replica
        return chosen

    def record_failure(self, upstream: Upstream, now: float) -> None:
        """It could not be reached, or did not answer in time."""
        upstream.consecutive_failures += 1
        upstream.ejected = True
        upstream.ejected_until = now + min(
            BASE_EJECTION_SECONDS * 2.0 ** min(upstream.consecutive_failures - 1, MAX_BACKOFF_EXPONENT),
            MAX_EJECTION_SECONDS,
        )

    def record_success(self, upstream: Upstream) -> None:
        """It answered a request."""
        upstream.consecutive_failures = 0
        upstream.ejected = False

    def end_ejection(self, upstream: Upstream) -> None:
        """It answered our own question. Where it fails the next request all the same, it is left alone for longer than before."""
        upstream.ejected = False

    def update(self, addresses: Collection[Address]) -> None:
        """The name of the service now stands for these addresses; what is known of those that stay is kept."""
        known = {replica.address: replica for replica in self.upstreams}
        self.upstreams = [known.get(address) or Upstream(address) for address in addresses]
