"""Blocking reloads of a playlist (draft-pantos-hls-rfc8216bis, 6.2.5): what is asked for, and when they may be offered. Pure."""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

MAX_AHEAD = 2
"""Segments behind the last one that may be asked for."""
HOLD_TARGETS = 3
"""Target durations that a request is held, at most: it is answered with 503 then."""
MAX_HOLD_SECONDS = 8.0
"""Players give up where the first byte of a list takes 10 s."""
STEADY_SEGMENTS = 3
"""Segments in a row that come on time before reloads are offered to block."""
_TOLERANCE = 0.5
"""Share of its duration by which a segment may come early or late."""
_SEQUENCE_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)


class InvalidReload(ValueError):
    """Delivery directives that have no meaning; the text says why, for an answer 400."""


class Reload(NamedTuple):
    """Delivery directives: the segment to wait for, None to wait for nothing, and whether a delta update will do."""

    sequence: int | None = None
    skip: bool = False


def parse_reload(query: Iterable[tuple[str, str]]) -> Reload:
    """Read the directives of a query; other parameters are ignored. Raises InvalidReload.

    There are no partial segments: to wait for a part is to wait for its segment.
    """
    found: dict[str, str] = {}
    for name, value in query:
        if name in {"_HLS_msn", "_HLS_part", "_HLS_skip"}:
            if name in found:
                raise InvalidReload(f"{name} is given twice")
            found[name] = value
    for name in ("_HLS_msn", "_HLS_part"):
        if name in found and not _SEQUENCE_NUMBER.fullmatch(found[name]):
            raise InvalidReload(f"{name} is not a number")
    if "_HLS_part" in found and "_HLS_msn" not in found:
        raise InvalidReload("_HLS_part without _HLS_msn")
    if found.get("_HLS_skip", "YES") not in {"YES", "v2"}:
        raise InvalidReload("_HLS_skip is neither YES nor v2")
    return Reload(int(found["_HLS_msn"]) if "_HLS_msn" in found else None, "_HLS_skip" in found)


def decide(reload: Reload, last_number: int, *, ended: bool) -> Literal["answer", "hold"]:
    """Whether a request is answered now or held until its segment is there. A list that has ended is always answered.

    `last_number` is the sequence number of the last segment, -1 where there is none. Raises InvalidReload for one too far ahead.
    """
    if ended or reload.sequence is None or reload.sequence <= last_number:
        return "answer"
    if reload.sequence > last_number + MAX_AHEAD:
        raise InvalidReload(f"_HLS_msn is more than {MAX_AHEAD} segments ahead")
    return "hold"


def hold_seconds(target: int) -> float:
    """How long a request is held, for a list of that target duration."""
    return min(HOLD_TARGETS * target, MAX_HOLD_SECONDS)


class Cadence:
    """Whether segments come as steadily as they are long. Once they have, `is_steady` stays: the offer must not change."""

    def __init__(self) -> None:
        self.is_steady = False
        self._last: float | None = None
        self._in_time = 0

    def add(self, seconds: float, now: float) -> None:
        """Say that a segment of that duration is complete at `now`, in seconds of a clock that is never set back."""
        if self._last is not None:
            in_time = abs(now - self._last - seconds) <= _TOLERANCE * seconds
            self._in_time = self._in_time + 1 if in_time else 0
            self.is_steady = self.is_steady or self._in_time >= STEADY_SEGMENTS
        self._last = now
