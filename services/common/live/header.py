"""The reserved header of a recording: `ftyp`, `moov` with the duration, padding, a `sidx` of each track. Pure.

A player that has it seeks without reading the fragments (ISO/IEC 14496-12, 8.16.3). FFmpeg and ExoPlayer use the index of a track
only where it is one box whose references reach exactly to the end of the file; of several, some versions of ExoPlayer use the last.
"""

import itertools
import struct
from collections.abc import Sequence

from services.common.containers.boxes import Box, find_box, iter_boxes
from services.common.live.initialisation import InitSegment
from services.common.live.segments import Segment

_REFERENCE_BYTES = 12
_SIDX_BYTES = 40
"""A `sidx` of version 1 without references."""
_MAX_REFERENCES = 0xFFFF
_MAX_REFERENCE_BYTES = (1 << 31) - 1
_AUDIO_FRAME_TICKS = 2048
"""Of the longest frame of AAC. A segment is cut where a video frame begins, so that the audio frame that is heard there may be the
last one of the segment before. FFmpeg looks it up in the index of the audio; where it did not find it close by, it would read the
recording from its start."""
_STARTS_WITH_SAP = 0x90000000
"""`starts_with_SAP` and `SAP_type` 1: a segment that begins with a key frame."""


def render_header(init: InitSegment, segments: Sequence[Segment], length: int) -> bytes:
    """Return exactly `length` bytes to be put in front of the segments. They are contiguous, from `length` on.

    Where there are more segments than fit, neighbours share a reference. Raises ValueError where not even one reference fits.
    """
    duration = segments[-1].start + segments[-1].duration if segments else 0
    lead = _movie(init, duration)
    tracks = [*sorted(init.tracks.keys() - {init.main_track}), init.main_track]
    room = (length - len(lead) - len(tracks) * _SIDX_BYTES - 8) // (len(tracks) * _REFERENCE_BYTES)  # 8: a free box
    if room < 1:
        raise ValueError(f"{length} bytes are too few for the header")
    step = -(-len(segments) // min(room, _MAX_REFERENCES)) or 1
    index = b""
    for track in reversed(tracks):
        index = _segment_index(init, track, segments, step, duration, len(index)) + index
    padding = length - len(lead) - len(index)
    return lead + struct.pack(">I4s", padding, b"free") + b"\x00" * (padding - 8) + index


def _segment_index(
    init: InitSegment, track: int, segments: Sequence[Segment], step: int, duration: int, following: int
) -> bytes:
    """A `sidx` with one reference to each `step` segments: from the first one's start to that of the next reference.

    `following` bytes of other indexes are between it and the media. The times of a track other than the main one are those of the
    main track and later by an audio frame.
    """
    timescale, main_timescale = init.tracks[track].timescale, init.timescale
    delay = 0 if track == init.main_track else _AUDIO_FRAME_TICKS
    first = segments[::step]
    starts = [segment.start * timescale // main_timescale + delay for segment in first]
    offsets = [segment.offset for segment in first]
    if first:
        starts.append(max(duration * timescale // main_timescale, starts[-1]))
        offsets.append(segments[-1].offset + segments[-1].size)
    sizes = [end - begin for begin, end in itertools.pairwise(offsets)]
    if max(sizes, default=0) > _MAX_REFERENCE_BYTES:
        raise ValueError(f"a reference of more than {_MAX_REFERENCE_BYTES} bytes")
    words = [0] * (3 * len(first))
    words[::3] = sizes
    words[1::3] = [end - begin for begin, end in itertools.pairwise(starts)]
    words[2::3] = [_STARTS_WITH_SAP if segment.is_key else 0 for segment in first]
    head = struct.pack(">IIIQQHH", 0x01000000, track, timescale, starts[0] if first else 0, following, 0, len(first))
    return _box(b"sidx", head + struct.pack(f">{len(words)}I", *words))


def _movie(init: InitSegment, duration: int) -> bytes:
    """`ftyp` and `moov` whose `mvhd` and `mehd` say the duration, in ticks of the main track."""
    data = init.data
    moov = find_box(data, 0, len(data), b"moov")
    if moov is None:
        raise ValueError("no moov")
    children = []
    ticks = 0
    for box in iter_boxes(data, moov.body, moov.end):
        content = data[box.start : box.end]
        if box.type == b"mvhd":
            content, ticks = _with_duration(data, box, duration, init.timescale)
        elif box.type == b"mvex":
            inner = b"".join(
                data[child.start : child.end] for child in iter_boxes(data, box.body, box.end) if child.type != b"mehd"
            )
            content = _box(b"mvex", _box(b"mehd", struct.pack(">IQ", 0x01000000, ticks)) + inner)
        children.append(content)
    return data[: moov.start] + _box(b"moov", b"".join(children))


def _with_duration(data: bytes, box: Box, duration: int, timescale: int) -> tuple[bytes, int]:
    """Return an `mvhd` with the duration, and it in ticks of the movie."""
    content = bytearray(data[box.start : box.end])
    body = box.body - box.start
    width = 8 if content[body] == 1 else 4
    at = body + 4 + 2 * width
    movie_timescale = int.from_bytes(content[at : at + 4], "big")
    ticks = -(-duration * movie_timescale // timescale)
    content[at + 4 : at + 4 + width] = min(ticks, (1 << 8 * width) - 1).to_bytes(width, "big")
    return bytes(content), ticks


def _box(box_type: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body) + 8, box_type) + body
