"""Builds the response header fields that describe a stored file."""

from urllib.parse import quote

from services.common.media import MediaInfo, MediaName
from services.common.media_path import media_path
from services.upload.digests import format_repr_digest


def stream_location(info: MediaInfo) -> str:
    """Return where the file can be read: a relative reference, which is right behind any proxy."""
    return f"/file/stream?filename={quote(info.filename, safe='')}&folder={quote(info.folder, safe='')}"


def path_location(info: MediaInfo) -> str:
    """Return the path address of the file."""
    return media_path(MediaName(info.folder, info.filename))


def validator_headers(etag: str, sha256: str | None) -> dict[str, str]:
    """Return ETag and, where there is a SHA-256, Repr-Digest."""
    headers = {"etag": etag}
    if sha256 is not None:
        headers["repr-digest"] = format_repr_digest(sha256)
    return headers
