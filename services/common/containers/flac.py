"""FLAC: STREAMINFO and comments (RFC 9639, 8). Pure."""

from services.common.containers import id3
from services.common.containers.facts import FactsDraft
from services.common.containers.vorbis_comments import read_vorbis_comments

MAX_BLOCKS = 64
MAX_COMMENT_BYTES = 64 * 1024
_STREAMINFO, _COMMENTS = 0, 4


class FlacParser:
    """Walks the metadata blocks up to the first frame."""

    def __init__(self) -> None:
        self._draft = FactsDraft(kind="audio", codecs=["flac"])
        self._position = 0
        self._blocks = 0

    def parse(self, window: bytes, offset: int, *, is_end: bool) -> int | None:
        """As `ContainerParser.parse`."""
        if self._position == 0:
            self._position = id3.tag_size(window) + 4
        while self._blocks < MAX_BLOCKS:
            index = self._position - offset
            if index + 4 > len(window):
                return None if is_end else self._position
            header, size = window[index], int.from_bytes(window[index + 1 : index + 4], "big")
            body, end = index + 4, index + 4 + size
            block_type = header & 0x7F
            self._blocks += 1
            if block_type in {_STREAMINFO, _COMMENTS} and size <= MAX_COMMENT_BYTES:
                if end > len(window) and not is_end:
                    return self._position
                if block_type == _STREAMINFO:
                    packed = int.from_bytes(window[body + 10 : body + 18], "big")
                    self._draft.set_duration(packed & (1 << 36) - 1, packed >> 44)
                else:
                    read_vorbis_comments(self._draft, window[:end], body)
            if header & 0x80:
                return None
            self._position += 4 + size
        return None

    def draft(self, _length: int) -> FactsDraft:
        """Return what is known now."""
        return self._draft
