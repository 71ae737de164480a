"""The HLS list of an upload that is fragmented MP4: byte ranges of the bytes as they were sent.

Headers of boxes and each `moof` are read, media is not. The cutter of live streams is not used: it moves times and drops what is
sent twice, and this file is what its uploader has sent (ADR 49).
"""

import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from services.common.containers.boxes import MalformedBoxes, read_box
from services.common.containers.fragments import MAX_FRAGMENT_BYTES, MAX_MOOF_BYTES, TrackFragment, read_fragment
from services.common.live.initialisation import MAX_INIT_BYTES, InitSegment, UnsupportedMedia, read_init

TARGET_SECONDS = 10
"""The longest segment, rounded. It must be the same in the lists of all processes, so it does not depend on the fragments."""
WANTED_SECONDS = 4
"""A key frame begins the next segment from here on."""
MAX_LISTED_SEGMENTS = 20_000
SCAN_SECONDS = 4.0
"""Time of one request for finding fragments: a list that was begun goes on with the next one."""
_LOOK_BYTES = 16
_ANY_SIZE = 1 << 62

ReadBytes = Callable[[int, int], Awaitable[bytes]]
"""Returns bytes that are there: position and number of them."""


class UnlistedMedia(ValueError):
    """These bytes have no list; the text says why."""


class FileSegment(NamedTuple):
    """A range of the file in bytes, and how many seconds it is played."""

    offset: int
    size: int
    seconds: float


class _Fragment(NamedTuple):
    """A fragment of the main track: from its `moof` to the end of its `mdat`."""

    offset: int
    end: int
    track: TrackFragment


class FragmentList:
    """The segments of one file, as far as they were found. Calls of `advance` must not overlap."""

    def __init__(self) -> None:
        self.segments: list[FileSegment] = []
        self.init_size = 0
        self.has_ended = False
        self._position = 0
        self._init: InitSegment | None = None
        self._moof: tuple[int, TrackFragment | None] | None = None
        self._held: _Fragment | None = None
        self._open: FileSegment | None = None
        self._last_ticks = 0

    async def advance(self, read: ReadBytes, available: int, *, is_complete: bool) -> None:
        """Find what is new in the first `available` bytes; `is_complete`: they are all. Raises UnlistedMedia."""
        deadline = time.monotonic() + SCAN_SECONDS
        try:
            while time.monotonic() < deadline and not self.has_ended:
                if is_complete and self._position == available:
                    self._end()
                elif not await self._take_box(read, available, is_complete=is_complete):
                    return
        except (MalformedBoxes, UnsupportedMedia) as error:
            raise UnlistedMedia(str(error)) from None

    async def _take_box(self, read: ReadBytes, available: int, *, is_complete: bool) -> bool:
        """Take the next box; False where it is not there yet."""
        position = self._position
        here = min(_LOOK_BYTES, available - position)
        if here < _LOOK_BYTES and not is_complete:
            return False
        box = read_box(await read(position, here), 0, _ANY_SIZE)
        if box is None or (is_complete and position + box.end > available):
            raise UnlistedMedia("the file ends in the middle of a box")
        begin, limit = {b"moov": (0, MAX_INIT_BYTES), b"moof": (position, MAX_MOOF_BYTES)}.get(
            box.type, (position, MAX_FRAGMENT_BYTES)
        )
        end = position + box.end
        if end - begin > limit:
            raise UnlistedMedia(f"a {box.type.decode('latin-1')} of {box.end} bytes")
        if end > available:
            return False
        if box.type == b"moov":
            self._init, self.init_size = read_init(await read(0, end)), end
        elif box.type == b"moof":
            self._moof = position, self._main_track(await read(position, box.end))
        elif box.type == b"mdat":
            self._take_media(end)
        self._position = end
        return True

    def _main_track(self, moof: bytes) -> TrackFragment | None:
        if self._init is None:
            raise UnlistedMedia("a fragment before the initialisation segment")
        main = self._init.main_track
        return next((track for track in read_fragment(moof, self._init.tracks) if track.track_id == main), None)

    def _take_media(self, end: int) -> None:
        if self._moof is None:
            raise UnlistedMedia("media without a fragment in front of it")
        (offset, track), self._moof = self._moof, None
        held = self._held
        if track is None:  # other tracks alone belong to the fragment before
            self._held = None if held is None else held._replace(end=end)
            return
        self._held = _Fragment(offset, end, track)
        if held is not None:
            lasts = (track.start or 0) - (held.track.start or 0)
            self._place(held, held.track.duration or max(lasts, 0))

    def _place(self, fragment: _Fragment, ticks: int) -> None:
        """Add a fragment, whose length is known now, to the open segment, or begin another one with it."""
        self._last_ticks = ticks
        if self._init is None:
            raise RuntimeError("a fragment was read without its tracks")
        seconds = ticks / self._init.timescale
        if round(seconds) > TARGET_SECONDS:
            raise UnlistedMedia(f"a fragment of more than {TARGET_SECONDS} s")
        opened = self._open
        if opened is not None:
            is_long = opened.seconds >= WANTED_SECONDS and fragment.track.begins_with_sync_sample
            if not is_long and round(opened.seconds + seconds) <= TARGET_SECONDS:
                self._open = FileSegment(opened.offset, fragment.end - opened.offset, opened.seconds + seconds)
                return
            self._close(opened)
        self._open = FileSegment(fragment.offset, fragment.end - fragment.offset, seconds)

    def _close(self, segment: FileSegment) -> None:
        if len(self.segments) >= MAX_LISTED_SEGMENTS:
            raise UnlistedMedia(f"more than {MAX_LISTED_SEGMENTS} segments")
        self.segments.append(segment)

    def _end(self) -> None:
        if self._held is not None:
            self._place(self._held, self._held.track.duration or self._last_ticks)
            self._held = None
        if self._open is not None:
            self._close(self._open)
            self._open = None
        self.has_ended = True

    def render(self, address: str) -> str:
        """Return the list as text; `address` is that of the file, relative to the list."""
        lines = [
            "#EXTM3U",
            "#EXT-X-VERSION:6",
            f"#EXT-X-TARGETDURATION:{TARGET_SECONDS}",
            "#EXT-X-PLAYLIST-TYPE:EVENT",
            "#EXT-X-START:TIME-OFFSET=0",
            f'#EXT-X-MAP:URI="{address}",BYTERANGE="{self.init_size}@0"',
        ]
        for segment in self.segments:
            lines += [f"#EXTINF:{segment.seconds:.5f},", f"#EXT-X-BYTERANGE:{segment.size}@{segment.offset}", address]
        if self.has_ended:
            lines.append("#EXT-X-ENDLIST")
        return "\n".join((*lines, ""))
