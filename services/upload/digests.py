"""Parses and verifies digest fields (RFC 9530). Pure."""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from typing import Any

from services.common.errors import BadRequest, GridcastError

# RFC 8941: a dictionary member whose value is a byte sequence; parameters may follow and are ignored.
_DICTIONARY_MEMBER = re.compile(r"[ \t]*([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):(?:;[^,]*)?[ \t]*\Z")
_ACTIVE_ALGORITHMS = {"sha-256": "sha256", "sha-512": "sha512"}
"""The algorithms that RFC 9530, 5 calls active. Others are insecure and ignored."""


class DigestVerifier:
    """Hashes bytes and compares the digest with the expected one; `mismatch_error` is raised where they differ."""

    def __init__(self, algorithm: str, expected: bytes, mismatch_error: GridcastError) -> None:
        self.algorithm = algorithm
        self.expected = expected
        self._mismatch_error = mismatch_error
        self._hash: Any = hashlib.new(algorithm, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        """Add bytes."""
        self._hash.update(data)

    def verify(self) -> None:
        """Raise the mismatch error unless the bytes have the expected digest."""
        self.verify_digest(self._hash.digest())

    def verify_digest(self, digest: bytes) -> None:
        """As `verify`, for a digest that was computed elsewhere."""
        if digest != self.expected:
            raise self._mismatch_error


def parse_digest_field(field_name: str, values: Iterable[str]) -> list[DigestVerifier]:
    """Return verifiers for the digests in the lines of a field. Raises BadRequest for a malformed one: its sender relies on it."""
    members = [member for value in values for member in value.split(",") if member.strip(" \t")]
    found: dict[str, DigestVerifier] = {}  # of two members with one key the last counts (RFC 8941, 3.2)
    for member in members:
        match = _DICTIONARY_MEMBER.match(member)
        if match is None:
            raise BadRequest(f"{field_name} is not a dictionary of digests (RFC 9530)")
        if (algorithm := _ACTIVE_ALGORITHMS.get(match[1])) is None:
            continue
        expected = decode_base64(match[2])
        if expected is None or len(expected) != hashlib.new(algorithm).digest_size:
            raise BadRequest(f"{field_name} holds a {match[1]} of the wrong length")
        found[algorithm] = DigestVerifier(
            algorithm, expected, BadRequest(f"the content does not have the digest in {field_name}")
        )
    return list(found.values())


def decode_base64(text: str) -> bytes | None:
    """Decode base64; None where the text is malformed."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def format_repr_digest(sha256: str) -> str:
    """Return the value of `Repr-Digest` for a SHA-256 in hex."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode('ascii')}:"
