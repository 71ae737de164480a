"""The store's port for revocations, and for what else a link does not say of itself: the truth, which survives Redis."""

from collections.abc import Sequence
from typing import Protocol

from services.common.auth.revocations import Revocation


class LinkUses(Protocol):
    """Knows which links that may be used once were used. Raises ServiceUnavailable."""

    async def claim_link(self, link_id: str, until: float) -> bool:
        """Take a link that may be used once: True for the first who asks, durably and until the Unix time `until`."""

    async def release_link(self, link_id: str) -> None:
        """Give a claimed link back: nothing came of its use. Idempotent."""


class RevocationStore(LinkUses, Protocol):
    """Keeps revocations. Raises ServiceUnavailable."""

    async def add(self, revocation: Revocation) -> None:
        """Store a revocation durably. A later one of the same kind and value replaces it."""

    async def list_current(self, now: float) -> Sequence[Revocation]:
        """Return those that have not ended at the Unix time `now`: of tokens and subjects, of links, then prolonged links.

        Of the first two, and of the last two, MAX_REVOCATIONS are read: those that end last. So links push out no tokens.
        """
