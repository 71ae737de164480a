"""MP3: tags from ID3v2, duration from the Xing, Info or VBRI header (ISO/IEC 11172-3; Xing's and Fraunhofer's headers). Pure.

Without such a header the length can only be estimated from the bit rate of the first frame: then there is no duration.
"""

from typing import NamedTuple

from services.common.containers import id3
from services.common.containers.facts import FactsDraft

SYNC_SEARCH_BYTES = 4 * 1024
MAX_TAGS = 4
_BIT_RATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_SAMPLE_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_MONO = 3


class Frame(NamedTuple):
    """The header of a layer III frame."""

    size: int
    sample_rate: int
    samples: int
    side_information: int
    """Bytes between the header and a Xing header."""


def read_frame(data: bytes, index: int) -> Frame | None:
    """Return the header of the frame at `index`, None where there is none."""
    if index + 4 > len(data) or data[index] != 0xFF or data[index + 1] & 0xE6 != 0xE2:
        return None
    version, rate, bits = data[index + 1] >> 3 & 3, data[index + 2] >> 2 & 3, data[index + 2] >> 4
    if version == 1 or rate == 3 or bits in {0, 15}:
        return None
    first = version == 3
    sample_rate = _SAMPLE_RATES[version][rate]
    size = (144_000 if first else 72_000) * _BIT_RATES[not first][bits] // sample_rate + (data[index + 2] >> 1 & 1)
    mono = data[index + 3] >> 6 == _MONO
    side = (17 if mono else 32) if first else (9 if mono else 17)
    return Frame(size, sample_rate, 1152 if first else 576, side)


def is_mp3(data: bytes) -> bool:
    """Whether two frames follow each other at the beginning."""
    frame = read_frame(data, 0)
    return frame is not None and read_frame(data, frame.size) is not None


class Mp3Parser:
    """Reads tags, then the first frame."""

    def __init__(self) -> None:
        self._draft = FactsDraft()
        self._position = 0
        self._tags = 0

    def parse(self, window: bytes, offset: int, *, is_end: bool) -> int | None:
        """As `ContainerParser.parse`."""
        while True:
            index = self._position - offset
            if index + id3.HEADER_BYTES > len(window):
                return None if is_end else self._position
            size = id3.tag_size(window, index) if self._tags < MAX_TAGS else 0
            if not size:
                break
            id3.read_frames(self._draft, window, index)
            self._tags += 1
            self._position += size
        if len(window) - index < 4096 and not is_end:
            return self._position
        self._read_first_frame(window, index)
        return None

    def draft(self, _length: int) -> FactsDraft:
        """Return what is known now."""
        return self._draft

    def _read_first_frame(self, window: bytes, index: int) -> None:
        for at in range(index, min(index + SYNC_SEARCH_BYTES, len(window) - 4)):
            if window[at] != 0xFF:
                continue
            frame = read_frame(window, at)
            follows = frame and (at + frame.size + 4 > len(window) or read_frame(window, at + frame.size))
            if frame and follows:
                self._draft.kind = "audio"
                self._draft.add_codec("mp3")
                frames = _frame_count(window, at, frame)
                self._draft.set_duration(frames * frame.samples, frame.sample_rate)
                return


def _frame_count(window: bytes, at: int, frame: Frame) -> int:
    xing = at + 4 + frame.side_information
    if window[xing : xing + 4] in {b"Xing", b"Info"} and window[xing + 7] & 1:
        return int.from_bytes(window[xing + 8 : xing + 12], "big")
    vbri = at + 36
    if window[vbri : vbri + 4] == b"VBRI":
        return int.from_bytes(window[vbri + 14 : vbri + 18], "big")
    return 0
