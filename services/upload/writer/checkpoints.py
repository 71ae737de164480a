"""How the durable offset of one upload follows what is stored. It knows the store's port, and no bytes but the tail."""

import asyncio
import time
from datetime import datetime

from services.common.store.upload_store import UploadStore
from services.upload.writer.lease import Lease


class OffsetCheckpoint:
    """The offset that others see, from `saved` on. For one caller at a time."""

    def __init__(self, store: UploadStore, lease: Lease, durable_offset: int) -> None:
        self.durable_offset = durable_offset
        self.written_at = time.monotonic()
        self.pending: asyncio.Task[datetime] | None = None
        self._store = store
        self._lease = lease

    async def write(self, offset: int, tail: bytes, length: int | None, *, keep_lease: bool) -> datetime:
        """Set it. Returns when the upload expires. Raises as `UploadStore.move`."""
        await self.wait()
        return await self._write_offset(offset, tail, length, keep_lease=keep_lease)

    async def schedule(self, offset: int, length: int | None) -> None:
        """Set it while the next batch is stored: it takes 1.4 to 2.3 ms beside the 10 to 13 ms of a batch."""
        await self.wait()
        self.pending = asyncio.create_task(self._write_offset(offset, b"", length, keep_lease=True))

    async def wait(self) -> None:
        """Wait for the one under way, and raise what it raised; being cancelled here leaves it under way."""
        if self.pending is not None:
            await asyncio.wait({self.pending})
            self.pending.result()
            self.pending = None

    async def _write_offset(self, offset: int, tail: bytes, length: int | None, *, keep_lease: bool) -> datetime:
        began = time.monotonic()
        moved = offset != self.durable_offset
        upload = self._lease.upload
        expires = await self._store.set_offset(upload, offset, tail, length, keep_lease=keep_lease, extend_expiry=moved)
        self._lease.mark_renewed(began)
        self.durable_offset, self.written_at = offset, time.monotonic()
        return expires
