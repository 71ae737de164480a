r"""Byte ranges (RFC 9110, 14.1 and 14.2). A header and a length in, ranges out.

Pitfalls: `\d`, `str.isdigit` and `int` accept digits of other scripts, signs and underscores; a number of thirty digits overflows
BSON; ten thousand overlapping ranges turn a small file into a large response.
"""

import re
from typing import NamedTuple

MAX_RANGES = 16
"""A header with more ranges is ignored: sending the whole file is cheaper than many small parts."""
MAX_DIGITS = 19
"""Longer numbers are past the end of any file and are parsed as the largest number of this length."""

_SINGLE_RANGE = re.compile(r"bytes=([0-9]{1,19})-([0-9]{1,19})", re.ASCII)
_RANGE_SPEC = re.compile(r"([0-9]+)-([0-9]*)|-([0-9]+)", re.ASCII)
_MAX_NUMBER = 10**MAX_DIGITS - 1


class ByteRange(NamedTuple):
    """Bytes `first` to `last`, both included."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """Bytes in it, at least 1."""
        return self.last - self.first + 1


class RangeSpec(NamedTuple):
    """One range as asked for: `first` to `last` (None: to the end), or the last `suffix` bytes."""

    first: int | None
    last: int | None
    suffix_length: int | None


def parse_range_header(header: str) -> list[RangeSpec] | None:
    """The ranges of a Range header, or None where it is to be ignored: another unit, malformed, or more than 16 ranges."""
    if (one := _SINGLE_RANGE.fullmatch(header)) is not None:  # what nearly every player asks for
        first, last = int(one[1]), int(one[2])
        return [RangeSpec(first, last, None)] if first <= last else None
    if (
        header[:6].lower() != "bytes=" or header.count(",") > 4 * MAX_RANGES
    ):  # empty elements are allowed, not without end
        return None
    specs: list[RangeSpec] = []
    for element in header[6:].split(","):
        # Not in the pattern: white space before and behind something that may be absent takes it n * n steps to refuse.
        if not (text := element.strip(" \t")):
            continue
        match = _RANGE_SPEC.fullmatch(text)
        if match is None:
            return None
        start, end, tail = match.groups()
        if tail:
            specs.append(RangeSpec(None, None, _parse_number(tail)))
        else:
            begin, stop = _parse_number(start), _parse_number(end) if end else None
            if stop is not None and stop < begin:
                return None
            specs.append(RangeSpec(begin, stop, None))
    return specs if 0 < len(specs) <= MAX_RANGES else None


def resolve_ranges(specs: list[RangeSpec], length: int) -> list[ByteRange]:
    """What of it lies within `length` bytes, in the order asked for; what overlaps or touches is one range. Empty: 416."""
    found: list[ByteRange] = []
    for spec in specs:
        if spec.suffix_length is not None:
            first, last = max(0, length - spec.suffix_length), length - 1
        else:
            first, last = spec.first or 0, length - 1 if spec.last is None else min(spec.last, length - 1)
        if first <= last:
            found.append(ByteRange(first, last))
    return _merge(found) if len(found) > 1 else found


def _merge(ranges: list[ByteRange]) -> list[ByteRange]:
    """Sorted, joined, and put back at the place of the earliest asked for of each."""
    order = sorted(range(len(ranges)), key=lambda index: ranges[index].first)
    joined: list[tuple[int, ByteRange]] = []
    for index in order:
        item = ranges[index]
        if joined and item.first <= joined[-1][1].last + 1:
            place, before = joined[-1]
            joined[-1] = (min(place, index), ByteRange(before.first, max(before.last, item.last)))
        else:
            joined.append((index, item))
    return [item for _, item in sorted(joined, key=lambda pair: pair[0])]


def _parse_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= MAX_DIGITS else _MAX_NUMBER
