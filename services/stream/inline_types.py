"""Which types a browser may display in its own page, and the Content-Security-Policy of a stored file.

Inline are media that contain no scripts. Never HTML, SVG, XML or PDF: they may contain scripts of the uploader.
"""

_REGISTERED = frozenset(
    {
        *("video/mp4", "video/webm", "video/ogg", "video/quicktime", "video/matroska"),
        *(
            "audio/mpeg",
            "audio/mp4",
            "audio/aac",
            "audio/ogg",
            "audio/webm",
            "audio/wav",
            "audio/flac",
            "audio/matroska",
        ),
        *("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/apng"),
        "text/plain",
    }
)
_ALIASES = frozenset(
    {
        *("video/x-m4v", "video/m4v", "video/x-mp4", "video/x-matroska", "video/x-webm", "video/x-ogg", "video/theora"),
        *("video/x-theora+ogg", "video/x-quicktime", "application/ogg", "application/x-ogg"),
        *("audio/x-m4a", "audio/m4a", "audio/x-mp4", "audio/mp4a-latm", "audio/x-m4b", "audio/m4b"),
        *("audio/mp3", "audio/x-mp3", "audio/mpeg3", "audio/x-mpeg-3", "audio/x-mpeg", "audio/mpg", "audio/x-mpg"),
        *("audio/wave", "audio/x-wav", "audio/vnd.wave", "audio/x-pn-wav"),
        *("audio/x-flac", "audio/x-aac", "audio/aacp", "audio/x-aacp", "audio/x-hx-aac-adts", "audio/x-matroska"),
        *("audio/opus", "audio/x-opus", "audio/x-opus+ogg", "audio/vorbis", "audio/x-vorbis", "audio/x-vorbis+ogg"),
        *("audio/x-ogg", "audio/x-flac+ogg", "audio/x-speex+ogg", "audio/x-webm"),
        *("image/jpg", "image/pjpeg", "image/x-png", "image/x-gif", "image/x-webp", "image/vnd.mozilla.apng"),
    }
)
"""Older and unregistered names of the same formats, as browsers, operating systems and mail programs state them."""

INLINE_TYPES = _REGISTERED | _ALIASES

ATTACHMENT_POLICY = b"sandbox; default-src 'none'"
"""For what is only downloaded: were it displayed, it would have an origin of its own, run nothing and load nothing."""
INLINE_POLICY = (
    b"sandbox allow-same-origin; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'"
)
"""A browser makes a page around a video, a sound or an image, which loads the same address again and has inline styles. With an
origin of its own it could not: Cross-Origin-Resource-Policy is `same-origin`. Scripts, forms and other loads stay forbidden.
"""


def is_inline(content_type: str) -> bool:
    """Return whether a browser may display a file of this type.

    Not where there is a comma: browsers take what follows it for another type.
    """
    return content_type.partition(";")[0].strip().lower() in INLINE_TYPES and "," not in content_type
