"""MP4, QuickTime and fragmented MP4: facts from `moov`, wherever it is (ISO/IEC 14496-12; QuickTime File Format). Pure.

Tables of samples are skipped, so that of each track only the first kilobyte is read.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from services.common.containers.boxes import MAX_DEPTH, MAX_TRACKS, Box, MalformedBoxes, iter_boxes, read_box
from services.common.containers.facts import FactsDraft
from services.common.containers.fragments import (
    SegmentIndex,
    TrackDefaults,
    TrackFragment,
    find_last_fragment,
    read_fragment,
    read_segment_index,
)
from services.common.containers.sample_entries import read_sample_entry

MAX_BOXES = 2048
"""Boxes read of one file."""
MAX_LEAF_BYTES = 64 * 1024
"""Boxes that are read as a whole; longer ones are skipped."""
MAX_INDEX_BYTES = 255 * 1024
"""A `sidx` that fills the first block of a file."""
LAST_FRAGMENT_BYTES = 255 * 1024
"""Where the last fragment of a file is looked for."""
_UNKNOWN_END = 1 << 62
_CONTAINERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"mvex", b"udta", b"meta", b"ilst"})
_LEAVES = frozenset({b"mvhd", b"tkhd", b"mdhd", b"hdlr", b"stsd", b"trex", b"mehd", b"keys", b"sidx"})
_ITUNES_TAGS = {
    b"\xa9nam": "title",
    b"\xa9ART": "artist",
    b"\xa9alb": "album",
    b"aART": "album_artist",
    b"\xa9wrt": "composer",
    b"\xa9gen": "genre",
    b"\xa9day": "date",
    b"trkn": "track",
}
_QUICKTIME_KEYS = {
    "com.apple.quicktime.title": "title",
    "com.apple.quicktime.displayname": "title",
    "com.apple.quicktime.artist": "artist",
    "com.apple.quicktime.author": "artist",
    "com.apple.quicktime.album": "album",
    "com.apple.quicktime.genre": "genre",
    "com.apple.quicktime.creationdate": "date",
    "title": "title",
    "artist": "artist",
    "album": "album",
    "album_artist": "album_artist",
    "composer": "composer",
    "genre": "genre",
    "date": "date",
    "track": "track",
}


class _Open(NamedTuple):
    type: bytes
    end: int


@dataclass(slots=True)
class Track:
    """One track of a movie. `duration` in ticks of `timescale`."""

    track_id: int = 0
    handler: bytes = b""
    timescale: int = 0
    duration: int = 0
    width: int = 0
    height: int = 0
    rotation: int = 0
    codec: str = ""


@dataclass(slots=True)
class Movie:
    """What `moov` says; `duration` in ticks of `timescale`, both 0 where they are not known."""

    timescale: int = 0
    duration: int = 0
    fragments_duration: int = 0
    fragmented: bool = False
    tracks: list[Track] = field(default_factory=list)
    sample_defaults: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def track_defaults(self) -> dict[int, TrackDefaults]:
        """The tracks as `read_fragment` needs them. Tracks without a timescale are left out: their times mean nothing."""
        return {
            track.track_id: TrackDefaults(
                track.timescale, track.handler, *self.sample_defaults.get(track.track_id, (0, 0, 0))
            )
            for track in self.tracks
            if track.timescale
        }


class Mp4Parser:
    """Walks the boxes of one file; what it wants next may be far ahead, as `moov` is behind `mdat`."""

    def __init__(self) -> None:
        self.movie = Movie()
        self._draft = FactsDraft()
        self._position = 0
        self._open: list[_Open] = []
        self._boxes = 0
        self._has_movie = False
        self._keys: list[str] = []
        self._index: SegmentIndex | None = None
        self._first_fragment: tuple[TrackFragment, ...] = ()
        self._wants_tail = False

    def parse(self, window: bytes, offset: int, *, is_end: bool) -> int | None:
        """As `ContainerParser.parse`."""
        if self._wants_tail:
            self._read_tail(window)
            return None
        end = offset + len(window)
        while self._boxes < MAX_BOXES:
            self._close_boxes()
            if self._has_movie and not self._open and not self.movie.fragmented:
                return None
            box = self._next_box(window, offset, is_end=is_end)
            if box is None:
                return None if is_end else self._position
            if box.type == b"moof" and not self._open:
                return self._end_at_fragment(window, offset, box)
            parent = self._open[-1].type if self._open else b""
            if box.type in _CONTAINERS and len(self._open) < MAX_DEPTH and (self._open or box.type == b"moov"):
                self._enter(box, window, offset)
                continue
            if _is_leaf(box, parent):
                if box.end > end:
                    return None if is_end else self._position
                self._read_leaf(box, window, offset, parent)
            self._position = box.end
        return None

    def draft(self, _length: int) -> FactsDraft:
        """Return what is known now."""
        movie, draft = self.movie, self._draft
        if not self._has_movie:
            return draft
        kinds = {track.handler for track in movie.tracks if track.codec}
        draft.kind = "video" if b"vide" in kinds else "audio" if b"soun" in kinds else None
        for handler in (b"vide", b"soun"):
            for track in movie.tracks:
                if track.handler == handler:
                    draft.add_codec(track.codec)
        picture = next((track for track in movie.tracks if track.handler == b"vide" and track.width), None)
        if picture is not None:
            draft.set_size(picture.width, picture.height)
            draft.rotation = picture.rotation
        if movie.fragmented:
            self._set_fragmented_duration()
        elif 0 < movie.duration < 0xFFFFFFFF:
            draft.set_duration(movie.duration, movie.timescale)
        else:
            for track in movie.tracks:
                if 0 < track.duration < 0xFFFFFFFF and not draft.duration:
                    draft.set_duration(track.duration, track.timescale)
        return draft

    def _close_boxes(self) -> None:
        """Leave the boxes that end here. QuickTime ends some of them with four zero bytes."""
        while self._open and self._open[-1].end - self._position < 8:
            self._position = self._open.pop().end

    def _next_box(self, window: bytes, offset: int, *, is_end: bool) -> Box | None:
        """Return the box at the position, None where its header is not in the window. Raises MalformedBoxes."""
        end = offset + len(window)
        if not offset <= self._position <= end:
            return None
        limit = self._open[-1].end if self._open else end if is_end else _UNKNOWN_END
        box = read_box(window, self._position, limit, offset)
        if box is not None:
            self._boxes += 1
            if self._open and box.end > limit:
                raise MalformedBoxes("a box exceeds its parent")
        return box

    def _enter(self, box: Box, window: bytes, offset: int) -> None:
        if box.type == b"moov":
            if self._has_movie:
                raise MalformedBoxes("a second moov")
            self._has_movie = True
        elif box.type == b"trak":
            if len(self.movie.tracks) >= MAX_TRACKS:
                raise MalformedBoxes(f"more than {MAX_TRACKS} tracks")
            self.movie.tracks.append(Track())
        elif box.type == b"mvex":
            self.movie.fragmented = True
        self._open.append(_Open(box.type, box.end))
        # In MP4 a meta box has a version and flags, in QuickTime it has none.
        index = box.body - offset
        full = box.type == b"meta" and window[index + 4 : index + 8] != b"hdlr"
        self._position = box.body + (4 if full else 0)

    def _read_leaf(self, box: Box, window: bytes, offset: int, parent: bytes) -> None:
        body, end = box.body - offset, box.end - offset
        in_track = bool(self.movie.tracks) and any(opened.type == b"trak" for opened in self._open)
        track = self.movie.tracks[-1] if in_track else None
        if box.type == b"mvhd":
            self.movie.timescale, self.movie.duration = _read_times(window, body)
        elif box.type == b"mehd":
            size = 8 if window[body] else 4
            self.movie.fragments_duration = int.from_bytes(window[body + 4 : body + 4 + size], "big")
        elif box.type == b"trex" and end - body >= 24:
            words = [int.from_bytes(window[body + at : body + at + 4], "big") for at in (4, 12, 16, 20)]
            if len(self.movie.sample_defaults) < MAX_TRACKS:
                self.movie.sample_defaults[words[0]] = (words[1], words[2], words[3])
        elif box.type == b"sidx":  # one for each track
            index, known = read_segment_index(window, box, offset), self._index
            if known is None or index.duration * known.timescale > known.duration * index.timescale:
                self._index = index
        elif box.type == b"keys":
            self._keys = _read_keys(window, body, end)
        elif parent in {b"udta", b"ilst"}:
            self._read_tag(box.type, window, body, end, in_list=parent == b"ilst")
        elif track is not None:
            _read_track_leaf(track, box.type, window, body, end, parent)

    def _read_tag(self, box_type: bytes, window: bytes, body: int, end: int, *, in_list: bool) -> None:
        if any(opened.type == b"trak" for opened in self._open):
            return
        name = _ITUNES_TAGS.get(box_type)
        number = int.from_bytes(box_type, "big")
        if self._keys and 0 < number <= len(self._keys):
            name = _QUICKTIME_KEYS.get(self._keys[number - 1])
        if name is None:
            return
        if not in_list:  # QuickTime: length, language, text
            size = int.from_bytes(window[body : body + 2], "big")
            self._draft.add_tag(name, window[body + 4 : min(body + 4 + size, end)].decode("utf-8", "replace"))
            return
        data = next((box for box in iter_boxes(window, body, end) if box.type == b"data"), None)
        if data is not None and name == "track" and box_type == b"trkn":
            if track_number := int.from_bytes(window[data.body + 8 : min(data.body + 12, data.end)], "big"):
                self._draft.add_tag(name, str(track_number))
        elif data is not None:
            self._draft.add_tag(
                name, window[data.body + 8 : min(data.end, data.body + 2048)].decode("utf-8", "replace")
            )

    def _end_at_fragment(self, window: bytes, offset: int, moof: Box) -> int | None:
        if not self._has_movie or self._index is not None or self.movie.fragments_duration:
            return None
        if moof.end <= offset + len(window):
            self._first_fragment = read_fragment(window, self.movie.track_defaults(), moof.start - offset)
        self._wants_tail = True
        return -LAST_FRAGMENT_BYTES

    def _read_tail(self, window: bytes) -> None:
        defaults = self.movie.track_defaults()
        ends = []
        for found in find_last_fragment(window, defaults):
            if found.start is None:
                return
            ends.append((found.start + found.duration) / defaults[found.track_id].timescale)
        starts = [
            found.start / defaults[found.track_id].timescale
            for found in self._first_fragment
            if found.start is not None
        ]
        if ends and starts:
            has_samples = any(track.duration for track in self.movie.tracks)  # in front of the first fragment
            self._draft.set_duration(max(ends) - (0 if has_samples else min(starts)), 1)

    def _set_fragmented_duration(self) -> None:
        if self._index is not None:
            self._draft.set_duration(self._index.duration, self._index.timescale)
        elif self.movie.fragments_duration:
            self._draft.set_duration(self.movie.fragments_duration, self.movie.timescale)


def read_movie(init: bytes) -> Movie:
    """Read a complete initialisation segment, `ftyp` and `moov`. Raises MalformedBoxes, also where no track is usable."""
    parser = Mp4Parser()
    parser.parse(init, 0, is_end=True)
    if not any(track.timescale and track.codec for track in parser.movie.tracks):
        raise MalformedBoxes("no moov with a track that has a timescale and a known sample entry")
    return parser.movie


def _is_leaf(box: Box, parent: bytes) -> bool:
    """Whether a box is read as a whole."""
    limit = MAX_INDEX_BYTES if box.type == b"sidx" else MAX_LEAF_BYTES
    return box.end - box.start <= limit and (box.type in _LEAVES or parent in {b"udta", b"ilst"})


def _read_times(window: bytes, body: int) -> tuple[int, int]:
    """Return timescale and duration of an `mvhd` or `mdhd` box."""
    size = 8 if window[body] == 1 else 4
    at = body + 4 + 2 * size
    return int.from_bytes(window[at : at + 4], "big"), int.from_bytes(window[at + 4 : at + 4 + size], "big")


def _read_track_leaf(track: Track, box_type: bytes, window: bytes, body: int, end: int, parent: bytes) -> None:
    if box_type == b"tkhd":
        size = 8 if window[body] == 1 else 4
        at = body + 4 + 2 * size
        track.track_id = int.from_bytes(window[at : at + 4], "big")
        track.rotation = _rotation(window, at + 8 + size + 16)
    elif box_type == b"mdhd":
        track.timescale, track.duration = _read_times(window, body)
    elif box_type == b"hdlr" and parent == b"mdia":
        track.handler = window[body + 8 : body + 12]
    elif box_type == b"stsd":
        entry = read_sample_entry(window, body, end, track.handler)
        if entry is not None:
            track.codec, track.width, track.height = entry


def _rotation(window: bytes, at: int) -> int:
    """The angle of the matrix in a `tkhd` box: 0 where it is none of the four that cameras write."""
    a, b, _, c, d = (
        int.from_bytes(window[at + 4 * index : at + 4 * index + 4], "big", signed=True) for index in range(5)
    )
    signs = ((a > 0) - (a < 0), (b > 0) - (b < 0), (c > 0) - (c < 0), (d > 0) - (d < 0))
    return {(0, 1, -1, 0): 90, (-1, 0, 0, -1): 180, (0, -1, 1, 0): 270}.get(signs, 0)


def _read_keys(window: bytes, body: int, end: int) -> list[str]:
    """The names in a QuickTime `keys` box."""
    return [window[box.body : box.end].decode("utf-8", "replace") for box in iter_boxes(window, body + 8, end)][:64]
