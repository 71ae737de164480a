"""Chooses the media type of a file. Pure; with a table of its own, so that the result is the same on every machine."""

import re

from services.common.errors import BadRequest

DEFAULT_CONTENT_TYPE = "application/octet-stream"
MAX_CONTENT_TYPE_LENGTH = 255

# RFC 9110, 8.3.1: type "/" subtype and parameters, in visible ASCII because it is sent in a header field.
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
    """Return the declared type; where it is missing or application/octet-stream, the one of the filename's extension.

    curl declares application/octet-stream for a .webm. Parameters are dropped where they contain a comma. Raises BadRequest where
    the declared type is not a media type.
    """
    declared = declared.strip()
    if declared and (len(declared) > MAX_CONTENT_TYPE_LENGTH or not _MEDIA_TYPE.match(declared)):
        raise BadRequest("the Content-Type of the part is not a valid media type")
    if "," in declared:
        # Browsers take the part after a comma for another type, and use that. MediaRecorder declares video/webm;codecs=vp8,opus.
        declared = declared.partition(";")[0].rstrip()
    if declared and declared.partition(";")[0].strip().lower() != DEFAULT_CONTENT_TYPE:
        return declared
    _, dot, suffix = filename.rpartition(".")
    return _TYPES_BY_EXTENSION.get(suffix.lower(), DEFAULT_CONTENT_TYPE) if dot else DEFAULT_CONTENT_TYPE
