"""ID3v2 tags in front of MP3 (id3.org: ID3v2.2, 2.3, 2.4). Pure."""

from services.common.containers.facts import FactsDraft

HEADER_BYTES = 10
MAX_FRAMES = 256
MAX_TEXT_BYTES = 2048
_FRAME_NAMES = {
    b"TIT2": "title",
    b"TT2": "title",
    b"TPE1": "artist",
    b"TP1": "artist",
    b"TALB": "album",
    b"TAL": "album",
    b"TPE2": "album_artist",
    b"TP2": "album_artist",
    b"TCOM": "composer",
    b"TCM": "composer",
    b"TCON": "genre",
    b"TCO": "genre",
    b"TDRC": "date",
    b"TYER": "date",
    b"TYE": "date",
    b"TRCK": "track",
    b"TRK": "track",
}
_ENCODINGS = ("latin-1", "utf-16", "utf-16-be", "utf-8")


def tag_size(data: bytes, index: int = 0) -> int:
    """Return the bytes of the tag at `index` with its header and footer, 0 where there is none."""
    if data[index : index + 3] != b"ID3" or len(data) < index + HEADER_BYTES:
        return 0
    footer = HEADER_BYTES if data[index + 5] & 0x10 else 0
    return HEADER_BYTES + _synchsafe(data[index + 6 : index + 10]) + footer


def read_frames(draft: FactsDraft, data: bytes, index: int) -> None:
    """Add the text frames of the tag at `index`, as far as `data` goes."""
    version, flags = data[index + 3], data[index + 5]
    body, end = index + HEADER_BYTES, min(index + tag_size(data, index), len(data))
    frames = data[body:end]
    if flags & 0x80 and version < 4:  # unsynchronisation of the whole tag
        frames = frames.replace(b"\xff\x00", b"\xff")
    position = 0
    if flags & 0x40 and version >= 3:
        size = _synchsafe(frames[:4]) if version == 4 else int.from_bytes(frames[:4], "big") + 4
        position = size
    id_bytes, header = (3, 6) if version == 2 else (4, 10)
    for _ in range(MAX_FRAMES):
        frame_id = frames[position : position + id_bytes]
        if position + header > len(frames) or not frame_id.strip(b"\x00"):
            return
        raw_size = frames[position + id_bytes : position + 2 * id_bytes]
        size = _synchsafe(raw_size) if version == 4 else int.from_bytes(raw_size, "big")
        position += header
        if frame_id in _FRAME_NAMES and position < len(frames):
            _add_text(draft, _FRAME_NAMES[frame_id], frames[position : position + min(size, MAX_TEXT_BYTES)])
        position += size


def _add_text(draft: FactsDraft, name: str, text: bytes) -> None:
    encoding = _ENCODINGS[text[0]] if text and text[0] < len(_ENCODINGS) else "latin-1"
    raw = text[1:]
    if encoding.startswith("utf-16"):
        raw = raw[: len(raw) // 2 * 2]
    draft.add_tag(name, raw.decode(encoding, "replace").partition("\x00")[0])


def _synchsafe(raw: bytes) -> int:
    value = 0
    for byte in raw:
        value = value << 7 | byte & 0x7F
    return value
