"""Boxes of the ISO base media file format (ISO/IEC 14496-12, 4.2): a walker with guards. Pure.

Files of uploads and fragments of live streams are read by the same functions.
"""

from collections.abc import Iterator
from typing import NamedTuple

MAX_DEPTH = 8
"""Nested boxes that are entered."""
MAX_CHILDREN = 1024
"""Boxes read in one parent."""
MAX_TRACKS = 8
MAX_SAMPLES = 100_000
"""Samples of one track run."""
_HEADER_BYTES = 8
_LARGE_HEADER_BYTES = 16
_UUID_BYTES = 16


class MalformedBoxes(ValueError):
    """The bytes are no boxes, or exceed a guard; the text says which."""


class Box(NamedTuple):
    """One box: its type, and where it, its body and what follows it begin. Positions are those of the caller."""

    type: bytes
    start: int
    body: int
    end: int


def read_box(data: bytes, position: int, limit: int, origin: int = 0) -> Box | None:
    """Return the box at `position`, None where its header is not complete.

    `origin` is the position of the first byte of `data`; `limit` is where the parent ends: a size of 0 reaches to it. The body
    need not be in `data`. Raises MalformedBoxes for a size smaller than the header.
    """
    index = position - origin
    if len(data) - index < _HEADER_BYTES:
        return None
    size = int.from_bytes(data[index : index + 4], "big")
    box_type = data[index + 4 : index + 8]
    body = position + _HEADER_BYTES
    if size == 1:
        if len(data) - index < _LARGE_HEADER_BYTES:
            return None
        size = int.from_bytes(data[index + 8 : index + 16], "big")
        body = position + _LARGE_HEADER_BYTES
    elif size == 0:
        size = limit - position
    if box_type == b"uuid":
        body += _UUID_BYTES
    if position + size < body:
        raise MalformedBoxes(f"a box of {size} bytes")
    return Box(box_type, position, body, position + size)


def iter_boxes(data: bytes, start: int, end: int) -> Iterator[Box]:
    """Yield the boxes that fill `data[start:end]`. Raises MalformedBoxes where one exceeds it, or there are too many."""
    for _ in range(MAX_CHILDREN):
        if end - start < _HEADER_BYTES:  # QuickTime ends some lists with four zero bytes
            return
        box = read_box(data, start, end)
        if box is None or box.end > end:
            raise MalformedBoxes("a box exceeds its parent")
        yield box
        start = box.end
    raise MalformedBoxes(f"more than {MAX_CHILDREN} boxes in one")


def find_box(data: bytes, start: int, end: int, *path: bytes) -> Box | None:
    """Return the first box along a path of types, None where there is none. Raises MalformedBoxes."""
    found: Box | None = None
    for box_type in path[:MAX_DEPTH]:
        found = next((box for box in iter_boxes(data, start, end) if box.type == box_type), None)
        if found is None:
            return None
        start, end = found.body, found.end
    return found
