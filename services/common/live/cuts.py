"""What a cutter returns for one fragment, and what it needs to go on in another process. Pure."""

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from services.common.live.segments import Epoch, Segment


class Cut(NamedTuple):
    """What one fragment brought: bytes to append to the file, epochs that began, segments that are complete."""

    data: bytes = b""
    epochs: tuple[Epoch, ...] = ()
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True, slots=True)
class CutterState:
    """How far a cutter is: with this and the last epoch another process goes on, and the result is that of one process.

    `position` is where in the file the next fragment goes, and `open_segment` the fragments behind the last complete segment as the
    segment that they would be. `file_end` is when the media ends, in seconds, over all tracks. `expected` is when the next fragment
    is due, in the sender's ticks; None where it begins an epoch. `track_ends` is when the other tracks end, in ticks of their own
    and of the sender's time, and `breaks` says that one of them had a gap. `listed_end` is where the last complete segment ends, in
    ticks of the file, None where that is not known. A fragment that is held is not part of it and is added again.
    """

    position: int
    next_number: int = 0
    open_segment: Segment | None = None
    file_end: Fraction = Fraction(0)
    expected: int | None = None
    last_duration: int = 0
    dropped: int = 0
    dropped_seconds: float = 0.0
    track_ends: tuple[tuple[int, int], ...] = ()
    breaks: bool = False
    listed_end: int | None = 0
