"""Segments and epochs of a live stream as values. Pure."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Epoch:
    """Media of one sender without a break: its initialisation segment, and when it began.

    `base_time` is the sender's time at its start, `file_time` the file's, both in ticks of the main track; `date` in seconds
    since 1970.
    """

    number: int
    init: bytes
    timescale: int
    base_time: int
    file_time: int
    date: float


class Segment(NamedTuple):
    """One segment: fragments that follow each other in the file.

    `offset` and `size` in bytes of the file; `start` (time of the file) and `duration` in ticks of `timescale`, that of the main
    track. `date` is when it began, in seconds since 1970. `is_key`: decoding can begin at its start.
    """

    number: int
    epoch: int
    offset: int
    size: int
    start: int
    duration: int
    timescale: int
    date: float
    is_key: bool

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.duration / self.timescale
