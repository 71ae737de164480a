"""Reads the facts of one file while its bytes pass, fed in any splits, or from the few blocks in which they are. Pure.

A parser sees windows: the first 255 KiB of the file, and then the few places that it asks for. Everything else is passed over
without being looked at. Broken bytes give fewer facts, never an error.
"""

import struct
from collections.abc import Callable
from typing import Protocol

from services.common.containers import heif, id3, mp3
from services.common.containers.facts import FactsDraft, MediaFacts
from services.common.containers.flac import FlacParser
from services.common.containers.images import GifParser, JpegParser, PngParser, WebpParser
from services.common.containers.matroska import MatroskaParser
from services.common.containers.mp4 import Mp4Parser
from services.common.containers.ogg import OggParser
from services.common.containers.wav import WavParser

WINDOW_BYTES = 255 * 1024
"""Bytes that a parser sees at once: one block of the store, which then need not be copied."""
MAX_WINDOWS = 32
"""Windows of one file."""

_BROKEN_INPUT = (ValueError, IndexError, KeyError, ArithmeticError, struct.error)


class ContainerParser(Protocol):
    """Reads one container."""

    def parse(self, window: bytes, offset: int, *, is_end: bool) -> int | None:
        """Read `window`, whose first byte is at `offset` of the file; `is_end` says that the file ends with it.

        Returns the offset from which more is wanted, negative where it counts from the end, None where nothing is.
        """

    def draft(self, length: int, /) -> FactsDraft:
        """Return what is known now; `length` is that of the file in bytes."""


def detect_container(head: bytes) -> Callable[[], ContainerParser] | None:
    """Return the parser for a file that begins with these bytes, None for one that is no media file that we know."""
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[at : at + 4] for at in range(16, min(int.from_bytes(head[:4], "big"), 64), 4))}
        is_picture = head[8:12] in heif.BRANDS or (brands & {b"avif", b"heic"} and b"isom" not in brands)
        return heif.HeifParser if is_picture else Mp4Parser
    if head[4:8] in {b"moov", b"mdat", b"free", b"wide", b"skip", b"pnot"}:
        return Mp4Parser
    if head.startswith(b"RIFF"):
        return _RIFF_FORMS.get(head[8:12])
    if head[:4] in {b"RF64", b"BW64"} and head[8:12] == b"WAVE":
        return WavParser
    if head.startswith(b"ID3"):
        size = id3.tag_size(head)
        return FlacParser if head[size : size + 4] == b"fLaC" else mp3.Mp3Parser
    for signature, parser in _SIGNATURES:
        if head.startswith(signature):
            return parser
    return mp3.Mp3Parser if mp3.is_mp3(head) else None


_RIFF_FORMS: dict[bytes, Callable[[], ContainerParser]] = {b"WAVE": WavParser, b"WEBP": WebpParser}
_SIGNATURES: tuple[tuple[bytes, Callable[[], ContainerParser]], ...] = (
    (b"\x1aE\xdf\xa3", MatroskaParser),
    (b"OggS", OggParser),
    (b"fLaC", FlacParser),
    (b"\x89PNG\r\n\x1a\n", PngParser),
    (b"\xff\xd8\xff", JpegParser),
    (b"GIF87a", GifParser),
    (b"GIF89a", GifParser),
)


class FactsScanner:
    """The facts of one file, from its bytes in order. The result does not depend on how they are split."""

    def __init__(self) -> None:
        self._fed = 0
        self._wanted: int | None = 0
        self._window: bytes | bytearray = b""
        self._window_at = 0
        self._windows = 0
        self._parser: ContainerParser | None = None
        self._lost = False

    @property
    def wanted(self) -> int | None:
        """The offset from which bytes are wanted next, negative where it counts from the end; None where no more are."""
        return self._wanted

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the file. What is kept of them are at most two windows."""
        start, self._fed = self._fed, self._fed + len(data)
        if self._wanted is None:
            return
        if self._wanted < 0:
            self._keep_tail(data, -self._wanted)
        elif self._fed > self._wanted:
            self._add(data if start >= self._wanted else data[self._wanted - start :], max(start, self._wanted))
            while len(self._window) >= WINDOW_BYTES and self._parse(is_end=False):
                pass

    def skip_to(self, offset: int) -> None:
        """Go on with the bytes at `offset`, at or after those that were fed: those between are not wanted."""
        if offset > self._fed:
            self._fed, self._window = offset, b""

    @property
    def held_bytes(self) -> int:
        """Bytes of the file that are kept until more come."""
        return len(self._window)

    def drop_held_bytes(self) -> None:
        """Free memory; what they would have said is lost."""
        if self._window:
            self._lost, self._window, self._wanted = True, b"", None

    def finish(self, length: int | None = None) -> MediaFacts | None:
        """Return the facts, None where there are none. `length` of the file in bytes, where it has more than was fed."""
        length = self._fed if length is None else length
        while self._window and self._wanted is not None and self._parse(is_end=self._fed >= length):
            pass
        try:
            return self._parser.draft(length).finish() if self._parser else None
        except _BROKEN_INPUT:
            return None

    @property
    def is_lossy(self) -> bool:
        """Whether bytes were dropped that were wanted."""
        return self._lost

    def _add(self, data: bytes, at: int) -> None:
        if not self._window:
            self._window, self._window_at = data, at
        else:
            if isinstance(self._window, bytes):
                self._window = bytearray(self._window)
            self._window += data

    def _keep_tail(self, data: bytes, size: int) -> None:
        if len(data) >= size:
            self._window = data[-size:]
        else:
            self._add(data, 0)
            if len(self._window) > 2 * size:
                self._window = self._window[-size:]
        self._window_at = self._fed - len(self._window)

    def _parse(self, *, is_end: bool) -> bool:
        """Show the window to the parser. Returns whether another call may get further without new bytes."""
        if self._wanted is not None and self._wanted < 0 and not is_end:
            return False
        window, at = bytes(self._window), self._window_at
        self._windows += 1
        try:
            if self._parser is None:
                create = detect_container(window)
                if create is None:
                    self._wanted = None
                    return False
                self._parser = create()
            wanted = self._parser.parse(window, at, is_end=is_end)
        except _BROKEN_INPUT:
            wanted = None
        return self._seek(wanted, window, at)

    def _seek(self, wanted: int | None, window: bytes, at: int) -> bool:
        stuck = wanted == at and len(window) >= WINDOW_BYTES
        if wanted is None or stuck or self._windows >= MAX_WINDOWS or 0 <= wanted < at:
            self._wanted, self._window = None, b""
            return False
        self._wanted = wanted
        if wanted < 0:
            self._window = window[wanted:]
            self._window_at = at + len(window) - len(self._window)
            return True
        self._window = window[wanted - at :]
        self._window_at = wanted
        return wanted > at
