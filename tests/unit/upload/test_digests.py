"""services.upload.digests: Content-Digest and Repr-Digest (RFC 9530)."""

import base64
import hashlib

import pytest

from services.common.errors import BadRequest
from services.upload import digests


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_digest_fields() -> None:
    good = f"sha-256=:{base64_text(hashlib.sha256(b'ab').digest())}:"
    long = f"sha-512=:{base64_text(hashlib.sha512(b'ab').digest())}:;p=1"
    for field in ([good], [long], [good, long], [f"{good} , {long}"], [f"md5=:AAAA:, {good}, unixsum=:AA==:"]):
        for check in digests.parse_digest_field("Content-Digest", field):
            check.update(b"ab")
            check.verify()
    (check,) = digests.parse_digest_field("Content-Digest", [good])
    with pytest.raises(BadRequest, match="Content-Digest"):
        check.verify()
    assert digests.parse_digest_field("Content-Digest", ["md5=:AAAA:", "sha=:AAAA:"]) == []
    # RFC 8941, 3.2: of several members of one name the last one counts; and each is a hash over every byte.
    bad = good.replace(good[9], "B" if good[9] == "A" else "A", 1)
    (last,) = digests.parse_digest_field("Content-Digest", [", ".join([bad] * 300), good])
    assert last.expected == check.expected
    assert digests.format_repr_digest(hashlib.sha256(b"ab").hexdigest()) == good


@pytest.mark.parametrize(
    "text", ["sha-256", "sha-256=x", "sha-256=:AAAA:", "sha-256=:!:", "SHA-256=:AAAA:", "sha-256=:AAAA: x"]
)
def test_a_malformed_digest_is_not_ignored(text: str) -> None:
    with pytest.raises(BadRequest):
        digests.parse_digest_field("Repr-Digest", [text])
