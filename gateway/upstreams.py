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

SHORTEST = 0.5
LONGEST = 4.0
"""Seconds of ejection. A replica that is back is asked whether it is within LONGEST."""
CONNECT_ALL_SECONDS = 1.5
"""Of one request, spent on replicas that cannot be reached: after this no further one is tried, so that the refusal comes within
three seconds.
"""
DOUBLINGS = 3
"""From SHORTEST to LONGEST. A replica may fail for weeks, and 2.0 to the power of 1,024 is no float."""

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")


class Address(NamedTuple):
    """Where a replica listens, or the name under which all replicas of a service are found."""

    host: str
    port: int

    @property
    def origin(self) -> str:
        """As the beginning of a URL."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


def parse(url: str) -> Address:
    """An `http://host[:port]`. Raises ValueError."""
    parts = urlsplit(url)
    bare = not (parts.username or parts.password or parts.query or parts.fragment) and parts.path in {"", "/"}
    if parts.scheme != "http" or not bare or not _HOST.fullmatch(parts.hostname or ""):
        raise ValueError(f"not an address of the form http://host:port: {url!r}")
    return Address(parts.hostname or "", parts.port or 80)


class Replica:
    """One process of a service, and what is known of it."""

    __slots__ = ("address", "away", "failures", "in_flight", "origin", "until")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.origin = address.origin
        self.in_flight = 0
        self.failures = 0
        self.until = 0.0
        self.away = False

    def __enter__(self) -> None:
        """A request is in flight inside this block."""
        self.in_flight += 1

    def __exit__(self, *_error: object) -> None:
        self.in_flight -= 1

    def is_due(self, now: float) -> bool:
        """Whether it should be asked if it is back."""
        return self.away and now >= self.until


class Upstream:
    """All replicas of one service."""

    def __init__(self, name: str, addresses: Iterable[Address] = ()) -> None:
        self.name = name
        self.replicas = [Replica(address) for address in addresses]
        self._turn = 0

    def pick(self, tried: Collection[Replica] = ()) -> Replica | None:
        """The replica with the fewest requests in flight, in turn among equals; None when all were tried."""
        left = [replica for replica in self.replicas if replica not in tried] if tried else self.replicas
        if not left:
            return None
        ready = [replica for replica in left if not replica.away]
        if not ready:
            return min(left, key=lambda replica: replica.until)
        self._turn += 1
        first = self._turn % len(ready)
        chosen = ready[first]
        for replica in ready[first + 1 :] + ready[:first] if chosen.in_flight else ():
            if replica.in_flight < chosen.in_flight:
                chosen = replica
        return chosen

    def failed(self, replica: Replica, now: float) -> None:
        """It could not be reached, or did not answer in time."""
        replica.failures += 1
        replica.away = True
        replica.until = now + min(SHORTEST * 2.0 ** min(replica.failures - 1, DOUBLINGS), LONGEST)

    def worked(self, replica: Replica) -> None:
        """It answered a request."""
        replica.failures = 0
        replica.away = False

    def returned(self, replica: Replica) -> None:
        """It answered our own question. Where it fails the next request all the same, it is left alone for longer than before."""
        replica.away = False

    def update(self, addresses: Collection[Address]) -> None:
        """The name of the service now stands for these addresses; what is known of those that stay is kept."""
        known = {replica.address: replica for replica in self.replicas}
        self.replicas = [known.get(address) or Replica(address) for address in addresses]
