"""Turns a sender's bytes, in pieces of any size, into initialisation segments and complete fragments. Pure.

Only headers of boxes and the insides of `moov` and `moof` are read. An incomplete fragment waits in memory: at most one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from services.common.containers.boxes import Box, MalformedBoxes, read_box
from services.common.containers.fragments import (
    MAX_FRAGMENT_BYTES,
    MAX_MOOF_BYTES,
    TrackDefaults,
    TrackFragment,
    read_fragment,
)
from services.common.live.initialisation import MAX_INIT_BYTES, InitSegment, UnsupportedMedia, read_init

MAX_FRAGMENT_SECONDS = 60
MAX_SKEW_SECONDS = 10
"""Seconds between the starts of the tracks of one fragment."""
_MAX_BASE_TIME = 1 << 62
_BOX_HEADER_BYTES = 16
_EBML = b"\x1aE\xdf\xa3"
_IN_FRAGMENTS = frozenset({b"styp", b"prft", b"emsg", b"free", b"skip", b"uuid"})
"""Boxes in front of a `moof` that belong to its fragment."""
_DROPPED = frozenset({b"sidx", b"ssix", b"mfra", b"pdin", b"meta"})
"""Indexes of the sender are wrong in our file: it has one of its own."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """One complete fragment: its bytes, where its `moof` begins in them, and what its tracks hold."""

    data: bytes
    moof: int
    tracks: tuple[TrackFragment, ...]

    def track(self, track_id: int) -> TrackFragment | None:
        """Return what it holds of a track, None where nothing."""
        return next((track for track in self.tracks if track.track_id == track_id), None)


class FragmentReader:
    """One sender's byte stream."""

    def __init__(self, init: InitSegment | None = None) -> None:
        self.init = init
        self._fed = 0
        self._pending = bytearray()
        self._taken = 0
        """Bytes of `_pending` that boxes were read from. They are deleted at the end of `feed`."""
        self._lead = b""
        self._moof = b""
        self._before = (b"", b"", slice(0))

    @property
    def pending_bytes(self) -> int:
        """Bytes of the incomplete unit."""
        return len(self._pending) - self._taken + len(self._lead) + len(self._moof)

    @property
    def pending(self) -> bytes:
        """The incomplete unit without the boxes that are dropped: a new reader that is fed this goes on where this one is."""
        return b"".join((self._lead, self._moof, self._pending[self._taken :]))

    @property
    def pending_before(self) -> bytes:
        """What was `pending` before the last `feed`, which has failed: to copy it in front of each would be most of the work."""
        lead, moof, place = self._before
        return b"".join((lead, moof, self._pending[place]))

    @property
    def pending_box_bytes(self) -> int:
        """Bytes of the incomplete box at the end of `pending`."""
        return len(self._pending) - self._taken

    @property
    def consumed(self) -> int:
        """Bytes that need not be sent again."""
        return self._fed - self.pending_bytes

    def feed(self, data: bytes) -> Iterator[InitSegment | Fragment]:
        """Yield the units that `data` completes. Raises UnsupportedMedia for what is not taken; the stream is then over."""
        self._before = (self._lead, self._moof, slice(self._taken, len(self._pending)))
        self._pending += data
        self._fed += len(data)
        if self.init is None and self._pending.startswith(_EBML):
            raise UnsupportedMedia("WebM; send fragmented MP4")
        while True:
            try:
                box = read_box(bytes(self._pending[self._taken : self._taken + _BOX_HEADER_BYTES]), 0, 1 << 62)
            except MalformedBoxes as error:
                raise UnsupportedMedia(str(error)) from None
            if box is None:
                break
            self._check(box)
            if box.end > len(self._pending) - self._taken:
                break
            content = bytes(self._pending[self._taken : self._taken + box.end])
            self._taken += box.end
            unit = self._take(box, content)
            if unit is not None:
                yield unit
        del self._pending[: self._taken]
        self._taken = 0

    def _check(self, box: Box) -> None:
        """Refuse a box before its body is waited for."""
        size = box.end
        if box.type in {b"ftyp", b"moov"}:
            limit = MAX_INIT_BYTES
        elif box.type == b"moof":
            limit = MAX_MOOF_BYTES
        elif box.type == b"mdat":
            limit = MAX_FRAGMENT_BYTES
            if self.init is None:
                raise UnsupportedMedia("mdat before moov; send fragmented MP4")
            if not self._moof:
                raise UnsupportedMedia("mdat without a moof in front of it")
        elif box.type in _IN_FRAGMENTS or box.type in _DROPPED:
            limit = MAX_FRAGMENT_BYTES if box.type == b"mfra" else MAX_MOOF_BYTES
        else:
            name = box.type.decode("latin-1")
            raise UnsupportedMedia(
                f"a box of type {name if name.isprintable() else box.type.hex()}; send fragmented MP4"
            )
        if size + len(self._lead) + len(self._moof) > limit + MAX_INIT_BYTES:
            raise UnsupportedMedia(f"a {box.type.decode('latin-1')} of {size} bytes")

    def _take(self, box: Box, content: bytes) -> InitSegment | Fragment | None:
        if self._moof and box.type != b"mdat":
            raise UnsupportedMedia("a moof without its mdat")
        if box.type == b"ftyp":
            self._lead = content
        elif box.type == b"moov":
            self.init = read_init(self._lead + content)
            self._lead = b""
            return self.init
        elif box.type == b"moof":
            if self.init is None:
                raise UnsupportedMedia("moof before moov")
            self._moof = content
        elif box.type == b"mdat":
            return self._finish_fragment(content, {} if self.init is None else self.init.tracks)
        elif box.type in _IN_FRAGMENTS and self.init is not None:
            self._lead += content
        return None

    def _finish_fragment(self, mdat: bytes, defaults: Mapping[int, TrackDefaults]) -> Fragment:
        try:
            tracks = read_fragment(self._moof, defaults)
        except MalformedBoxes as error:
            raise UnsupportedMedia(str(error)) from None
        tracks = tuple(track for track in tracks if track.sample_count)
        for track in tracks:
            _check_times(track, defaults[track.track_id])
        starts = [(track.start or 0) / defaults[track.track_id].timescale for track in tracks]
        if starts and max(starts) - min(starts) > MAX_SKEW_SECONDS:
            raise UnsupportedMedia(f"tracks that are more than {MAX_SKEW_SECONDS} s apart")
        if sum(track.sample_bytes for track in tracks) > len(mdat):
            raise UnsupportedMedia("a moof whose samples exceed its mdat")
        if not tracks:
            raise UnsupportedMedia("a fragment without samples")
        fragment = Fragment(self._lead + self._moof + mdat, len(self._lead), tracks)
        self._lead = b""
        self._moof = b""
        return fragment


def _check_times(track: TrackFragment, defaults: TrackDefaults) -> None:
    if track.start is None:
        raise UnsupportedMedia("a track fragment without tfdt")
    if track.start >= _MAX_BASE_TIME:
        raise UnsupportedMedia(f"a base time of {track.start}")
    if track.duration > MAX_FRAGMENT_SECONDS * defaults.timescale:
        raise UnsupportedMedia(f"a fragment of more than {MAX_FRAGMENT_SECONDS} s")
