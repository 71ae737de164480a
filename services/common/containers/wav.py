"""WAV, RF64 and BW64: format, length of the data, and INFO tags in front of it (Microsoft RIFF; EBU Tech 3306). Pure."""

from services.common.containers.facts import FactsDraft

MAX_CHUNKS = 64
MAX_INFO_BYTES = 16 * 1024
_UNKNOWN_SIZE = 0xFFFFFFFF
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_INFO_NAMES = {
    b"INAM": "title",
    b"IART": "artist",
    b"IPRD": "album",
    b"ICRD": "date",
    b"IGNR": "genre",
    b"IPRT": "track",
}


class WavParser:
    """Walks the chunks up to `data`."""

    def __init__(self) -> None:
        self._draft = FactsDraft(kind="audio")
        self._position = 12
        self._chunks = 0
        self._format = 0
        self._frame_bytes = 0
        self._rate = 0
        self._samples = 0
        self._long_data_bytes = 0
        self._data_end = 0

    def parse(self, window: bytes, offset: int, *, is_end: bool) -> int | None:
        """As `ContainerParser.parse`."""
        while self._chunks < MAX_CHUNKS:
            index = self._position - offset
            if index + 8 > len(window):
                return None if is_end else self._position
            chunk, size = window[index : index + 4], int.from_bytes(window[index + 4 : index + 8], "little")
            self._chunks += 1
            if chunk == b"data":
                self._read_length(size)
                return None
            if chunk in {b"fmt ", b"fact", b"ds64", b"LIST"} and size <= MAX_INFO_BYTES:
                if index + 8 + size > len(window) and not is_end:
                    return self._position
                self._read_chunk(chunk, window[index + 8 : index + 8 + size])
            self._position += 8 + size + (size & 1)
        return None

    def draft(self, length: int) -> FactsDraft:
        """Return what is known now; `length` is that of the file in bytes."""
        if length < self._data_end:  # cut off
            self._draft.duration = None
        return self._draft

    def _read_chunk(self, chunk: bytes, body: bytes) -> None:
        if chunk == b"fmt " and len(body) >= 16:
            self._format = int.from_bytes(body[:2], "little")
            self._rate = int.from_bytes(body[4:8], "little")
            self._frame_bytes = int.from_bytes(body[12:14], "little")
            if self._format == _EXTENSIBLE and len(body) >= 26:
                self._format = int.from_bytes(body[24:26], "little")
            self._draft.add_codec(f"{self._format:X}")  # RFC 2361, in hex
        elif chunk == b"fact":
            self._samples = int.from_bytes(body[:4], "little")
        elif chunk == b"ds64":
            self._long_data_bytes = int.from_bytes(body[8:16], "little")
        elif chunk == b"LIST" and body[:4] == b"INFO":
            position = 4
            for _ in range(MAX_CHUNKS):
                size = int.from_bytes(body[position + 4 : position + 8], "little")
                name = _INFO_NAMES.get(body[position : position + 4])
                self._draft.add_tag(name, body[position + 8 : position + 8 + size].decode("utf-8", "replace"))
                position += 8 + size + (size & 1)

    def _read_length(self, size: int) -> None:
        if size == _UNKNOWN_SIZE:
            size = self._long_data_bytes
        self._data_end = self._position + 8 + size
        if self._format in {_PCM, _FLOAT, 6, 7} and self._frame_bytes:  # also A-law and mu-law: one sample a byte
            self._draft.set_duration(size // self._frame_bytes, self._rate)
        else:
            self._draft.set_duration(self._samples, self._rate)
