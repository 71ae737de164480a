"""Checkpoints: the durable offset of one upload follows what is stored."""

import asyncio
import time
from contextlib import suppress
from datetime import datetime

from services.common.store.upload_store import BlockWriter
from services.common.uploads.lease import Lease

CHECKPOINT_SPACING_SECONDS = 0.02
"""Between two scheduled checkpoints. A client that sends 100 MB a second or less has one for each batch of 2 MiB."""


class OffsetCheckpoint:
    """The offset that other processes read, beginning at `durable_offset`. Must not be called concurrently."""

    def __init__(self, store: BlockWriter, lease: Lease, durable_offset: int) -> None:
        self.durable_offset = durable_offset
        self.written_at = time.monotonic()
        self.pending: asyncio.Task[datetime] | None = None
        self._scheduled: tuple[int, int | None] = durable_offset, None
        self._hurried = asyncio.Event()
        self._store = store
        self._lease = lease

    async def write(self, offset: int, tail: bytes, length: int | None, *, keep_lease: bool) -> datetime:
        """Set the offset. Returns when the upload expires. Raises as `BlockWriter.set_offset`."""
        await self.wait()
        return await self._write_offset(offset, tail, length, keep_lease=keep_lease)

    def schedule(self, offset: int, length: int | None) -> None:
        """Set the offset soon, in place of one that still waits for its time, beside the batches that follow.

        It takes some 2 ms, half the time in which a fast client sends a batch. Raises what the last one raised.
        """
        self._scheduled = offset, length
        if self.pending is not None and self.pending.done():
            self.pending.result()
            self.pending = None
        if self.pending is None:
            self._hurried.clear()
            self.pending = asyncio.create_task(self._write_scheduled())

    async def hurry(self) -> None:
        """Set the scheduled offset now and wait for it, whatever it raises; a cancellation here does not cancel it."""
        self._hurried.set()
        if self.pending is not None:
            await asyncio.wait({self.pending})

    async def wait(self) -> None:
        """As `hurry`, but raise what it raised."""
        await self.hurry()
        if self.pending is not None:
            self.pending.result()
            self.pending = None

    async def _write_scheduled(self) -> datetime:
        """Set the latest scheduled offset, and again where a batch was stored meanwhile."""
        while True:
            delay = self.written_at + CHECKPOINT_SPACING_SECONDS - time.monotonic()
            if delay > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._hurried.wait()
            offset, length = self._scheduled
            expires_at = await self._write_offset(offset, b"", length, keep_lease=True)
            if self._scheduled[0] == offset:
                return expires_at

    async def _write_offset(self, offset: int, tail: bytes, length: int | None, *, keep_lease: bool) -> datetime:
        requested_at = time.monotonic()
        advanced = offset != self.durable_offset
        expires_at = await self._store.set_offset(
            self._lease.upload, offset, tail, length, keep_lease=keep_lease, extend_expiry=advanced
        )
        self._lease.mark_renewed(requested_at)
        self.durable_offset, self.written_at = offset, time.monotonic()
        return expires_at
