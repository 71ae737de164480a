"""Verification keys, and where they come from. Pure.

Without the library that verifies signatures: it takes 15 MiB, which a process without authentication does not load.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

LEEWAY_SECONDS = 10.0
"""By which the clocks of an issuer and of this machine may differ."""
MAX_KID_LENGTH = 256
MAX_SUBJECT_LENGTH = 255
"""OpenID Connect Core, 2: `sub` has at most 255 characters."""

Clock = Callable[[], float]
"""Returns the Unix time in seconds."""


class UnknownKey(Exception):
    """The key set has no key for a token. A newer set may have it."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key with the algorithms that it may verify. `not_after` is the Unix time of its end."""

    key: Any
    algorithms: frozenset[str]
    not_after: float = math.inf


class KeySource(Protocol):
    """The keys that tokens are verified with."""

    def find_keys(self, kid: str | None, algorithm: str, now: float) -> Sequence[VerificationKey]:
        """Return the keys to try for a token's `kid`, None where it has none. Raises UnknownKey, and ServiceUnavailable."""
