"""Ogg with Vorbis, Opus, Theora, FLAC and Speex: headers from the first pages, duration from the last ones (RFC 3533). Pure."""

from dataclasses import dataclass

from services.common.containers.facts import FactsDraft
from services.common.containers.vorbis_comments import read_vorbis_comments

LAST_PAGES_BYTES = 128 * 1024
"""Two pages of the greatest size."""
MAX_STREAMS = 8
MAX_HEADER_PAGES = 128
MAX_HEADER_BYTES = 64 * 1024
"""Bytes of the header packets of one stream that are read."""
MAX_TAIL_PAGES = 512
_PAGE_BYTES = 27
_NO_POSITION = 0xFFFFFFFFFFFFFFFF
_FIRST_PAGE = 2


@dataclass(slots=True)
class _LogicalStream:
    """A logical stream: its header packets so far, and how its positions become seconds."""

    packets: bytes = b""
    codec: str = ""
    rate: float = 0.0
    skipped: int = 0
    shift: int = 0
    offset: int = 0
    comments_at: int = 0
    commented: bool = False

    def seconds(self, position: int) -> float:
        """The time of a granule position."""
        if self.shift:
            position = (position >> self.shift) + (position & (1 << self.shift) - 1) + self.offset
        return (position - self.skipped) / self.rate if self.rate else 0.0


class OggParser:
    """Reads the first pages of every stream, then the last ones."""

    def __init__(self) -> None:
        self._draft = FactsDraft()
        self._position = 0
        self._pages = 0
        self._streams: dict[int, _LogicalStream] = {}
        self._wants_tail = False

    def parse(self, window: bytes, offset: int, *, is_end: bool) -> int | None:
        """As `ContainerParser.parse`."""
        if self._wants_tail:
            self._read_tail(window)
            return None
        while self._pages < MAX_HEADER_PAGES:
            index = self._position - offset
            if index + _PAGE_BYTES > len(window) and not is_end:
                return self._position
            if window[index : index + 4] != b"OggS" or index + _PAGE_BYTES > len(window):
                break
            body, end = index + _PAGE_BYTES + window[index + 26], _page_end(window, index)
            if end > len(window) and not is_end:
                return self._position
            self._pages += 1
            serial = int.from_bytes(window[index + 14 : index + 18], "little")
            if window[index + 5] & _FIRST_PAGE and len(self._streams) < MAX_STREAMS:
                self._streams[serial] = stream = _LogicalStream(window[body:end])
                _read_identification(stream)
            elif (known := self._streams.get(serial)) is not None and not known.commented:
                known.packets += window[body:end]
                self._read_comments(known, complete=255 not in window[body - 1 : body])
            if self._streams and all(stream.commented or not stream.comments_at for stream in self._streams.values()):
                break
            self._position = offset + end
        self._wants_tail = True
        return -LAST_PAGES_BYTES if self._streams else None

    def draft(self, _length: int) -> FactsDraft:
        """Return what is known now."""
        streams = [stream for stream in self._streams.values() if stream.codec]
        if streams:
            self._draft.kind = "video" if any(stream.shift for stream in streams) else "audio"
        for stream in sorted(streams, key=lambda stream: not stream.shift):
            self._draft.add_codec(stream.codec)
            if stream.shift and self._draft.width is None:
                self._draft.rotation = 0
                picture = stream.packets
                self._draft.set_size(int.from_bytes(picture[14:17], "big"), int.from_bytes(picture[17:20], "big"))
        return self._draft

    def _read_comments(self, stream: _LogicalStream, *, complete: bool) -> None:
        """Read the second packet, which ends with the page unless its last segment is full."""
        if not stream.comments_at:
            stream.commented = True
        elif complete or len(stream.packets) > MAX_HEADER_BYTES:
            stream.commented = True
            read_vorbis_comments(self._draft, stream.packets, stream.comments_at)
            stream.packets = stream.packets[:64]

    def _read_tail(self, window: bytes) -> None:
        """Find the last page with a position of each stream."""
        ends: dict[int, float] = {}
        index = len(window)
        for _ in range(MAX_TAIL_PAGES):
            index = window.rfind(b"OggS", 0, index)
            if index < 0 or len(ends) == len(self._streams):
                break
            position = int.from_bytes(window[index + 6 : index + 14], "little")
            serial = int.from_bytes(window[index + 14 : index + 18], "little")
            stream = self._streams.get(serial)
            if stream is None or serial in ends or position == _NO_POSITION or _page_end(window, index) > len(window):
                continue
            if position < 1 << 62:
                ends[serial] = stream.seconds(position)
        if ends:
            self._draft.set_duration(max(ends.values()), 1)


def _page_end(window: bytes, index: int) -> int:
    """Where the page at `index` ends, as far as its header is there."""
    body = index + _PAGE_BYTES + (window[index + 26] if index + 26 < len(window) else 0)
    return body + sum(window[index + _PAGE_BYTES : body])


def _read_identification(stream: _LogicalStream) -> None:
    """Read the first packet of a stream."""
    packet = stream.packets
    if packet.startswith(b"\x01vorbis"):
        stream.codec, stream.rate = "vorbis", int.from_bytes(packet[12:16], "little")
        stream.comments_at = len(packet) + 7
    elif packet.startswith(b"OpusHead"):
        stream.codec, stream.rate = "opus", 48_000
        stream.skipped = int.from_bytes(packet[10:12], "little")
        stream.comments_at = len(packet) + 8
    elif packet.startswith(b"\x80theora") and len(packet) >= 42:
        stream.codec = "theora"
        denominator = int.from_bytes(packet[26:30], "big")
        stream.rate = int.from_bytes(packet[22:26], "big") / denominator if denominator else 0.0
        stream.shift = (packet[40] & 3) << 3 | packet[41] >> 5
        stream.offset = 0 if packet[7:10] >= b"\x03\x02\x01" else 1
        stream.comments_at = len(packet) + 7
    elif packet.startswith(b"\x7fFLAC"):
        stream.codec, stream.rate = "flac", int.from_bytes(packet[27:30], "big") >> 4
        stream.comments_at = len(packet) + 4
    elif packet.startswith(b"Speex   "):
        stream.codec, stream.rate = "speex", int.from_bytes(packet[36:40], "little")
        stream.comments_at = len(packet)
