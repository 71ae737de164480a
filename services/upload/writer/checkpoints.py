"""Checkpoints: the durable offset of one upload follows what is stored."""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from services.common.store.upload_store import BlockWriter, Checkpoint
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

    async def write_blocks(
        self,
        first_block: int,
        blocks: Sequence[bytes],
        hash_blocks: Callable[[], object],
        checkpoint: Checkpoint | None,
    ) -> None:
        """Store blocks, and set the offset behind them where `checkpoint` is given. Raises as `BlockWriter.write_blocks`, and
        Conflict where the lease is lost.

        It is set in the same step where the store does that, otherwise while the next batch is being stored: with GridFS it takes
        1.4 to 2.3 ms beside the 10 to 13 ms of a batch. Never beside an older one, which could be set after it.
        """
        await self._lease.ensure_held()
        requested_at = time.monotonic()
        is_idle = self.pending is None or self.pending.done()
        if is_idle:
            await self.wait()
        expires_at = await self._store.write_blocks(
            self._lease.upload, first_block, blocks, hash_blocks, checkpoint if is_idle else None
        )
        if checkpoint is None:
            return
        if expires_at is None:
            await self.wait()
            self.pending = asyncio.create_task(
                self._write_offset(checkpoint.offset, b"", checkpoint.length, keep_lease=True)
            )
        else:
            self._mark_written(checkpoint.offset, requested_at)

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
        self._mark_written(offset, requested_at)
        return expires_at

    def _mark_written(self, offset: int, requested_at: float) -> None:
        """Note that the store has set the offset, and with it the lease, in a call made at `requested_at`."""
        self._lease.mark_renewed(requested_at)
        self.durable_offset, self.written_at = offset, time.monotonic()
