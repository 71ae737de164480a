"""Socket ids that prove whose they are: half of a sid is random, the other half a MAC over it and the subject. Pure.

So every service can say without a look-up whether a sid is that of the caller: the socket service when it is pushed to, the upload
service when it is named for progress.
"""

import base64
import hmac
import secrets
from collections.abc import Callable

from services.common.auth.key_ring import KeyRing

_RANDOM_BYTES = 16
_SID_LENGTH = 52


class SidSigner:
    """Makes sids and recognises them."""

    def __init__(self, ring: KeyRing, clock: Callable[[], float]) -> None:
        """`clock` returns the Unix time: a key that has ended recognises nothing."""
        self._keys = [(key.derive("sids"), key.not_after) for key in ring.keys]
        self._clock = clock

    def new_sid(self, subject: str) -> str:
        """Return a new sid of a subject: 32 bytes in base32 without padding, which cannot be guessed."""
        random = secrets.token_bytes(_RANDOM_BYTES)
        return _encode(random + _mac(self._keys[0][0], random, subject))

    def is_owner(self, subject: str, sid: str) -> bool:
        """Return whether a sid was made for a subject. An anonymous caller owns none: it cannot prove it."""
        if not subject or len(sid) != _SID_LENGTH:
            return False
        try:
            decoded = base64.b32decode(f"{sid}====")
        except ValueError:
            return False
        random, mac = decoded[:_RANDOM_BYTES], decoded[_RANDOM_BYTES:]
        # Of the last character four bits carry nothing: only one spelling is the sid.
        now = self._clock()
        matches = [hmac.compare_digest(_mac(key, random, subject), mac) for key, end in self._keys if now < end]
        return any(matches) and _encode(decoded) == sid


def _mac(key: bytes, random: bytes, subject: str) -> bytes:
    return hmac.digest(key, random + subject.encode(), "sha256")[:_RANDOM_BYTES]


def _encode(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=")
