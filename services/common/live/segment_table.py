"""Many segments in little memory: a stream of 24 hours has 43,200, and who serves its list keeps all of them. Pure."""

import struct
from collections.abc import Sequence
from typing import overload

from services.common.live.segments import Segment

_ROW = struct.Struct("=IqqqqId?")
"""The fields of `Segment` behind its number, which is its place: 49 bytes, where the objects take 290."""


class SegmentTable(Sequence[Segment]):
    """The segments of a list by number, which grow by `append`. What is returned is a copy."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows = bytearray()

    def append(self, segment: Segment) -> None:
        """Append the next segment. Raises ValueError for another number than the next."""
        if segment.number != len(self):
            raise ValueError(f"segment {segment.number} where {len(self)} is next")
        self._rows += _ROW.pack(*segment[1:])

    def __len__(self) -> int:
        return len(self._rows) // _ROW.size

    @overload
    def __getitem__(self, index: int) -> Segment: ...

    @overload
    def __getitem__(self, index: slice) -> list[Segment]: ...

    def __getitem__(self, index: int | slice) -> Segment | list[Segment]:
        if isinstance(index, slice):
            first, end, step = index.indices(len(self))
            if step < 0:
                return [self[number] for number in range(first, end, step)]
            rows = _ROW.iter_unpack(self._rows[first * _ROW.size : end * _ROW.size])
            return [Segment(first + place, *row) for place, row in enumerate(rows)][::step]
        number = index if index >= 0 else index + len(self)
        if not 0 <= number < len(self):
            raise IndexError(index)
        return Segment(number, *_ROW.unpack_from(self._rows, number * _ROW.size))
