"""Parses a JSON Web Key Set (RFC 7517) into verification keys. Pure.

The algorithm is the key's own, or those of its family: RSA of 2048 bits or more, P-256, Ed25519. A set with a fault that shows a
mistake or an attack is refused as a whole: two keys of one name, a symmetric key in public, an RSA key that is too short.
"""

import json
from collections.abc import Sequence
from typing import Any

import jwt

from services.common.auth.keys import MAX_KID_LENGTH, UnknownKey, VerificationKey

MAX_KEYS_OF_SET = 64
MIN_RSA_BITS = 2048

_FAMILIES: dict[tuple[str, str | None], frozenset[str]] = {
    ("RSA", None): frozenset({"RS256", "PS256"}),
    ("EC", "P-256"): frozenset({"ES256"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
}


class KeySet:
    """The keys of one set by name. Equal for sets of equal content."""

    def __init__(self, keys: dict[str | None, VerificationKey], fingerprint: str) -> None:
        self._keys = keys
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self._keys)

    def find_keys(self, kid: str | None, algorithm: str) -> Sequence[VerificationKey]:
        """Return the key of that name; for a token without a name the one key of its algorithm. Raises UnknownKey."""
        if kid is not None:
            if (key := self._keys.get(kid)) is None:
                raise UnknownKey
            return [key]
        fitting = [key for key in self._keys.values() if algorithm in key.algorithms]
        return fitting if len(fitting) == 1 else []


def parse_key_set(body: bytes) -> KeySet:
    """Return the keys of a document. Raises ValueError, which says why the set is refused."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("it has no list of keys")
    if len(entries) > MAX_KEYS_OF_SET:
        raise ValueError(f"it has more than {MAX_KEYS_OF_SET} keys")
    keys: dict[str | None, VerificationKey] = {}
    for entry in entries:
        if (key := _parse_key(entry)) is None:
            continue
        kid = entry.get("kid")
        if kid is not None and not (isinstance(kid, str) and 0 < len(kid) <= MAX_KID_LENGTH):
            raise ValueError("a kid is not a text")
        if kid in keys:
            raise ValueError("two keys have the same kid")
        keys[kid] = key
    if not keys:
        raise ValueError("it has no key that this server can use")
    return KeySet(keys, json.dumps(entries, sort_keys=True))


def _parse_key(entry: dict[str, Any]) -> VerificationKey | None:
    """Return the key; None for one that is for another purpose or of a kind that is not supported (RFC 7517, 5)."""
    kty, curve, operations = entry.get("kty"), entry.get("crv"), entry.get("key_ops")
    if kty == "oct":
        raise ValueError("it has a symmetric key, which is a secret")
    if entry.get("use", "sig") != "sig" or (isinstance(operations, list) and "verify" not in operations):
        return None
    family = _FAMILIES.get((kty, curve if isinstance(curve, str) else None)) if isinstance(kty, str) else None
    own = entry.get("alg")
    algorithms = family if own is None or family is None else family & {own} if isinstance(own, str) else None
    if not algorithms:
        return None
    public: dict[str, Any] = {name: entry[name] for name in ("kty", "crv", "n", "e", "x", "y") if name in entry}
    try:
        key = jwt.PyJWK(public, min(algorithms)).key
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
        raise ValueError("a key is malformed") from None
    if kty == "RSA" and key.key_size < MIN_RSA_BITS:
        raise ValueError(f"an RSA key has less than {MIN_RSA_BITS} bits")
    return VerificationKey(key, algorithms)
