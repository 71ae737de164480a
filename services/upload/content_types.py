"""Chooses the media type of a file. Pure; with a table of its own, so that the result is the same on every machine."""

import re

from services.common.errors import BadRequest

DEFAULT_CONTENT_TYPE = "application/octet-stream"
MAX_CONTENT_TYPE_LENGTH = 255

# RFC 9110, 8.3.1: type "/" subtype and parameters, in visible ASCII because it is sent in a header field.
# A single word is what programs write that have no type: image, undefined, null.
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:/[!#$%&'*+.^_`|~0-9A-Za-z-]+)?(?:[ \t]*;[\x20-\x7e\t]*)?\Z")
# Sent by clients that do not know the type: Android's usual code for OkHttp states multipart/form-data for the part, curl with
# --data-binary application/x-www-form-urlencoded, tools for S3 binary/octet-stream.
_MEANINGLESS_TOP_LEVEL = frozenset({"binary", "content", "multipart", "unknown"})
_MEANINGLESS_TYPES = frozenset(
    {
        DEFAULT_CONTENT_TYPE,
        "application/binary",
        "application/download",
        "application/force-download",
        "application/octetstream",
        "application/unknown",
        "application/x-binary",
        "application/x-download",
        "application/x-octet-stream",
        "application/x-unknown",
        "application/x-www-form-urlencoded",
    }
)

_TYPES_BY_EXTENSION = {
    "3g2": "video/3gpp2",
    "3gp": "video/3gpp",
    "7z": "application/x-7z-compressed",
    "aac": "audio/aac",
    "ac3": "audio/ac3",
    "aif": "audio/aiff",
    "aiff": "audio/aiff",
    "amr": "audio/AMR",
    "apk": "application/vnd.android.package-archive",
    "apng": "image/apng",
    "asf": "video/x-ms-asf",
    "ass": "text/x-ssa",
    "asx": "video/x-ms-asf",
    "avi": "video/x-msvideo",
    "avif": "image/avif",
    "bmp": "image/bmp",
    "bz2": "application/x-bzip2",
    "c": "text/x-c",
    "caf": "audio/x-caf",
    "cc": "text/x-c++",
    "cfg": "text/plain",
    "cjs": "text/javascript",
    "cmfa": "audio/mp4",
    "cmfv": "video/mp4",
    "conf": "text/plain",
    "cpp": "text/x-c++",
    "cs": "text/x-csharp",
    "css": "text/css",
    "csv": "text/csv",
    "cxx": "text/x-c++",
    "dart": "text/x-dart",
    "dfxp": "application/ttml+xml",
    "diff": "text/x-diff",
    "doc": "application/msword",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "dotx": "application/vnd.openxmlformats-officedocument.wordprocessingml.template",
    "eac3": "audio/eac3",
    "eml": "message/rfc822",
    "epub": "application/epub+zip",
    "f4m": "application/f4m+xml",
    "flac": "audio/flac",
    "flv": "video/x-flv",
    "geojson": "application/geo+json",
    "gif": "image/gif",
    "go": "text/x-go",
    "graphql": "application/graphql",
    "gz": "application/gzip",
    "h": "text/x-c",
    "heic": "image/heic",
    "heif": "image/heif",
    "hpp": "text/x-c++",
    "htm": "text/html",
    "html": "text/html",
    "ico": "image/vnd.microsoft.icon",
    "ics": "text/calendar",
    "ini": "text/plain",
    "ism": "application/vnd.ms-sstr+xml",
    "iso": "application/x-iso9660-image",
    "jar": "application/java-archive",
    "java": "text/x-java",
    "jfif": "image/jpeg",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "js": "text/javascript",
    "json": "application/json",
    "jsonld": "application/ld+json",
    "jsx": "text/javascript",
    "jxl": "image/jxl",
    "kt": "text/x-kotlin",
    "less": "text/x-less",
    "log": "text/plain",
    "lrc": "text/plain",
    "lua": "text/x-lua",
    "m1v": "video/mpeg",
    "m2ts": "video/mp2t",
    "m2v": "video/mpeg",
    "m3u": "audio/x-mpegurl",
    "m3u8": "application/vnd.apple.mpegurl",
    "m4a": "audio/mp4",
    "m4b": "audio/mp4",
    "m4s": "video/iso.segment",
    "m4v": "video/mp4",
    "map": "application/json",
    "markdown": "text/markdown",
    "md": "text/markdown",
    "mid": "audio/midi",
    "midi": "audio/midi",
    "mjs": "text/javascript",
    "mk3d": "video/matroska-3d",
    "mka": "audio/matroska",
    "mks": "application/x-matroska",
    "mkv": "video/matroska",
    "mov": "video/quicktime",
    "mp2": "audio/mpeg",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "mpd": "application/dash+xml",
    "mpe": "video/mpeg",
    "mpeg": "video/mpeg",
    "mpg": "video/mpeg",
    "mts": "video/mp2t",
    "mxf": "application/mxf",
    "ndjson": "application/x-ndjson",
    "odg": "application/vnd.oasis.opendocument.graphics",
    "odp": "application/vnd.oasis.opendocument.presentation",
    "ods": "application/vnd.oasis.opendocument.spreadsheet",
    "odt": "application/vnd.oasis.opendocument.text",
    "oga": "audio/ogg",
    "ogg": "audio/ogg",
    "ogv": "video/ogg",
    "opus": "audio/ogg",
    "otf": "font/otf",
    "patch": "text/x-diff",
    "pdf": "application/pdf",
    "php": "text/x-php",
    "pl": "text/x-perl",
    "pls": "audio/x-scpls",
    "png": "image/png",
    "ppsx": "application/vnd.openxmlformats-officedocument.presentationml.slideshow",
    "ppt": "application/vnd.ms-powerpoint",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "proto": "text/x-protobuf",
    "psd": "image/vnd.adobe.photoshop",
    "py": "text/x-python",
    "r": "text/x-r",
    "rar": "application/vnd.rar",
    "rb": "text/x-ruby",
    "rs": "text/x-rust",
    "rst": "text/plain",
    "rtf": "application/rtf",
    "sbv": "text/plain",
    "scala": "text/x-scala",
    "scss": "text/x-scss",
    "sh": "text/x-shellscript",
    "spx": "audio/ogg",
    "sql": "application/sql",
    "srt": "application/x-subrip",
    "ssa": "text/x-ssa",
    "sub": "text/plain",
    "svg": "image/svg+xml",
    "swift": "text/x-swift",
    "tar": "application/x-tar",
    "tex": "text/x-tex",
    "tgz": "application/gzip",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "toml": "application/toml",
    "ts": "video/mp2t",
    "tsv": "text/tab-separated-values",
    "tsx": "text/x-typescript",
    "ttf": "font/ttf",
    "ttml": "application/ttml+xml",
    "txt": "text/plain",
    "vcf": "text/vcard",
    "vob": "video/mpeg",
    "vtt": "text/vtt",
    "vue": "text/x-vue",
    "wasm": "application/wasm",
    "wav": "audio/wav",
    "weba": "audio/webm",
    "webm": "video/webm",
    "webmanifest": "application/manifest+json",
    "webp": "image/webp",
    "wma": "audio/x-ms-wma",
    "wmv": "video/x-ms-wmv",
    "woff": "font/woff",
    "woff2": "font/woff2",
    "xhtml": "application/xhtml+xml",
    "xls": "application/vnd.ms-excel",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "xml": "application/xml",
    "xsl": "application/xslt+xml",
    "xspf": "application/xspf+xml",
    "xz": "application/x-xz",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    "zip": "application/zip",
    "zst": "application/zstd",
}


def resolve_content_type(declared: str, filename: str) -> str:
    """Return the declared type; where it is missing or says nothing of the content, the one of the filename's extension.

    curl declares application/octet-stream for a .webm. Parameters are dropped where they contain a comma. Raises BadRequest where
    the declared type is neither a media type nor a single word, such as `undefined`.
    """
    declared = declared.strip()
    if declared and (len(declared) > MAX_CONTENT_TYPE_LENGTH or not _MEDIA_TYPE.match(declared)):
        raise BadRequest("the Content-Type of the part is not a valid media type")
    if "," in declared:
        # Browsers take the part after a comma for another type, and use that. MediaRecorder declares video/webm;codecs=vp8,opus.
        declared = declared.partition(";")[0].rstrip()
    if not _is_meaningless(declared.partition(";")[0].strip().lower()):
        return declared
    _, dot, suffix = filename.rpartition(".")
    return _TYPES_BY_EXTENSION.get(suffix.lower(), DEFAULT_CONTENT_TYPE) if dot else DEFAULT_CONTENT_TYPE


def _is_meaningless(media_type: str) -> bool:
    """Whether a type in lower case says nothing of a file: a range of types, the type of a request, a default, a single word."""
    top_level_type, slash, _ = media_type.partition("/")
    return (
        not slash or "*" in media_type or top_level_type in _MEANINGLESS_TOP_LEVEL or media_type in _MEANINGLESS_TYPES
    )
