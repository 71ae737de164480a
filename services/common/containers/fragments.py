"""Fragments of MP4 (ISO/IEC 14496-12, 8.8): when each track of a fragment begins, how long it lasts, whether a key frame is first.

Made for two callers: the duration of a fragmented file is the end of its last fragment, and a live stream is cut into segments at
fragments that begin with a key frame. Pure.
"""

import struct
from collections.abc import Mapping
from typing import NamedTuple

from services.common.containers.boxes import MAX_SAMPLES, MAX_TRACKS, Box, MalformedBoxes, iter_boxes, read_box

MAX_MOOF_BYTES = 4 * 1024 * 1024
MAX_FRAGMENT_BYTES = 32 * 1024 * 1024
MAX_RUNS = 64
"""Track runs of one track fragment."""
MAX_CANDIDATES = 8
"""Places at the end of a file that look like a fragment and are tried."""
_NON_SYNC_SAMPLE = 0x10000


class TrackDefaults(NamedTuple):
    """What the initialisation segment says of a track: `timescale` in ticks a second, and the defaults of its samples (`trex`)."""

    timescale: int
    handler: bytes
    sample_duration: int = 0
    sample_size: int = 0
    sample_flags: int = 0


class TrackFragment(NamedTuple):
    """One track of one fragment; times in ticks of the track.

    `start` is None without a `tfdt`. `duration` is 0 where the sender has not stated it: then it is the next fragment's start less
    this one's. `begins_with_sync_sample` says that decoding can begin here.
    """

    track_id: int
    start: int | None
    duration: int
    sample_count: int
    sample_bytes: int
    begins_with_sync_sample: bool


class SegmentIndex(NamedTuple):
    """What a `sidx` box says: `earliest` and `duration` in ticks, the bytes it refers to, and how many segments they are."""

    timescale: int
    earliest: int
    duration: int
    referenced_bytes: int
    segment_count: int


def read_fragment(data: bytes, defaults: Mapping[int, TrackDefaults], start: int = 0) -> tuple[TrackFragment, ...]:
    """Read the complete `moof` box at `start`. Raises MalformedBoxes for what breaks a guard or names an unknown track."""
    moof = read_box(data, start, len(data))
    if moof is None or moof.type != b"moof" or moof.end > len(data):
        raise MalformedBoxes("no complete moof")
    if moof.end - moof.start > MAX_MOOF_BYTES:
        raise MalformedBoxes(f"a moof of more than {MAX_MOOF_BYTES} bytes")
    found = tuple(
        _read_track_fragment(data, box, defaults)
        for box in iter_boxes(data, moof.body, moof.end)
        if box.type == b"traf"
    )
    if len(found) > MAX_TRACKS:
        raise MalformedBoxes(f"more than {MAX_TRACKS} tracks")
    return found


def _read_track_fragment(data: bytes, traf: Box, defaults: Mapping[int, TrackDefaults]) -> TrackFragment:
    header: TrackDefaults | None = None
    track_id, start, duration, count, size, sync = 0, None, 0, 0, 0, False
    runs = 0
    for box in iter_boxes(data, traf.body, traf.end):
        if box.type == b"tfhd":
            track_id, header = _read_tfhd(data, box, defaults)
        elif box.type == b"tfdt":
            start = _read_tfdt(data, box)
        elif box.type == b"trun":
            runs += 1
            if header is None or runs > MAX_RUNS:
                raise MalformedBoxes("a track run without a header, or too many of them")
            run = _read_trun(data, box, header)
            duration += run[0]
            size += run[1]
            if not count and run[2]:
                sync = not run[3] & _NON_SYNC_SAMPLE
            count += run[2]
    if header is None:
        raise MalformedBoxes("a track fragment without a header")
    return TrackFragment(track_id, start, duration, count, size, sync)


def _read_tfhd(data: bytes, box: Box, defaults: Mapping[int, TrackDefaults]) -> tuple[int, TrackDefaults]:
    flags, track_id = _flags_and_word(data, box)
    track = defaults.get(track_id)
    if track is None:
        raise MalformedBoxes(f"a fragment of the unknown track {track_id}")
    position = box.body + 8 + (8 if flags & 1 else 0) + (4 if flags & 2 else 0)
    values = [track.sample_duration, track.sample_size, track.sample_flags]
    for index, bit in enumerate((8, 0x10, 0x20)):
        if flags & bit:
            values[index] = _word(data, position, box.end)
            position += 4
    return track_id, TrackDefaults(track.timescale, track.handler, *values)


def _read_tfdt(data: bytes, box: Box) -> int:
    size = 8 if data[box.body : box.body + 1] == b"\x01" else 4
    if box.end - box.body < 4 + size:
        raise MalformedBoxes("a tfdt that is too short")
    return int.from_bytes(data[box.body + 4 : box.body + 4 + size], "big")


def _read_trun(data: bytes, box: Box, track: TrackDefaults) -> tuple[int, int, int, int]:
    """Return duration, bytes, number of samples, and the flags of the first one."""
    flags, count = _flags_and_word(data, box)
    if count > MAX_SAMPLES:
        raise MalformedBoxes(f"more than {MAX_SAMPLES} samples in a run")
    position = box.body + 8 + (4 if flags & 1 else 0)
    first_flags = track.sample_flags
    if flags & 4:
        first_flags = _word(data, position, box.end)
        position += 4
    fields = [bit for bit in (0x100, 0x200, 0x400, 0x800) if flags & bit]
    words = count * len(fields)
    if position + 4 * words > box.end:
        raise MalformedBoxes("a track run exceeds its box")
    values = struct.unpack_from(f">{words}I", data, position) if words else ()
    stride = len(fields)
    durations, sizes = (values[fields.index(bit) :: stride] if bit in fields else None for bit in (0x100, 0x200))
    duration = count * track.sample_duration if durations is None else sum(durations)
    size = count * track.sample_size if sizes is None else sum(sizes)
    if 0x400 in fields and values and not flags & 4:
        first_flags = values[fields.index(0x400)]
    return duration, size, count, first_flags


def read_segment_index(data: bytes, box: Box, origin: int = 0) -> SegmentIndex:
    """Read a complete `sidx` box (ISO/IEC 14496-12, 8.16.3) whose positions count from `origin`. Raises MalformedBoxes."""
    body, end = box.body - origin, box.end - origin
    version = data[body]
    timescale = _word(data, body + 8, end)
    width = 4 if version == 0 else 8
    position = body + 12 + 2 * width + 2
    if position + 2 > end or not timescale:
        raise MalformedBoxes("a sidx that is too short")
    earliest = int.from_bytes(data[body + 12 : body + 12 + width], "big")
    count = int.from_bytes(data[position : position + 2], "big")
    position += 2
    if position + 12 * count > end:
        raise MalformedBoxes("a sidx exceeds its box")
    words = struct.unpack_from(f">{3 * count}I", data, position)
    referenced = sum(word & 0x7FFFFFFF for word in words[::3])
    return SegmentIndex(timescale, earliest, sum(words[1::3]), referenced, count)


def find_last_fragment(data: bytes, defaults: Mapping[int, TrackDefaults]) -> tuple[TrackFragment, ...]:
    """Read the last fragment in `data`, the end of a file that may be cut off. Empty where there is none."""
    index = len(data)
    for _ in range(MAX_CANDIDATES):
        index = data.rfind(b"moof", 0, index)
        if index < 4:
            return ()
        try:
            if found := read_fragment(data, defaults, index - 4):
                return found
        except MalformedBoxes:
            continue
    return ()


def _flags_and_word(data: bytes, box: Box) -> tuple[int, int]:
    return _word(data, box.body, box.end) & 0xFFFFFF, _word(data, box.body + 4, box.end)


def _word(data: bytes, position: int, end: int) -> int:
    if position + 4 > end:
        raise MalformedBoxes("a box that is too short")
    return int.from_bytes(data[position : position + 4], "big")
