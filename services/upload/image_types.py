"""Tells the type of an image by its first bytes, of formats that every browser shows and that contain no scripts. Pure."""

_IMAGE_SIGNATURES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_MAX_BRAND_BYTES = 128


def detect_image_type(data: bytes) -> str | None:
    """Return the media type of a JPEG, PNG, GIF, WebP (RFC 9649) or AVIF, None for anything else."""
    for signature, content_type in _IMAGE_SIGNATURES:
        if data.startswith(signature):
            return content_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp":  # ISO/IEC 14496-12, 4.3: major brand, version, compatible brands
        size = min(int.from_bytes(data[:4], "big"), _MAX_BRAND_BYTES, len(data))
        brands = {data[8:12], *(data[start : start + 4] for start in range(16, size - 3, 4))}
        return "image/avif" if brands & _AVIF_BRANDS else None
    return None
