"""Sample entries of MP4 and QuickTime tracks: codec, width and height (ISO/IEC 14496-12, 8.5.2; QuickTime File Format). Pure."""

from typing import NamedTuple

from services.common.containers import codec_strings
from services.common.containers.boxes import Box, MalformedBoxes, iter_boxes, read_box

_VISUAL_BYTES = 78
"""Fixed fields of a visual sample entry, before its boxes."""
_AUDIO_BYTES = (28, 44, 64)
"""Fixed fields of an audio sample entry, by its QuickTime version."""
_PLAIN_CODECS = {
    b"Opus": "opus",
    b"fLaC": "flac",
    b"ac-3": "ac-3",
    b"ec-3": "ec-3",
    b"alac": "alac",
    b".mp3": "mp3",
    b"vp08": "vp08",
}


class SampleEntry(NamedTuple):
    """The first sample entry of a track; sizes are 0 for audio."""

    codec: str
    width: int
    height: int


def read_sample_entry(data: bytes, start: int, end: int, handler: bytes) -> SampleEntry | None:
    """Read the first entry of an `stsd` box, given its body. Raises MalformedBoxes."""
    entry = read_box(data, start + 8, end)
    if entry is None or entry.end > end:
        return None
    if handler == b"vide":
        width = int.from_bytes(data[entry.body + 24 : entry.body + 26], "big")
        height = int.from_bytes(data[entry.body + 26 : entry.body + 28], "big")
        return SampleEntry(_codec(data, entry, entry.body + _VISUAL_BYTES), width, height)
    if handler == b"soun":
        version = int.from_bytes(data[entry.body + 8 : entry.body + 10], "big")
        fixed = _AUDIO_BYTES[version] if version < len(_AUDIO_BYTES) else _AUDIO_BYTES[0]
        return SampleEntry(_codec(data, entry, entry.body + fixed), 0, 0)
    return None


def _codec(data: bytes, entry: Box, first_child: int) -> str:
    plain = _PLAIN_CODECS.get(entry.type, entry.type.decode("latin-1").strip())
    try:
        for box in iter_boxes(data, first_child, entry.end):
            found = _codec_of_box(data, box, entry.type.decode("latin-1"))
            if found:
                return found
    except MalformedBoxes:  # QuickTime entries may end with other bytes
        pass
    return plain if plain.isascii() and plain.isprintable() else ""


def _codec_of_box(data: bytes, box: Box, entry_type: str) -> str:
    config = data[box.body : min(box.end, box.body + 4096)]
    match box.type:
        case b"avcC":
            return codec_strings.avc(config, entry_type if entry_type in {"avc1", "avc2", "avc3", "avc4"} else "avc1")
        case b"hvcC":
            return codec_strings.hevc(config, entry_type if entry_type in {"hvc1", "hev1"} else "hvc1")
        case b"av1C":
            return codec_strings.av1(config)
        case b"vpcC":
            return codec_strings.vp9(config[4:]).replace("vp09", entry_type if entry_type == "vp08" else "vp09", 1)
        case b"esds":
            return codec_strings.mpeg4_descriptor(config[4:], entry_type if entry_type == "mp4v" else "mp4a")
        case b"wave":  # QuickTime keeps the esds of AAC inside
            for inner in iter_boxes(data, box.body, box.end):
                if inner.type == b"esds":
                    return _codec_of_box(data, inner, entry_type)
    return ""
