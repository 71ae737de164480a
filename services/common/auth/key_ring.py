"""The ring of secrets that sign and verify: each with a name (kid) and an optional end. Pure.

One text holds the ring, so that one variable or one file of container secrets does: entries separated by commas or line ends, each
`kid secret [end]`, or a secret alone. The first signs, all verify until their end, and so a secret is replaced without a moment in
which valid tokens are refused.
"""

import hashlib
import hmac
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

MIN_SECRET_BYTES = 32
"""RFC 7518, 3.2: a key of HS256 has at least the size of the hash."""
MAX_SECRET_BYTES = 1024
MAX_SECRETS = 16
_MIN_DISTINCT_CHARACTERS = 8
"""Sixty-four random hexadecimal digits have fewer in one of 10^15 cases."""

_KID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_EXAMPLE = re.compile(r"secret|example|change[-_ ]?me|password|your[-_]|0123456789|abcdefgh", re.IGNORECASE)
_SALT = b"gridcast"


@dataclass(frozen=True, slots=True)
class RingKey:
    """One secret. `not_after` is the Unix time of its end, infinity without one."""

    kid: str
    secret: bytes = field(repr=False)
    not_after: float = math.inf

    def derive(self, purpose: str) -> bytes:
        """Return a key of 32 bytes for one purpose: two purposes never share a key."""
        return derive_key(self.secret, purpose)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The secrets in their order; the first one signs."""

    keys: tuple[RingKey, ...]

    @property
    def signing_key(self) -> RingKey:
        """The key that signs."""
        return self.keys[0]

    def valid_keys(self, now: float) -> Sequence[RingKey]:
        """Return the keys that still verify at the Unix time `now`."""
        return [key for key in self.keys if now < key.not_after]

    def find(self, kid: str, now: float) -> RingKey | None:
        """Return the key of that name, None where there is none or it has ended."""
        return next((key for key in self.valid_keys(now) if key.kid == kid), None)


def parse_key_ring(text: str) -> KeyRing:
    """Return the ring. Raises ValueError, whose text never quotes a secret."""
    entries = [words for entry in re.split(r"[,\n]", text) if (words := entry.split())]
    if not entries:
        raise ValueError("there is no secret")
    if len(entries) > MAX_SECRETS:
        raise ValueError(f"there are more than {MAX_SECRETS} secrets")
    keys = tuple(_parse_key(words, number) for number, words in enumerate(entries, 1))
    if len({key.kid for key in keys}) != len(keys):
        raise ValueError("two secrets have the same name")
    return KeyRing(keys)


def _parse_key(words: Sequence[str], number: int) -> RingKey:
    match words:
        case [secret]:
            kid, end = "", ""
        case [kid, secret]:
            end = ""
        case [kid, secret, end]:
            pass
        case _:
            raise ValueError(f"secret {number} is not written as: name secret [end]")
    if kid and not _KID.match(kid):
        raise ValueError(f"the name of secret {number} is not 1 to 64 letters, digits, dots, hyphens or underscores")
    _check_secret(secret, number)
    encoded = secret.encode()
    return RingKey(kid or derive_key(encoded, "kid")[:6].hex(), encoded, _parse_end(end, number) if end else math.inf)


def _check_secret(secret: str, number: int) -> None:
    size = len(secret.encode())
    if size < MIN_SECRET_BYTES:
        raise ValueError(
            f"secret {number} has {size} bytes and needs {MIN_SECRET_BYTES}: openssl rand -hex 32 makes one"
        )
    if size > MAX_SECRET_BYTES:
        raise ValueError(f"secret {number} has more than {MAX_SECRET_BYTES} bytes")
    if len(set(secret)) < _MIN_DISTINCT_CHARACTERS or _EXAMPLE.search(secret):
        raise ValueError(
            f"secret {number} looks like an example: openssl rand -hex 32 makes one that cannot be guessed"
        )


def _parse_end(text: str, number: int) -> float:
    try:
        end = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"the end of secret {number} is not a time such as 2030-01-31T12:00:00Z") from None
    if end.tzinfo is None:
        raise ValueError(f"the end of secret {number} has no time zone: write 2030-01-31T12:00:00Z")
    return end.timestamp()


def derive_key(secret: bytes, purpose: str) -> bytes:
    """Return 32 bytes for one purpose by HKDF with SHA-256 (RFC 5869); `purpose` is its info."""
    return hkdf_sha256(secret, _SALT, f"gridcast {purpose}".encode(), 32)


def hkdf_sha256(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """Return `length` bytes, at most 8160, extracted and expanded as in RFC 5869, 2.2 and 2.3."""
    key = hmac.digest(salt or bytes(hashlib.sha256().digest_size), secret, "sha256")
    block, output = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), "sha256")
        output += block
    return output[:length]
