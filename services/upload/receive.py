"""The way of bytes into the store: cut into blocks, hashed, stored batch by batch, committed or taken back. It knows no HTTP.

One batch is in flight while the next one fills: the client is read no faster than the store writes, and an upload holds two batches
at the most. A cancelled call never stops a write half-way: whoever gives up calls `discard` or `rest`, which wait for the last one.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from services.common import metrics
from services.common.errors import GridcastError, TooLarge
from services.common.media import MediaName
from services.common.store.port import (
    ABSENT,
    Announcement,
    Expected,
    Open,
    Plan,
    Upload,
    UploadStore,
    Written,
)
from services.upload.blocks import Blocks
from services.upload.lease import Lease
from services.upload.marks import Marks
from services.upload.readback import stored_hash

BATCH_BLOCKS = 8
"""Blocks in one insert: 2 MiB, where larger ones were no faster and smaller ones were slower."""
UNMARKED_BYTES = 256 * 1024
"""So much is taken while an older batch is not marked yet: no more than two batches are ever asked for again."""
DISCARD_SECONDS = 10.0
"""What cannot be taken back in this time is left to the janitor."""

_log = logging.getLogger("gridcast.upload")


class Receiver:
    """One upload from its first byte to commit or discard. For one caller at a time.

    `broken` is told at once of what a later call would raise: the client may have stopped sending, and nobody would hear of it.
    With `marks` the durable offset follows every batch, so that another process can go on from it.
    """

    def __init__(
        self, store: UploadStore, max_length: int, broken: Callable[[GridcastError], object] = lambda _: None
    ) -> None:
        self.upload: Upload | None = None
        self.received = 0
        self.marks = False
        self.length: int | None = None
        self.held_back: int | None = None
        """An offset that is never shown: who sees the whole length takes the file for stored, and that is for the commit to say."""
        self._store = store
        self._max = max_length
        self._broken = broken
        self._bytes = Blocks(store.block_size)
        self._blocks = 0
        self._hash: Any = hashlib.sha256()
        self._flight: asyncio.Task[None] | None = None
        self._marks: Marks | None = None
        self._lease: Lease | None = None

    @property
    def unsaved(self) -> int:
        """Bytes behind the durable offset."""
        return self.received - self._marks.saved if self._marks else self.received

    @property
    def saved_at(self) -> float:
        """When the durable offset was last set, by the monotonic clock."""
        return self._marks.saved_at if self._marks else 0.0

    @property
    def hashed(self) -> tuple[int, Any]:
        """So many whole blocks are stored, and this is their hash, or None where another process wrote some of them."""
        return self._blocks, self._hash.copy() if self._hash else None

    async def begin(self, name: MediaName | None, plan: Plan | None = None, expected: Expected = ABSENT) -> Upload:
        """Take the name now, so that one that is taken is refused before the body is read. Raises as `UploadStore.begin`."""
        began = time.monotonic()
        plan = plan or Plan()
        upload = await self._store.begin(name, plan, expected)
        self.length = plan.length
        self._hold(upload, began)
        return upload

    def resume(self, upload: Upload, state: Open, hashed: Any, taken: float) -> None:
        """Go on with an upload that was taken over at the monotonic time `taken`."""
        self._blocks = state.offset // self._store.block_size
        self._bytes.add(state.tail)
        self.received = state.offset
        self.length = state.length
        self._hash = hashed if self._blocks else hashlib.sha256()
        self._hold(upload, taken)

    async def write(self, data: bytes) -> None:
        """Take the next bytes; waits while the store is behind. Raises TooLarge, or what the store raised for an earlier batch."""
        if self.received + len(data) > self._max:
            raise TooLarge(f"the file is larger than {self._max} bytes")
        self.received += len(data)
        self._bytes.add(data)
        if self._marks and self._marks.under_way and len(self._bytes) > UNMARKED_BYTES:
            await asyncio.wait({self._marks.under_way})
        while len(self._bytes.whole) >= BATCH_BLOCKS:
            await self._flush()

    async def save(self, *, writing: bool) -> datetime | None:
        """Make every byte durable that was received, unless the file is complete: then only `finish` does. Returns the expiry.

        `writing` keeps the lease.
        """
        while self._bytes.whole:
            await self._flush()
        await self._landed()
        if self._marks is None or self.received == self.held_back:
            return None
        return await self._marks.now(self.received, self._bytes.tail, self.length, writing=writing)

    async def finish(
        self,
        name: MediaName,
        content_type: str,
        expected: Expected = ABSENT,
        agree: Callable[[str], object] = lambda _: None,
        verifying: Callable[[], object] = lambda: None,
    ) -> Announcement:
        """Store what is left and make the file visible under `name`. Raises as `UploadStore.rename` and `commit`.

        `agree` is given the sha256 and raises where it is not the one that was stated; `verifying` says that stored bytes are read.
        """
        if self.upload is None:
            await self.begin(name, expected=expected)
        upload = self._uploaded()
        if self._hash is None:
            verifying()
            await self._landed()
            self._hash = await stored_hash(self._store, upload, self._blocks)
        if self._bytes:
            self.marks = False
            await self._flush(last=True)
        await self._landed()
        if self._marks is not None:
            await self._marks.settled()
        written = Written(self.received, content_type, self._hash.hexdigest())
        agree(written.sha256)
        if upload.name is None:
            await self._let_go()
            began = time.monotonic()
            upload = await self._store.rename(upload, name, expected)
            self._hold(upload, began)
        if self._lease is not None:
            await self._lease.check()
        announcement = await self._store.commit(upload, written, expected)
        await self._let_go()
        return announcement

    async def rest(self) -> None:
        """Stop without taking anything back: another may go on. What was received and is not saved is forgotten."""
        await self._let_go()
        marking = self._marks.under_way if self._marks else None
        for task in (self._flight, marking):
            if task is not None:
                await asyncio.wait({task})
                _ = task.cancelled() or task.exception()  # seen: asyncio need not report it

    async def roll_back(self, block: int) -> None:
        """Remove block number `block` and what follows: it must not become part of the file."""
        await self.rest()
        await self._store.truncate(self._uploaded(), block)

    async def discard(self, *, lost: bool = False) -> None:
        """Take everything back. Never raises: what fails here, the janitor finishes."""
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                await self.rest()
                if self.upload is not None:
                    flight = self._flight
                    late = flight is not None and (flight.cancelled() or flight.exception() is not None)
                    await self._store.abort(self.upload, lost=lost, late=late)
        except (GridcastError, TimeoutError) as error:
            _log.warning("an unfinished upload is left to the janitor: %s", error)

    async def _flush(self, *, last: bool = False) -> None:
        """Send the next batch off, or with `last` all that is left. Who is cancelled here still holds it, or has sent it."""
        await self._landed()
        if self.upload is None:
            await self.begin(None)
        blocks = self._bytes.end() if last else self._bytes.take(BATCH_BLOCKS)
        self._flight = asyncio.create_task(self._put(self._blocks, blocks))
        self._blocks += len(blocks)

    async def _put(self, first: int, blocks: Sequence[bytes]) -> None:
        try:
            await self._store_batch(first, blocks)
        except GridcastError as error:
            self._broken(error)
            raise

    async def _store_batch(self, first: int, blocks: Sequence[bytes]) -> None:
        upload = self._uploaded()
        if self._lease is not None:
            await self._lease.check()
        hashing = asyncio.to_thread(self._digest, blocks)
        storing = self._store.append(upload, first, blocks)
        for result in await asyncio.gather(hashing, storing, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        metrics.STORED_BYTES.inc(sum(map(len, blocks)))
        offset = (first + len(blocks)) * self._store.block_size
        if self.marks and self._marks and offset != self.held_back and offset > self._marks.saved:
            await self._marks.soon(offset, self.length)

    def _digest(self, blocks: Sequence[bytes]) -> None:
        if self._hash is not None:
            for block in blocks:
                self._hash.update(block)

    async def _landed(self) -> None:
        """Wait for the batch in flight; being cancelled here leaves it in flight."""
        if self._flight is not None:
            await asyncio.wait({self._flight})
            self._flight.result()
            self._flight = None

    def _uploaded(self) -> Upload:
        if self.upload is None:
            raise RuntimeError("the upload has not begun")
        return self.upload

    def _hold(self, upload: Upload, since: float) -> None:
        self.upload = upload
        self._lease = Lease(self._store, upload, since, self._broken)
        self._marks = Marks(self._store, self._lease, self.received)

    async def _let_go(self) -> None:
        if self._lease is not None:
            await self._lease.let_go()
