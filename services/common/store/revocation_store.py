"""The store's port for revocations: the truth, which survives Redis."""

from collections.abc import Sequence
from typing import Protocol

from services.common.auth.revocations import Revocation


class RevocationStore(Protocol):
    """Keeps revocations. Raises ServiceUnavailable."""

    async def add(self, revocation: Revocation) -> None:
        """Store a revocation durably. A later one of the same token or subject replaces it."""

    async def list_current(self, now: float) -> Sequence[Revocation]:
        """Return those that have not ended at the Unix time `now`."""
