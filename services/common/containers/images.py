"""PNG, JPEG, GIF and WebP: size and orientation (W3C PNG, 5; ITU-T T.81, B; GIF89a; RFC 9649). Pure."""

from services.common.containers.exif import read_rotation
from services.common.containers.facts import FactsDraft

MAX_SEGMENTS = 1024
MAX_GIF_BLOCKS = 4096
"""Blocks of an animation that are passed over: four times as many as fill a window where each is full."""
MAX_EXIF_BYTES = 64 * 1024
_PNG_SIGNATURE_BYTES = 8
_PNG_TAGS = {b"Title": "title", b"Author": "artist", b"Artist": "artist"}
_JPEG_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_JPEG_ALONE = frozenset({0x01, 0xFF, *range(0xD0, 0xD9)})


class _ImageParser:
    """What the four have in common: a position, and a bounded number of steps."""

    def __init__(self, position: int = 0) -> None:
        self._draft = FactsDraft(kind="image", rotation=0)
        self._position = position
        self._steps = 0

    def draft(self, _length: int) -> FactsDraft:
        """Return what is known now."""
        return self._draft


class PngParser(_ImageParser):
    """Walks the chunks up to the picture's data."""

    def __init__(self) -> None:
        super().__init__(_PNG_SIGNATURE_BYTES)

    def parse(self, window: bytes, offset: int, *, is_end: bool) -> int | None:
        """As `ContainerParser.parse`."""
        while self._steps < MAX_SEGMENTS:
            index = self._position - offset
            if index + 8 > len(window):
                return None if is_end else self._position
            size, chunk = int.from_bytes(window[index : index + 4], "big"), window[index + 4 : index + 8]
            self._steps += 1
            if chunk in {b"IDAT", b"IEND"}:
                return None
            if chunk in {b"IHDR", b"eXIf", b"tEXt"} and size <= MAX_EXIF_BYTES:
                if index + 8 + size > len(window) and not is_end:
                    return self._position
                self._read_chunk(chunk, window[index + 8 : index + 8 + size])
            self._position += 12 + size
        return None

    def _read_chunk(self, chunk: bytes, body: bytes) -> None:
        if chunk == b"IHDR":
            self._draft.set_size(int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big"))
        elif chunk == b"eXIf":
            self._draft.rotation = read_rotation(body) or 0
        else:
            name, _, text = body.partition(b"\x00")
            self._draft.add_tag(_PNG_TAGS.get(name), text[:2048].decode("latin-1"))


class JpegParser(_ImageParser):
    """Walks the segments up to the picture's data."""

    def __init__(self) -> None:
        super().__init__(2)

    def parse(self, window: bytes, offset: int, *, is_end: bool) -> int | None:
        """As `ContainerParser.parse`."""
        while self._steps < MAX_SEGMENTS:
            index = self._position - offset
            if index + 4 > len(window):
                return None if is_end else self._position
            if window[index] != 0xFF:
                return None
            marker = window[index + 1]
            self._steps += 1
            if marker in _JPEG_ALONE:
                self._position += 1 if marker == 0xFF else 2
                continue
            size = int.from_bytes(window[index + 2 : index + 4], "big")
            if marker in {0xD9, 0xDA} or size < 2:
                return None
            if marker == 0xE1 or marker in _JPEG_FRAMES:
                if index + 2 + size > len(window) and not is_end:
                    return self._position
                body = window[index + 4 : index + 2 + size]
                if marker == 0xE1 and body.startswith(b"Exif\x00\x00"):
                    self._draft.rotation = read_rotation(body[6:]) or 0
                elif marker in _JPEG_FRAMES:
                    self._draft.set_size(int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big"))
                    return None
            self._position += 2 + size
        return None


class GifParser(_ImageParser):
    """Reads the size, and the duration of an animation that fits into one window."""

    def parse(self, window: bytes, offset: int, *, is_end: bool) -> int | None:
        """As `ContainerParser.parse`."""
        del offset
        if len(window) < 13:
            return None if is_end else 0
        self._draft.set_size(int.from_bytes(window[6:8], "little"), int.from_bytes(window[8:10], "little"))
        self._read_duration(window)
        return None

    def _read_duration(self, window: bytes) -> None:
        """Add up the delays of the frames, in hundredths of a second (GIF89a, 23). Players show a shorter one than 2 for 10."""
        index = 13 + (3 << (window[10] & 7) + 1 if window[10] & 0x80 else 0)
        delay, total, frames = 0, 0, 0
        steps = 0
        while steps < MAX_GIF_BLOCKS:
            steps += 1
            introducer = window[index]
            if introducer == 0x3B:
                if frames > 1:
                    self._draft.set_duration(total, 100)
                return
            if introducer == 0x21:
                if window[index + 1] == 0xF9:
                    delay = int.from_bytes(window[index + 4 : index + 6], "little")
                index += 2
            elif introducer == 0x2C:
                flags = window[index + 9]
                index += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
                total, frames = total + (delay if delay >= 2 else 10), frames + 1
            else:
                return
            while window[index] and steps < MAX_GIF_BLOCKS:
                index += 1 + window[index]
                steps += 1
            index += 1


class WebpParser(_ImageParser):
    """Reads the first chunk, and the Exif chunk behind the picture where the first one says that there is one."""

    def __init__(self) -> None:
        super().__init__(12)

    def parse(self, window: bytes, offset: int, *, is_end: bool) -> int | None:
        """As `ContainerParser.parse`."""
        while self._steps < MAX_SEGMENTS:
            index = self._position - offset
            if index + 8 > len(window):
                return None if is_end else self._position
            chunk, size = window[index : index + 4], int.from_bytes(window[index + 4 : index + 8], "little")
            first = self._steps == 0
            self._steps += 1
            if first or chunk == b"EXIF":
                needed = min(size, 10) if first else min(size, MAX_EXIF_BYTES)
                if index + 8 + needed > len(window) and not is_end:
                    self._steps -= 1
                    return self._position
            body = window[index + 8 : index + 8 + min(size, MAX_EXIF_BYTES)]
            if first and not self._read_size(chunk, body):
                return None
            if chunk == b"EXIF":
                self._draft.rotation = read_rotation(body.removeprefix(b"Exif\x00\x00")) or 0
                return None
            self._position += 8 + size + (size & 1)
        return None

    def _read_size(self, chunk: bytes, body: bytes) -> bool:
        """Read the first chunk. Returns whether an Exif chunk follows."""
        if chunk == b"VP8X":
            self._draft.set_size(int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1)
            return bool(body[0] & 8)
        if chunk == b"VP8L" and body[:1] == b"\x2f":
            bits = int.from_bytes(body[1:5], "little")
            self._draft.set_size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
        elif chunk == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
            self._draft.set_size(
                int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
            )
        return False
