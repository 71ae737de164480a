"""The garbage collector's side of the store's port: delete what is no longer referenced, publish what was left in the outbox."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from services.common.store.upload_store import OutboxEvent


class GarbageCollector(Protocol):
    """Deletes expired uploads, replaced versions and orphaned blocks, by the store's own clock. Raises ServiceUnavailable.

    Any number of collectors may run at the same time, and each may be killed at any point: the next run completes the work.
    """

    def list_due(self) -> AsyncGenerator[str, None]:
        """Yield opaque ids of entries whose time has come, for `collect` and `list_unpublished`."""

    async def collect(self, media_id: str) -> int:
        """Expire uploads, delete versions that are due, forget finished uploads whose time has passed.

        Returns how many versions and unfinished uploads had their blocks deleted.
        """

    async def list_unpublished(self, media_id: str) -> Sequence[OutboxEvent]:
        """Return the outbox events that are older than `StoreTimings.outbox_retry_after`, and those before them, in order."""

    async def count_quotas(self) -> int:
        """Count again what each owner has stored and reserved; return the number of owners. Without a quota 0."""

    async def delete_orphans(self) -> int:
        """Delete blocks that are at least a day old and that no entry references; return the number of files they belonged to.

        Each call examines a bounded part of the store and continues where the previous one stopped.
        """
