"""The way of bytes into the store: cut into blocks, hashed, stored batch by batch, committed or taken back. It knows no HTTP.

One batch is in flight while the next one fills: the client is read no faster than the store writes, and an upload holds two batches
at the most. A cancelled call never stops a write half-way: whoever gives up calls `discard`, which waits for the last write first.
"""

import asyncio
import hashlib
import logging
from collections.abc import Sequence

from services.common.errors import Conflict, GridcastError, TooLarge, Unavailable
from services.common.media import MediaInfo, MediaName
from services.common.store.port import Announcement, Upload, UploadStore, Written

BATCH_BLOCKS = 8
"""Blocks in one insert: 2 MiB, where larger ones were no faster and smaller ones were."""
RENEW_SECONDS = 10.0
"""A third of the lease: two renewals may fail before it ends."""
DISCARD_SECONDS = 10.0
"""What cannot be taken back in this time is left to the janitor."""

_log = logging.getLogger("gridcast.upload")


class Receiver:
    """One upload from its first byte to commit or discard. For one caller at a time."""

    def __init__(self, store: UploadStore, max_length: int) -> None:
        self.received = 0
        self.upload: Upload | None = None
        self._store = store
        self._max = max_length
        self._buffer = bytearray()
        self._blocks = 0
        self._hash = hashlib.sha256()
        self._flight: asyncio.Task[None] | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._lost: GridcastError | None = None

    async def begin(self, name: MediaName | None) -> None:
        """Take the name now, so that one that is taken is refused before the body is read. Raises as `UploadStore.begin`."""
        self.upload = await self._store.begin(name)
        self._renewal = asyncio.create_task(self._renew(self.upload))

    async def write(self, data: bytes) -> None:
        """Take the next bytes; waits while the store is behind. Raises TooLarge, or what the store raised for an earlier batch."""
        self.received += len(data)
        if self.received > self._max:
            raise TooLarge(f"the file is larger than {self._max} bytes")
        self._buffer += data
        batch = BATCH_BLOCKS * self._store.block_size
        while len(self._buffer) >= batch:
            await self._flush(batch)

    async def finish(self, name: MediaName, content_type: str) -> tuple[MediaInfo, Announcement]:
        """Store what is left and make the file visible under `name`. Raises as `UploadStore.rename` and `commit`."""
        if self.upload is None:
            await self.begin(name)
        if self._buffer:
            await self._flush(len(self._buffer))
        await self._landed()
        if self.upload is None:  # begin() sets it
            raise RuntimeError("no upload")
        if self.upload.name is None:
            await self._stop_renewal()
            self.upload = await self._store.rename(self.upload, name)
            self._renewal = asyncio.create_task(self._renew(self.upload))
        written = Written(self.received, content_type, self._hash.hexdigest())
        result = await self._store.commit(self.upload, written)
        await self._stop_renewal()
        return result

    async def discard(self) -> None:
        """Take everything back. Never raises: what fails here, the janitor finishes."""
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                await self._stop_renewal()
                if self._flight is not None:
                    await asyncio.wait({self._flight})
                if self.upload is not None:
                    await self._store.abort(self.upload)
        except (GridcastError, TimeoutError) as error:
            _log.warning("an unfinished upload is left to the janitor: %s", error)

    async def _flush(self, count: int) -> None:
        await self._landed()
        if self._lost is not None:
            raise self._lost
        if self.upload is None:
            await self.begin(None)
        view = memoryview(self._buffer)
        size = self._store.block_size
        blocks = [bytes(view[start : min(start + size, count)]) for start in range(0, count, size)]
        view.release()
        del self._buffer[:count]
        self._flight = asyncio.create_task(self._put(self._blocks, blocks))
        self._blocks += len(blocks)

    async def _put(self, first: int, blocks: Sequence[bytes]) -> None:
        if self.upload is None:
            raise RuntimeError("no upload")
        hashing = asyncio.to_thread(self._digest, blocks)
        _, stored = await asyncio.gather(
            hashing, self._store.append(self.upload, first, blocks), return_exceptions=True
        )
        if isinstance(stored, BaseException):
            raise stored

    def _digest(self, blocks: Sequence[bytes]) -> None:
        for block in blocks:
            self._hash.update(block)

    async def _landed(self) -> None:
        """Wait for the batch in flight; being cancelled here leaves it in flight."""
        if self._flight is not None:
            await asyncio.wait({self._flight})
            self._flight.result()
            self._flight = None

    async def _renew(self, upload: Upload) -> None:
        """Prolongs the lease until cancelled; a lost one is told to the next write."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._store.renew(upload)
            except Unavailable:
                continue
            except Conflict as error:
                self._lost = error
                return

    async def _stop_renewal(self) -> None:
        task, self._renewal = self._renewal, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
