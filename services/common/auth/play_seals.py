"""Seals of play addresses: who began the upload, so that its address ends when that token or subject is revoked. Pure.

A player sends nothing but the address, and nothing is stored for it. So the address itself says whose it is:

    <address>.<seal>

The seal is base32 of a MAC and a JSON array: subject, `iat`, `jti`, and the id of the link where one has authorised the upload. The
MAC is over the array and the address, and its key is derived from the secret of the ring.
"""

import base64
import binascii
import hmac
import json
import math
from collections.abc import Callable

from services.common.auth.identity import Identity
from services.common.auth.key_ring import KeyRing
from services.common.auth.signed_links import Link
from services.common.media import MediaName

SEAL_MAC_BYTES = 16


def describe_player(identity: Identity | None) -> str:
    """Return what a seal says of who began an upload; empty where authentication is off."""
    if identity is None:
        return ""
    link = "" if identity.link is None else identity.link.id
    return json.dumps([identity.subject, identity.issued_at, identity.token_id, link], separators=(",", ":"))


class PlaySealer:
    """Seals addresses and opens seals. `clock` returns the Unix time: a key that has ended opens nothing."""

    def __init__(self, ring: KeyRing, clock: Callable[[], float]) -> None:
        self._keys = [(key.derive("play addresses"), key.not_after) for key in ring.keys]
        self._clock = clock

    def seal(self, address: str, player: str) -> str:
        """Return an address with its seal. `player` is what `describe_player` has returned."""
        data = player.encode()
        sealed = _mac(self._keys[0][0], address, data) + data
        return f"{address}.{base64.b32encode(sealed).decode().rstrip('=').lower()}"

    def open(self, sealed_address: str) -> Identity | None:
        """Return who began the upload at an address; None where it has no seal of this server."""
        address, _, seal = sealed_address.partition(".")
        try:
            decoded = base64.b32decode(seal.upper() + "=" * (-len(seal) % 8))
        except (ValueError, binascii.Error):
            return None
        mac, data = decoded[:SEAL_MAC_BYTES], decoded[SEAL_MAC_BYTES:]
        now = self._clock()
        if not any([hmac.compare_digest(_mac(key, address, data), mac) for key, end in self._keys if now < end]):  # noqa: C419  # all of them
            return None
        subject, issued_at, token_id, link_id = json.loads(data)
        link = Link(link_id, "put", MediaName("", ""), math.inf, subject) if link_id else None
        return Identity(subject, issued_at=issued_at, token_id=token_id, link=link)


def _mac(key: bytes, address: str, data: bytes) -> bytes:
    return hmac.digest(key, address.encode() + b"\0" + data, "sha256")[:SEAL_MAC_BYTES]
