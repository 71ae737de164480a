"""How the durable offset of one upload follows what is stored. It knows the store's port, and no bytes but the tail."""

import asyncio
import time
from datetime import datetime

from services.common.store.port import UploadStore
from services.upload.lease import Lease


class Marks:
    """The offset that others see, from `saved` on. For one caller at a time."""

    def __init__(self, store: UploadStore, lease: Lease, saved: int) -> None:
        self.saved = saved
        self.saved_at = time.monotonic()
        self.under_way: asyncio.Task[datetime] | None = None
        self._store = store
        self._lease = lease

    async def now(self, offset: int, tail: bytes, length: int | None, *, writing: bool) -> datetime:
        """Set it. Returns when the upload expires. Raises as `UploadStore.move`."""
        await self.settled()
        return await self._set(offset, tail, length, writing=writing)

    async def soon(self, offset: int, length: int | None) -> None:
        """Set it while the next batch is stored: it takes 1.4 to 2.3 ms beside the 10 to 13 ms of a batch."""
        await self.settled()
        self.under_way = asyncio.create_task(self._set(offset, b"", length, writing=True))

    async def settled(self) -> None:
        """Wait for the one under way, and raise what it raised; being cancelled here leaves it under way."""
        if self.under_way is not None:
            await asyncio.wait({self.under_way})
            self.under_way.result()
            self.under_way = None

    async def _set(self, offset: int, tail: bytes, length: int | None, *, writing: bool) -> datetime:
        began = time.monotonic()
        moved = offset != self.saved
        upload = self._lease.upload
        expires = await self._store.move(upload, offset, tail, length, writing=writing, moved=moved)
        self._lease.renewed(began)
        self.saved, self.saved_at = offset, time.monotonic()
        return expires
