"""The sides of the store's port that are about the store itself: its free space, its schema, its health."""

from typing import Protocol


class FreeSpaceReader(Protocol):
    """Reports the free space. Raises GridcastError."""

    async def get_free_bytes(self) -> int | None:
        """Return how many bytes can still be stored, None where the store cannot tell."""


class SchemaOwner(Protocol):
    """Creates what the store needs: indexes, tables, folders."""

    async def ensure_schema(self) -> None:
        """Create what is missing. Idempotent. Raises ServiceUnavailable, or RuntimeError where the store is not usable."""

    async def check_health(self) -> None:
        """Check that the store responds and that its schema is complete. Raises GridcastError."""
