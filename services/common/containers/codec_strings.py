"""Codec configurations as text of the `codecs` parameter (RFC 6381; the bindings of AV1, VP9 and ISO/IEC 14496-15, annex E). Pure.

Each function returns "" for a configuration that is too short.
"""

_ES_DESCRIPTOR, _DECODER_CONFIG, _DECODER_SPECIFIC = 3, 4, 5
_MPEG4_AUDIO, _MPEG4_VIDEO = 0x40, 0x20


def avc(config: bytes, entry: str = "avc1") -> str:
    """H.264, from an AVCDecoderConfigurationRecord."""
    return f"{entry}.{config[1:4].hex()}" if len(config) >= 4 else ""


def hevc(config: bytes, entry: str = "hvc1") -> str:
    """H.265, from an HEVCDecoderConfigurationRecord."""
    if len(config) < 13:
        return ""
    space, tier, profile = ("", "A", "B", "C")[config[1] >> 6], "H" if config[1] & 0x20 else "L", config[1] & 0x1F
    compatibility = int(f"{int.from_bytes(config[2:6], 'big'):032b}"[::-1], 2)
    constraints = "".join(f".{byte:X}" for byte in config[6:12].rstrip(b"\x00"))
    return f"{entry}.{space}{profile}.{compatibility:X}.{tier}{config[12]}{constraints}"


def av1(config: bytes) -> str:
    """AV1, from an AV1CodecConfigurationRecord."""
    if len(config) < 3:
        return ""
    profile, level, flags = config[1] >> 5, config[1] & 0x1F, config[2]
    depth = 8 if not flags & 0x40 else 12 if profile == 2 and flags & 0x20 else 10
    return f"av01.{profile}.{level:02}{'H' if flags & 0x80 else 'M'}.{depth:02}"


def vp9(config: bytes) -> str:
    """VP9, from a VPCodecConfigurationRecord without its version and flags."""
    return f"vp09.{config[0]:02}.{config[1]:02}.{config[2] >> 4:02}" if len(config) >= 3 else "vp09"


def vp9_of_webm(private: bytes) -> str:
    """VP9, from the CodecPrivate of WebM: a list of features, each with id, length and value."""
    features: dict[int, int] = {}
    for index in range(0, min(len(private), 48) - 2, 3):
        features[private[index]] = private[index + 2]
    if {1, 2, 3} <= features.keys():
        return f"vp09.{features[1]:02}.{features[2]:02}.{features[3]:02}"
    return "vp9"


def aac(config: bytes) -> str:
    """AAC, from an AudioSpecificConfig."""
    if not config:
        return "mp4a.40.2"
    object_type = config[0] >> 3
    if object_type == 31 and len(config) > 1:
        object_type = 32 + ((config[0] & 7) << 3 | config[1] >> 5)
    return f"mp4a.40.{object_type}"


def mpeg4_descriptor(data: bytes, entry: str) -> str:
    """What an ES descriptor says (ISO/IEC 14496-1, 7.2.6.5): `mp4a.40.2`, `mp4v.20.1`, `mp4a.6B`."""
    indication, specific = _read_descriptors(data + b"\x00" * 16)  # what is cut off is read as zeros
    if indication == _MPEG4_AUDIO:
        return aac(specific)
    if indication == _MPEG4_VIDEO:
        start = specific.find(b"\x00\x00\x01\xb0")
        level = specific[start + 4 : start + 5]
        return f"{entry}.20.{level[0]}" if start >= 0 and level else f"{entry}.20"
    return f"{entry}.{indication:02X}" if indication else ""


def _read_descriptors(data: bytes) -> tuple[int, bytes]:
    """Return the object type indication and the decoder's own configuration."""
    position, indication = 0, 0
    for _ in range(8):
        if position + 8 > len(data):
            break
        tag, size, position = data[position], 0, position + 1
        for _ in range(4):
            byte, position = data[position], position + 1
            size = size << 7 | byte & 0x7F
            if not byte & 0x80:
                break
        if tag == _ES_DESCRIPTOR:
            flags = data[position + 2]
            position += 3 + 2 * (flags >> 7) + 2 * (flags >> 5 & 1)
            position += 1 + data[position] if flags & 0x40 else 0
        elif tag == _DECODER_CONFIG:
            indication = data[position]
            position += 13
        elif tag == _DECODER_SPECIFIC:
            return indication, data[position : position + min(size, 64)]
        else:
            position += size
    return indication, b""
