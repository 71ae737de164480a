"""Moves the base times of a fragment's tracks (`tfdt`, ISO/IEC 14496-12, 8.8.12), so that time goes on over epochs. Pure."""

from collections.abc import Mapping

from services.common.containers.boxes import find_box, iter_boxes, read_box
from services.common.live.initialisation import UnsupportedMedia


def shift_base_times(data: bytes, moof: int, shifts: Mapping[int, int]) -> bytes:
    """Return the fragment with each track's base time moved by its ticks; every size and offset stays.

    A base time that would become negative becomes 0. Raises UnsupportedMedia where a `tfdt` of version 0 has too few bits.
    """
    if not any(shifts.values()):
        return data
    moved = bytearray(data)
    box = read_box(data, moof, len(data))
    if box is None:
        raise UnsupportedMedia("a fragment without a moof")
    for traf in iter_boxes(data, box.body, box.end):
        if traf.type != b"traf":
            continue
        header = find_box(data, traf.body, traf.end, b"tfhd")
        times = find_box(data, traf.body, traf.end, b"tfdt")
        if header is None or times is None:
            continue
        shift = shifts.get(int.from_bytes(data[header.body + 4 : header.body + 8], "big"), 0)
        width = 8 if data[times.body] else 4
        field = slice(times.body + 4, times.body + 4 + width)
        value = max(0, int.from_bytes(data[field], "big") + shift)
        if value >= 1 << (8 * width):
            raise UnsupportedMedia("a tfdt of version 0 that is too small for the file's time")
        moved[field] = value.to_bytes(width, "big")
    return bytes(moved)
