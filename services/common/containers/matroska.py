"""Matroska and WebM: `Info`, `Tracks` and `Tags`, before the first cluster or where `SeekHead` says (RFC 9559, RFC 8794). Pure."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from services.common.containers import codec_strings
from services.common.containers.facts import FactsDraft

MAX_ELEMENTS = 2048
"""Elements read of one file."""
MAX_ELEMENT_BYTES = 192 * 1024
"""Elements that are read as a whole; longer ones are skipped."""
MAX_TRACK_ENTRIES = 16

_ID_SEGMENT, _ID_SEEK_HEAD, _ID_INFO, _ID_TRACKS, _ID_CLUSTER, _ID_TAGS = (
    0x18538067,
    0x114D9B74,
    0x1549A966,
    0x1654AE6B,
    0x1F43B675,
    0x1254C367,
)
_WANTED = frozenset({_ID_INFO, _ID_TRACKS, _ID_TAGS})
_READ_ELEMENTS = _WANTED | {_ID_SEEK_HEAD}
_CODECS_BY_ID = {
    "V_VP8": "vp8",
    "V_THEORA": "theora",
    "A_OPUS": "opus",
    "A_VORBIS": "vorbis",
    "A_FLAC": "flac",
    "A_MPEG/L3": "mp3",
    "A_MPEG/L2": "mp2",
    "A_AC3": "ac-3",
    "A_EAC3": "ec-3",
    "A_ALAC": "alac",
    "A_PCM/INT/LIT": "pcm",
    "A_PCM/FLOAT/IEEE": "pcm",
}
_TAG_NAMES = {
    "TITLE": "title",
    "ARTIST": "artist",
    "ALBUM": "album",
    "ALBUM_ARTIST": "album_artist",
    "COMPOSER": "composer",
    "GENRE": "genre",
    "DATE_RELEASED": "date",
    "DATE": "date",
    "PART_NUMBER": "track",
    "TRACK": "track",
}


class MalformedElements(ValueError):
    """The bytes are no EBML, or exceed a guard."""


class Element(NamedTuple):
    """One element: where its body and what follows it begin; `end` is None for an unknown size."""

    id: int
    body: int
    end: int | None


def read_element(data: bytes, position: int) -> Element | None:
    """Return the element at `position`, None where its header is not complete. Raises MalformedElements."""
    if position >= len(data):
        return None
    first = data[position]
    id_bytes = 9 - first.bit_length()
    if id_bytes > 4:
        raise MalformedElements("an element id of more than four bytes")
    size_at = position + id_bytes
    if size_at >= len(data):
        return None
    size_bytes = 9 - data[size_at].bit_length()
    body = size_at + size_bytes
    if size_bytes > 8:
        raise MalformedElements("an element size of more than eight bytes")
    if body > len(data):
        return None
    mask = (1 << 7 * size_bytes) - 1
    size = int.from_bytes(data[size_at:body], "big") & mask
    return Element(int.from_bytes(data[position:size_at], "big"), body, None if size == mask else body + size)


def iter_elements(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield id, start and end of the bodies of the elements that fill `data[start:end]`. Raises MalformedElements."""
    for _ in range(MAX_ELEMENTS):
        if start >= end:
            return
        element = read_element(data, start)
        if element is None or element.end is None or element.end > end:
            raise MalformedElements("an element exceeds its parent")
        yield element.id, element.body, element.end
        start = element.end
    raise MalformedElements("too many elements in one")


class MatroskaParser:
    """Walks the children of the segment up to the first cluster."""

    def __init__(self) -> None:
        self._draft = FactsDraft()
        self._position = 0
        self._segment = 0
        self._elements = 0
        self._found: set[int] = set()
        self._seek: dict[int, int] = {}
        self._kinds: set[int] = set()
        self._codecs: list[tuple[int, str]] = []

    def parse(self, window: bytes, offset: int, *, is_end: bool) -> int | None:
        """As `ContainerParser.parse`."""
        end = offset + len(window)
        while self._elements < MAX_ELEMENTS:
            if not offset <= self._position <= end:
                return None if is_end else self._position
            element = read_element(window, self._position - offset)
            if element is None:
                return None if is_end else self._position
            self._elements += 1
            if element.id == _ID_SEGMENT:
                self._segment = self._position = offset + element.body
                continue
            if element.id == _ID_CLUSTER or element.end is None:
                if not self._seek_wanted():
                    return None
                continue
            if element.id in _READ_ELEMENTS and element.end - element.body <= MAX_ELEMENT_BYTES:
                if element.end > len(window):
                    return None if is_end else self._position
                self._read(element.id, window, element.body, element.end)
            self._found.add(element.id)
            if self._found >= _WANTED:
                return None
            self._position = offset + element.end
        return None

    def draft(self, _length: int) -> FactsDraft:
        """Return what is known now."""
        if self._kinds & {1, 2}:
            self._draft.kind = "video" if 1 in self._kinds else "audio"
        for kind in (1, 2):
            for track_type, codec in self._codecs:
                if track_type == kind:
                    self._draft.add_codec(codec)
        return self._draft

    def _seek_wanted(self) -> bool:
        """Go to the next element that is behind the clusters, where there is one."""
        positions = [
            self._segment + at
            for element_id, at in self._seek.items()
            if element_id not in self._found and self._segment + at > self._position
        ]
        if positions:
            self._position = min(positions)
        return bool(positions)

    def _read(self, element_id: int, data: bytes, start: int, end: int) -> None:
        if element_id == _ID_INFO:
            self._read_info(data, start, end)
            return
        for child, body, child_end in iter_elements(data, start, end):
            if child == 0x4DBB and element_id == _ID_SEEK_HEAD:
                self._read_seek(data, body, child_end)
            elif child == 0xAE and element_id == _ID_TRACKS and len(self._codecs) < MAX_TRACK_ENTRIES:
                self._read_track(data, body, child_end)
            elif child == 0x7373 and element_id == _ID_TAGS:
                self._read_tag(data, body, child_end)

    def _read_seek(self, data: bytes, start: int, end: int) -> None:
        fields = {key: data[at:stop] for key, at, stop in iter_elements(data, start, end)}
        target = int.from_bytes(fields.get(0x53AB, b"")[:8], "big")
        if target in _WANTED and 0x53AC in fields:
            self._seek[target] = int.from_bytes(fields[0x53AC][:8], "big")

    def _read_info(self, data: bytes, start: int, end: int) -> None:
        scale, duration = 1_000_000, 0.0
        for child, body, child_end in iter_elements(data, start, end):
            if child == 0x2AD7B1:
                scale = int.from_bytes(data[body:child_end][:8], "big")
            elif child == 0x4489:
                duration = _read_float(data[body:child_end])
            elif child == 0x7BA9:
                self._draft.add_tag("title", data[body : min(child_end, body + 2048)].decode("utf-8", "replace"))
        if scale > 0:
            self._draft.set_duration(duration, 1_000_000_000 / scale)

    def _read_track(self, data: bytes, start: int, end: int) -> None:
        fields = {key: data[at : min(stop, at + 8192)] for key, at, stop in iter_elements(data, start, end)}
        track_type = int.from_bytes(fields.get(0x83, b"")[:8], "big")
        if track_type not in {1, 2}:
            return
        codec = fields.get(0x86, b"").rstrip(b"\x00").decode("ascii", "replace")
        self._kinds.add(track_type)
        self._codecs.append((track_type, _codec_string(codec, fields.get(0x63A2, b""))))
        if track_type == 1 and self._draft.width is None and 0xE0 in fields:
            video = fields[0xE0]
            sizes = {
                key: int.from_bytes(video[at:stop][:8], "big") for key, at, stop in iter_elements(video, 0, len(video))
            }
            self._draft.set_size(sizes.get(0xB0, 0), sizes.get(0xBA, 0))
            self._draft.rotation = 0

    def _read_tag(self, data: bytes, start: int, end: int) -> None:
        values: list[tuple[str, str]] = []
        for child, body, child_end in iter_elements(data, start, end):
            if child == 0x63C0:
                targets = {key: data[at:stop] for key, at, stop in iter_elements(data, body, child_end)}
                if 0x63C5 in targets and any(targets[0x63C5]):  # of one track
                    return
            elif child == 0x67C8:
                fields = {
                    key: data[at : min(stop, at + 2048)] for key, at, stop in iter_elements(data, body, child_end)
                }
                name = fields.get(0x45A3, b"").decode("utf-8", "replace").upper()
                values.append((name, fields.get(0x4487, b"").decode("utf-8", "replace")))
        for name, value in values:
            self._draft.add_tag(_TAG_NAMES.get(name), value)


def _codec_string(codec: str, private: bytes) -> str:
    match codec:
        case "V_MPEG4/ISO/AVC":
            return codec_strings.avc(private) or "avc1"
        case "V_MPEGH/ISO/HEVC":
            return codec_strings.hevc(private) or "hvc1"
        case "V_AV1":
            return codec_strings.av1(private) or "av01"
        case "V_VP9":
            return codec_strings.vp9_of_webm(private)
    if codec.startswith("A_AAC"):
        return codec_strings.aac(private)
    return _CODECS_BY_ID.get(codec, codec[2:].partition("/")[0].lower())


def _read_float(raw: bytes) -> float:
    if len(raw) not in {4, 8}:
        return 0.0
    value: float = struct.unpack(">f" if len(raw) == 4 else ">d", raw)[0]
    return value
