"""Parses the header fields of tus 1.0.0. Pure. Raises BadRequest for malformed values."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from services.common.errors import BadRequest, ChecksumMismatch
from services.common.http.tus import parse_number
from services.common.uploads.file_metadata import encode_file_metadata
from services.upload.digests import DigestVerifier, decode_base64

TUS_EXTENSIONS = "creation,creation-with-upload,creation-defer-length,checksum,expiration,termination,concatenation"
CHECKSUM_ALGORITHMS = "sha1,sha256"
TUS_PATH = "/file/tus/"
MAX_METADATA_BYTES = 24 * 1024
"""Bytes of Upload-Metadata: room for the metadata of a file in base64. The store keeps it with every unfinished upload."""
MAX_CONCAT_PARTS = 256

_UPLOAD_KEYS = frozenset({"filename", "filetype", "folder", "sid"})
"""The keys of Upload-Metadata that say where and how to store the file."""
_METADATA_KEY = re.compile(r"[!-+\--~]{1,128}\Z")
_UPLOAD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_DIGEST_SIZES = {"sha1": 20, "sha256": 32}


@dataclass(frozen=True, slots=True)
class UploadConcat:
    """Upload-Concat: a partial upload, or with `part_ids` the final upload that joins them."""

    part_ids: tuple[str, ...] = ()


def parse_upload_length(upload_length: str | None, defer: str | None) -> int | None:
    """Return the length stated at creation, None where it is deferred."""
    if upload_length is not None and defer is None:
        return parse_number("Upload-Length", upload_length)
    if upload_length is None and defer == "1":
        return None
    raise BadRequest("Upload-Length or Upload-Defer-Length: 1 is required")


def parse_metadata(text: str) -> dict[str, str]:
    """Parse Upload-Metadata: pairs of a key and a value in base64 of UTF-8. A key without a value has an empty one."""
    if len(text) > MAX_METADATA_BYTES:
        raise BadRequest(f"Upload-Metadata is longer than {MAX_METADATA_BYTES} bytes")
    values: dict[str, str] = {}
    for pair in text.split(",") if text.strip() else ():
        key, _, value = pair.strip().partition(" ")
        raw = decode_base64(value.strip())
        if not _METADATA_KEY.match(key) or raw is None:
            raise BadRequest("malformed Upload-Metadata: expected keys with base64 values")
        if key in values:
            raise BadRequest(f"duplicate key {key!r} in Upload-Metadata")
        try:
            values[key] = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadRequest(f"the value of {key!r} in Upload-Metadata is not UTF-8") from error
    return values


def encode_metadata_of_file(metadata: Mapping[str, str]) -> str:
    """Return the keys that are not ours as the file's metadata, a JSON object. Raises ContentTooLarge."""
    return encode_file_metadata({key: value for key, value in metadata.items() if key not in _UPLOAD_KEYS})


def parse_checksum(text: str | None) -> list[DigestVerifier]:
    """Parse Upload-Checksum; no verifier where there is none."""
    if text is None:
        return []
    algorithm, _, value = text.strip().partition(" ")
    expected = decode_base64(value.strip())
    if algorithm not in _DIGEST_SIZES:
        raise BadRequest(
            f"Upload-Checksum knows {CHECKSUM_ALGORITHMS}", {"tus-checksum-algorithm": CHECKSUM_ALGORITHMS}
        )
    if expected is None or len(expected) != _DIGEST_SIZES[algorithm]:
        raise BadRequest("malformed Upload-Checksum: expected a base64 digest")
    return [
        DigestVerifier(
            algorithm, expected, ChecksumMismatch("checksum mismatch: the body does not match Upload-Checksum")
        )
    ]


def parse_concat(text: str | None) -> UploadConcat | None:
    """Parse Upload-Concat; None where the upload is a file of its own."""
    if text is None:
        return None
    if text.strip() == "partial":
        return UploadConcat()
    kind, _, urls = text.partition(";")
    parts = tuple(url.rpartition("/")[2] for url in urls.split())
    if kind.strip() != "final" or not parts or any(not _UPLOAD_ID.match(part) for part in parts):
        raise BadRequest("malformed Upload-Concat: expected partial, or final with the URLs of partial uploads")
    if len(parts) > MAX_CONCAT_PARTS or len(set(parts)) != len(parts):
        raise BadRequest(f"a final upload has up to {MAX_CONCAT_PARTS} different parts")
    return UploadConcat(parts)
