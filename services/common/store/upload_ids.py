"""Ids of uploads: which entry of the store, and a secret that cannot be guessed. Pure but for the random bits.

`MEDIA-RECORD-SECRET`: the id of the name's entry, the id of the upload in it, and 128 random bits in hex. The first two follow from
the time and a counter, the secret makes the address of an upload a capability. The store keeps its SHA-256 only, so that who reads
the database cannot continue an upload. An upload that was begun before there were secrets has none, and an id without one.
"""

import hashlib
import re
import secrets
from typing import NamedTuple

SECRET_BYTES = 16

_FORM = re.compile(rf"([0-9a-f]{{24}})-([0-9a-f]{{24}})(?:-([0-9a-f]{{{2 * SECRET_BYTES}}}))?")


class UploadId(NamedTuple):
    """The parts of an id. `secret_digest` is the SHA-256 of the secret in hex, None where there is no secret."""

    media_id: str
    record_id: str
    secret_digest: str | None


def make_secret() -> str:
    """Return a new secret."""
    return secrets.token_hex(SECRET_BYTES)


def digest_secret(secret: str) -> str | None:
    """Return what the store keeps of a secret; None of an empty one."""
    return hashlib.sha256(secret.encode()).hexdigest() if secret else None


def format_upload_id(media_id: object, record_id: object, secret: str) -> str:
    """Write an id."""
    return f"{media_id}-{record_id}-{secret}" if secret else f"{media_id}-{record_id}"


def parse_upload_id(text: str) -> UploadId | None:
    """Return the parts of an id, None where the text has not that form."""
    found = _FORM.fullmatch(text)
    return None if found is None else UploadId(found[1], found[2], digest_secret(found[3] or ""))


def secret_of(upload_id: str) -> str:
    """Return the secret in an id of the right form, empty where it has none."""
    return upload_id.partition("-")[2].partition("-")[2]
