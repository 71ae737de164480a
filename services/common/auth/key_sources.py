"""The keys of the mode hs256: those of the ring. Pure."""

from collections.abc import Sequence

from services.common.auth.key_ring import KeyRing
from services.common.auth.keys import VerificationKey

_HS256 = frozenset({"HS256"})


class RingKeys:
    """A `KeySource` of a key ring."""

    def __init__(self, ring: KeyRing) -> None:
        self._keys = {key.kid: VerificationKey(key.secret, _HS256, key.not_after) for key in ring.keys}

    def find_keys(self, kid: str | None, algorithm: str, now: float) -> Sequence[VerificationKey]:
        """Return the key of that name, or all for a token without a name. Ended keys are left out."""
        del algorithm  # every key has the same
        named = self._keys.values() if kid is None else [key for name, key in self._keys.items() if name == kid]
        return [key for key in named if now < key.not_after]
