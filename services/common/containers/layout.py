"""Tells from the first bytes of a file whether it can be played before its end is there. Pure.

A player needs the index of an MP4 (`moov`) in front of the media (`mdat`); fragments, WebM, Ogg, MP3, FLAC and WAV need none. Only
the headers of boxes are looked at, in the blocks in which the bytes are anyway: nothing is copied, and nothing kept of them.
"""

import struct
from dataclasses import dataclass
from typing import Literal

from services.common.containers.boxes import Box, iter_boxes, read_box
from services.common.containers.flac import FlacParser
from services.common.containers.matroska import MatroskaParser
from services.common.containers.mp3 import Mp3Parser
from services.common.containers.mp4 import Mp4Parser
from services.common.containers.ogg import OggParser
from services.common.containers.scanner import detect_container
from services.common.containers.wav import WavParser

LayoutKind = Literal["index-first", "fragmented", "webm", "sequential", "index-last"]

MAX_SCANNED_BLOCKS = 8
"""Blocks that are looked at: an index that begins behind them is one that a player waits for."""
MAX_SCANNED_BOXES = 64
INDEX_AT_END = "index at the end"
"""Why a file cannot be played before it is complete."""

_DOCUMENT_TYPE = b"\x42\x82"
_DOCUMENT_TYPE_WITHIN = 64
_SEQUENTIAL_TYPES: dict[object, str] = {
    OggParser: "application/ogg",
    Mp3Parser: "audio/mpeg",
    FlacParser: "audio/flac",
    WavParser: "audio/wav",
}
_LONGEST_HEADER_BYTES = 16
_NO_LIMIT = 1 << 62
_BROKEN_HEAD = (ValueError, IndexError, struct.error)


@dataclass(frozen=True, slots=True)
class MediaLayout:
    """How the bytes of a media file follow each other, and its media type as its first bytes say it."""

    kind: LayoutKind
    content_type: str

    @property
    def playable(self) -> bool:
        """Whether a player can begin before the end of the file is there."""
        return self.kind != "index-last"

    @property
    def reason(self) -> str | None:
        """Why it is not playable, None where it is."""
        return None if self.playable else INDEX_AT_END


def media_type_of(head: bytes) -> str:
    """Return the media type of a file that begins with `head`; that of any bytes where it is no video or sound that we know."""
    parser = detect_container(head)
    if parser is Mp4Parser:
        return _type_of_brand(head)
    if parser is MatroskaParser:
        return _type_of_document(head)
    return _SEQUENTIAL_TYPES.get(parser, "application/octet-stream")


class LayoutScanner:
    """The layout of one file, shown block by block from its first one on. `done` says that no further block is wanted."""

    def __init__(self) -> None:
        self.done = False
        self.layout: MediaLayout | None = None
        self._offset = 0
        self._position = 0
        self._boxes = 0
        self._blocks = 0
        self._content_type = ""
        self._cut_header = b""

    def show(self, block: bytes) -> None:
        """Look at the next block. Broken bytes have no layout; they are never an error."""
        if self.done:
            return
        self._blocks += 1
        try:
            self._look(block)
        except _BROKEN_HEAD:
            self.done = True
        self._offset += len(block)
        if not self.done and self._blocks >= MAX_SCANNED_BLOCKS:
            self._decide("index-last")

    def _look(self, block: bytes) -> None:
        if self._offset:
            self._walk(block)
            return
        parser = detect_container(block)
        self._content_type = media_type_of(block)
        if parser is Mp4Parser:
            self._walk(block)
        elif parser is MatroskaParser:
            self._decide("webm")
        elif parser in _SEQUENTIAL_TYPES:
            self._decide("sequential")
        else:
            self.done = True

    def _walk(self, block: bytes) -> None:
        """Go from box to box until one decides; what lies between is not looked at."""
        while not self.done and self._boxes < MAX_SCANNED_BOXES:
            if self._position >= self._offset + len(block) and not self._cut_header:
                return
            box = self._read_header(block)
            if box is None:
                return
            self._boxes += 1
            if box.type == b"moov":
                self._decide("fragmented" if self._is_fragmented(block, box) else "index-first")
            elif box.type in {b"moof", b"sidx", b"styp"}:
                self._decide("fragmented")
            elif box.type == b"mdat":
                self._decide("index-last")
            self._position = box.end
        self.done = True

    def _read_header(self, block: bytes) -> Box | None:
        """Return the box at the position, None where its header goes on in the next block."""
        if cut := self._cut_header:
            self._cut_header = b""
            return read_box(cut + block[:_LONGEST_HEADER_BYTES], self._position, _NO_LIMIT, self._position)
        box = read_box(block, self._position, _NO_LIMIT, self._offset)
        if box is None:
            self._cut_header = block[self._position - self._offset :]
        return box

    def _is_fragmented(self, block: bytes, moov: Box) -> bool:
        """Whether `moov` announces fragments. One that has the samples of a long film does not lie in one block, nor do they."""
        start, end = moov.body - self._offset, moov.end - self._offset
        if end > len(block):
            return False
        return any(box.type == b"mvex" for box in iter_boxes(block, start, end))

    def _decide(self, kind: LayoutKind) -> None:
        self.done = True
        self.layout = MediaLayout(kind, self._content_type)


def _type_of_brand(block: bytes) -> str:
    return "video/quicktime" if block[4:8] != b"ftyp" or block[8:12] == b"qt  " else "video/mp4"


def _type_of_document(block: bytes) -> str:
    """The type of an EBML document: the element is among the first ones (RFC 8794, 11.2.4)."""
    at = block.find(_DOCUMENT_TYPE, 0, _DOCUMENT_TYPE_WITHIN)
    return "video/webm" if at >= 0 and block[at + 3 : at + 7] == b"webm" else "video/x-matroska"
