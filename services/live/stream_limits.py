"""What one stream may have, as the answer to its creation says, and what comes near a limit or exceeds it. Pure."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

LIMIT_WARNING_SECONDS = 300.0
"""How long before the end of a stream that has too much of something its viewers and its publisher are warned."""
WARNING_SHARE = 0.2
"""The same as a part of the time that a short stream may have: one of five minutes is warned a minute before."""
RATE_WINDOW_SECONDS = 30.0
"""Media time over which the rate is measured."""

Limit = Literal["bytes", "duration", "rate"]


class Extent(NamedTuple):
    """How much there is of a stream: bytes of its file, seconds of its media."""

    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """`bytes` of the file, `duration` in seconds, `rate` in bytes per second of media (0 for any), `speed` at which media is taken,
    in multiples of their own (0 for any).
    """

    bytes: int
    duration: float
    rate: int = 0
    speed: float = 0.0

    def at_most(self, max_bytes: int | None) -> "StreamLimits":
        """Return these limits with a smaller one of bytes, where that is given."""
        return self if max_bytes is None else replace(self, bytes=min(self.bytes, max_bytes))

    def to_json(self) -> str:
        """Return what is stored with the stream."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "StreamLimits":
        """Read what is stored with a stream."""
        members: dict[str, Any] = json.loads(text)
        return cls(members["bytes"], members["duration"], members.get("rate", 0), members.get("speed", 0.0))

    def exceeded(self, extent: Extent) -> Limit | None:
        """Return what a stream has too much of; None where nothing. The rate is judged by `RateMeter`."""
        if extent.bytes >= self.bytes:
            return "bytes"
        return "duration" if extent.seconds >= self.duration else None

    def warnings(self, before: Extent, after: Extent) -> Iterator[tuple[Limit, float]]:
        """Yield the limits that came near with a step, each once, and how many seconds are left at the stream's own rate.

        Near is LIMIT_WARNING_SECONDS, or for a stream that may not be five times as long, WARNING_SHARE of its whole time.
        """
        limits: tuple[tuple[Limit, Callable[[Extent], float]], ...] = (
            ("bytes", self._seconds_of_bytes),
            ("duration", self._seconds_of_duration),
        )
        for limit, seconds_left in limits:
            left = seconds_left(after)
            if self._is_near(after, left) and not self._is_near(before, seconds_left(before)):
                yield limit, max(0.0, left)

    @staticmethod
    def _is_near(extent: Extent, left: float) -> bool:
        return left <= min(LIMIT_WARNING_SECONDS, WARNING_SHARE * (extent.seconds + max(0.0, left)))

    def _seconds_of_duration(self, extent: Extent) -> float:
        return self.duration - extent.seconds

    def _seconds_of_bytes(self, extent: Extent) -> float:
        """How long the bytes that are left will do."""
        if extent.seconds <= 0 or extent.bytes <= 0:
            return float("inf")
        return (self.bytes - extent.bytes) * extent.seconds / extent.bytes


class RateMeter:
    """The rate of a stream over the last RATE_WINDOW_SECONDS of its media."""

    def __init__(self, start: Extent) -> None:
        self._extents = [start]

    def add(self, extent: Extent) -> float | None:
        """Return bytes per second of media; None before there is a window of it."""
        extents = self._extents
        extents.append(extent)
        while len(extents) > 2 and extents[1].seconds <= extent.seconds - RATE_WINDOW_SECONDS:
            del extents[0]
        seconds = extent.seconds - extents[0].seconds
        return (extent.bytes - extents[0].bytes) / seconds if seconds >= RATE_WINDOW_SECONDS else None


class Pacer:
    """How long to wait so that media is taken at no more than `speed` times its own speed, after a start of `burst` seconds."""

    def __init__(self, speed: float, seconds: float, now: float, burst: float = 10.0) -> None:
        self._speed = speed
        self._burst = burst
        self._start = seconds
        self._began = now

    def delay(self, seconds: float, now: float) -> float:
        """Return the seconds to wait at `now`, of a clock that is never set back, where the media is `seconds` long."""
        if not self._speed:
            return 0.0
        due = self._began + max(0.0, seconds - self._start - self._burst) / self._speed
        if due < now - self._burst:  # time in which nothing was sent does not count
            self._began, self._start = now, seconds - self._burst
            return 0.0
        return max(0.0, due - now)
