"""The header fields of tus 1.0.0. Pure: texts in, values out, BadRequest for what is malformed."""

import re
from dataclasses import dataclass

from services.common.errors import BadRequest, ChecksumMismatch
from services.upload.digests import Check, decoded

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,creation-defer-length,checksum,expiration,termination,concatenation"
CHECKSUMS = "sha1,sha256"
CONTENT_TYPE = "application/offset+octet-stream"
PATH = "/file/tus/"
MAX_METADATA = 4096
"""Bytes of Upload-Metadata: it is kept in the document of the file's name, for up to 64 uploads."""
MAX_PARTS = 256

_NUMBER = re.compile(r"[0-9]{1,18}\Z")
_KEY = re.compile(r"[!-+\--~]{1,128}\Z")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_DIGESTS = {"sha1": 20, "sha256": 32}


@dataclass(frozen=True, slots=True)
class Concat:
    """Upload-Concat: a part to be put together later, or the addresses of the parts."""

    parts: tuple[str, ...] = ()


def number(name: str, text: str) -> int:
    """A non-negative integer of at most 18 digits, which fits into MongoDB's 64 bits."""
    if not _NUMBER.match(text):
        raise BadRequest(f"{name} is not a number of bytes")
    return int(text)


def length_of(upload_length: str | None, defer: str | None) -> int | None:
    """The length at creation; None where it comes later."""
    if upload_length is not None and defer is None:
        return number("Upload-Length", upload_length)
    if upload_length is None and defer == "1":
        return None
    raise BadRequest("either Upload-Length is needed, or Upload-Defer-Length: 1")


def metadata(text: str) -> dict[str, str]:
    """Upload-Metadata: pairs of a key and a value in base64, both UTF-8 here. A key without a value has an empty one."""
    if len(text) > MAX_METADATA:
        raise BadRequest(f"Upload-Metadata is longer than {MAX_METADATA} bytes")
    values: dict[str, str] = {}
    for pair in text.split(",") if text.strip() else ():
        key, _, value = pair.strip().partition(" ")
        raw = decoded(value.strip())
        if not _KEY.match(key) or raw is None:
            raise BadRequest("Upload-Metadata is not a list of keys and base64 values")
        if key in values:
            raise BadRequest(f"Upload-Metadata holds {key!r} twice")
        try:
            values[key] = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadRequest(f"the value of {key!r} in Upload-Metadata is not UTF-8") from error
    return values


def checksum(text: str | None) -> list[Check]:
    """Upload-Checksum."""
    if text is None:
        return []
    algorithm, _, value = text.strip().partition(" ")
    expected = decoded(value.strip())
    if algorithm not in _DIGESTS:
        raise BadRequest(f"Upload-Checksum knows {CHECKSUMS}", {"tus-checksum-algorithm": CHECKSUMS})
    if expected is None or len(expected) != _DIGESTS[algorithm]:
        raise BadRequest("Upload-Checksum does not hold a digest in base64")
    return [Check(algorithm, expected, ChecksumMismatch("the bytes do not have the checksum that was sent with them"))]


def concat(text: str | None) -> Concat | None:
    """Upload-Concat; None where the upload is a file of its own."""
    if text is None:
        return None
    if text.strip() == "partial":
        return Concat()
    kind, _, urls = text.partition(";")
    parts = tuple(url.rpartition("/")[2] for url in urls.split())
    if kind.strip() != "final" or not parts or any(not _PART.match(part) for part in parts):
        raise BadRequest("Upload-Concat is neither partial nor final with the addresses of its parts")
    if len(parts) > MAX_PARTS or len(set(parts)) != len(parts):
        raise BadRequest(f"a final upload has up to {MAX_PARTS} parts, each of them once")
    return Concat(parts)
