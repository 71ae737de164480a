"""Which media type a file gets. Pure; a table of our own, so that every machine answers alike."""

import re

from services.common.errors import BadRequest

DEFAULT_CONTENT_TYPE = "application/octet-stream"
MAX_CONTENT_TYPE_LENGTH = 255

# RFC 9110, 8.3.1: type "/" subtype and parameters, as visible ASCII: it is sent back in a header field.
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*;[\x20-\x7e\t]*)?\Z")

_TYPES_BY_EXTENSION = {
    "3gp": "video/3gpp",
    "aac": "audio/aac",
    "avi": "video/x-msvideo",
    "avif": "image/avif",
    "bmp": "image/bmp",
    "css": "text/css",
    "csv": "text/csv",
    "flac": "audio/flac",
    "gif": "image/gif",
    "gz": "application/gzip",
    "htm": "text/html",
    "html": "text/html",
    "ico": "image/vnd.microsoft.icon",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "js": "text/javascript",
    "json": "application/json",
    "m3u8": "application/vnd.apple.mpegurl",
    "m4a": "audio/mp4",
    "m4s": "video/iso.segment",
    "m4v": "video/mp4",
    "md": "text/markdown",
    "mkv": "video/matroska",
    "mov": "video/quicktime",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "mpeg": "video/mpeg",
    "mpg": "video/mpeg",
    "oga": "audio/ogg",
    "ogg": "audio/ogg",
    "ogv": "video/ogg",
    "opus": "audio/ogg",
    "pdf": "application/pdf",
    "png": "image/png",
    "srt": "application/x-subrip",
    "svg": "image/svg+xml",
    "ts": "video/mp2t",
    "txt": "text/plain",
    "vtt": "text/vtt",
    "wav": "audio/wav",
    "weba": "audio/webm",
    "webm": "video/webm",
    "webp": "image/webp",
    "xml": "application/xml",
    "zip": "application/zip",
}


def resolve_content_type(declared: str, filename: str) -> str:
    """The client's type, unless it is missing or says nothing: then the name's. Raises BadRequest where it is not a media type.

    curl sends application/octet-stream for a .webm. Parameters with a comma are dropped.
    """
    declared = declared.strip()
    if declared and (len(declared) > MAX_CONTENT_TYPE_LENGTH or not _MEDIA_TYPE.match(declared)):
        raise BadRequest("the Content-Type of the part is not a valid media type")
    if "," in declared:
        # Browsers take what stands behind a comma for another type, and show that. MediaRecorder says video/webm;codecs=vp8,opus.
        declared = declared.partition(";")[0].rstrip()
    if declared and declared.partition(";")[0].strip().lower() != DEFAULT_CONTENT_TYPE:
        return declared
    _, dot, suffix = filename.rpartition(".")
    return _TYPES_BY_EXTENSION.get(suffix.lower(), DEFAULT_CONTENT_TYPE) if dot else DEFAULT_CONTENT_TYPE
