"""Addresses by which an upload is played before it is complete: which upload, and a tag that cannot be guessed. Pure.

`MEDIA-RECORD-TAG`: the first two parts of the upload's id (`upload_ids`), and 128 bits in hex that follow from its secret. The tag
is a MAC whose key is the SHA-256 of the secret, the part of it that the store keeps. So the address can be made of the id, and not
the id, which grants writing, of the address; every process with the store can check an address, it is the same wherever the upload
continues, and nothing is stored for it.
"""

import hashlib
import hmac
import re
from typing import NamedTuple

from services.common.store.upload_ids import parse_upload_id

TAG_BYTES = 16

_ADDRESS_FORM = re.compile(rf"([0-9a-f]{{24}})-([0-9a-f]{{24}})-([0-9a-f]{{{2 * TAG_BYTES}}})(?:\.[a-z2-7]*)?")
_PURPOSE = b"gridcast: play while uploading\0"


class PlayAddress(NamedTuple):
    """The parts of an address."""

    media_id: str
    record_id: str
    tag: str

    def is_of(self, secret_digest: str | None) -> bool:
        """Whether the tag is that of the upload with this digest of its secret. Compares in constant time."""
        return secret_digest is not None and hmac.compare_digest(self.tag, _tag(self.record_id, secret_digest))


def make_play_address(upload_id: str) -> str | None:
    """Return the address of an upload; None for an id without a secret, as they were before there were secrets."""
    found = parse_upload_id(upload_id)
    if found is None or found.secret_digest is None:
        return None
    return f"{found.media_id}-{found.record_id}-{_tag(found.record_id, found.secret_digest)}"


def parse_play_address(text: str) -> PlayAddress | None:
    """Return the parts of an address without its seal (`auth.play_seals`), None where the text has not that form."""
    found = _ADDRESS_FORM.fullmatch(text)
    return None if found is None else PlayAddress(found[1], found[2], found[3])


def _tag(record_id: str, secret_digest: str) -> str:
    mac = hmac.new(secret_digest.encode(), _PURPOSE + record_id.encode(), hashlib.sha256)
    return mac.digest()[:TAG_BYTES].hex()
