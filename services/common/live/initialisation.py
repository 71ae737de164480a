"""Initialisation segments of live streams (ISO/IEC 23000-19, 7.3.1): which are taken, which fit into one file. Pure."""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from services.common.containers.boxes import MalformedBoxes, find_box, iter_boxes
from services.common.containers.fragments import TrackDefaults
from services.common.containers.mp4 import Track, read_movie

MAX_INIT_BYTES = 64 * 1024
"""Bytes of `ftyp` and `moov` together: they must fit into the reserved header beside the index."""
MAX_TIMESCALE = 10_000_000
"""Ticks a second: the duration of any segment fits into 32 bits of the index."""
SAMPLE_ENTRIES = frozenset(
    {
        b"avc1",
        b"avc3",
        b"hvc1",
        b"hev1",
        b"av01",
        b"vp09",
        b"mp4a",
        b"Opus",
        b"fLaC",
        b"ac-3",
        b"ec-3",
        b"alac",
        b".mp3",
    }
)
"""Types of sample entries that players of fragmented MP4 know; an encrypted track has another one."""


OTHER_PARAMETERS = "other tracks or codec parameters than the stream began with"
TRACKS_APART = (
    f"{OTHER_PARAMETERS}: audio and video apart, as a DASH muxer sends them, are not taken. Send them in the same fragments, with "
    "ffmpeg by -f hls -hls_segment_type fmp4 in place of -f dash"
)


class UnsupportedMedia(ValueError):
    """The sender's bytes are nothing that can be sent on as fragmented MP4; the text says why."""


class IncompatibleInit(UnsupportedMedia):
    """The fragments of this initialisation segment do not fit into the file of those before.

    `is_rendition`: it is of other kinds of tracks, as where a muxer sends audio and video as objects of their own.
    """

    def __init__(self, *, is_rendition: bool) -> None:
        super().__init__(TRACKS_APART if is_rendition else OTHER_PARAMETERS)
        self.is_rendition = is_rendition


@dataclass(frozen=True, slots=True)
class InitSegment:
    """`ftyp` and `moov` of one sender, as sent.

    `main_track` is the track that segments are cut by: the first video, else the first audio track. `description` is equal for two
    segments whose fragments can be parts of one file: the same tracks, timescales, defaults and sample descriptions.
    """

    data: bytes
    tracks: Mapping[int, TrackDefaults]
    main_track: int
    codecs: tuple[str, ...]
    width: int
    height: int
    description: bytes

    @property
    def timescale(self) -> int:
        """Ticks a second of the main track."""
        return self.tracks[self.main_track].timescale


def read_init(data: bytes) -> InitSegment:
    """Read a complete `ftyp` and `moov`. Raises UnsupportedMedia for what is not fragmented or not taken, and for broken boxes."""
    if len(data) > MAX_INIT_BYTES:
        raise UnsupportedMedia(f"an initialisation segment of more than {MAX_INIT_BYTES} bytes")
    try:
        return _read_init(data)
    except MalformedBoxes as error:
        raise UnsupportedMedia(str(error)) from None
    except (IndexError, struct.error):
        raise UnsupportedMedia("a moov with a box that is too short") from None


def _read_init(data: bytes) -> InitSegment:
    movie = read_movie(data)
    moov = find_box(data, 0, len(data), b"moov")
    traks = [] if moov is None else [box for box in iter_boxes(data, moov.body, moov.end) if box.type == b"trak"]
    descriptions = [find_box(data, box.body, box.end, b"mdia", b"minf", b"stbl", b"stsd") for box in traks]
    if len(movie.tracks) != len(descriptions):
        raise UnsupportedMedia("a trak outside moov")
    if not movie.fragmented:
        raise UnsupportedMedia("a moov without mvex: the file is not fragmented")
    usable = [track for track in movie.tracks if track.handler in {b"vide", b"soun"}]
    for track, box in zip(movie.tracks, descriptions, strict=True):
        if track in usable:
            _check_track(track, data[box.body + 12 : box.body + 16] if box else b"")
    main = min(usable, key=lambda track: track.handler != b"vide", default=None)
    if main is None:
        raise UnsupportedMedia("no track of video or audio")
    tracks = movie.track_defaults()
    digest = hashlib.sha256(repr(sorted(tracks.items())).encode())
    for box in descriptions:
        if box is not None:
            digest.update(data[box.start : box.end])
    codecs = tuple(track.codec for track in sorted(usable, key=lambda track: track.handler != b"vide"))
    return InitSegment(data, tracks, main.track_id, codecs, main.width, main.height, digest.digest())


def _check_track(track: Track, sample_entry: bytes) -> None:
    if sample_entry not in SAMPLE_ENTRIES:
        taken = ", ".join(sorted(entry.decode() for entry in SAMPLE_ENTRIES))
        raise UnsupportedMedia(f"track {track.track_id} is {sample_entry.decode('latin-1')!r}; taken are {taken}")
    if not 0 < track.timescale <= MAX_TIMESCALE:
        raise UnsupportedMedia(f"track {track.track_id} has a timescale of {track.timescale}")
