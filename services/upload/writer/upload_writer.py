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

from services.common.errors import ContentTooLarge, GridcastError
from services.common.media import MediaName
from services.common.store.upload_store import (
    MUST_NOT_EXIST,
    InProgressUpload,
    NewUpload,
    OutboxEvent,
    Preconditions,
    StoredFile,
    UploadHandle,
    UploadStore,
)
from services.common.telemetry import metrics
from services.upload.writer.checkpoints import OffsetCheckpoint
from services.upload.writer.chunker import Chunker
from services.upload.writer.lease import Lease
from services.upload.writer.rehash import rehash_blocks

BATCH_BLOCKS = 8
"""Blocks in one insert: 2 MiB, where larger ones were no faster and smaller ones were slower."""
MAX_UNCHECKPOINTED_BYTES = 256 * 1024
"""So much is taken while an older batch is not marked yet: no more than two batches are ever asked for again."""
CLEANUP_TIMEOUT_SECONDS = 10.0
"""What cannot be taken back in this time is left to the janitor."""

_log = logging.getLogger("gridcast.upload")


class UploadWriter:
    """One upload from its first byte to commit or discard. For one caller at a time.

    `broken` is told at once of what a later call would raise: the client may have stopped sending, and nobody would hear of it.
    With `marks` the durable offset follows every batch, so that another process can go on from it.
    """

    def __init__(
        self, store: UploadStore, max_size: int, on_error: Callable[[GridcastError], object] = lambda _: None
    ) -> None:
        self.upload: UploadHandle | None = None
        self.bytes_received = 0
        self.checkpoint_batches = False
        self.length: int | None = None
        self.unpublished_offset: int | None = None
        """An offset that is never shown: who sees the whole length takes the file for stored, and that is for the commit to say."""
        self._store = store
        self._max_size = max_size
        self._on_error = on_error
        self._chunker = Chunker(store.block_size)
        self._blocks_sent = 0
        self._hash: Any = hashlib.sha256()
        self._in_flight: asyncio.Task[None] | None = None
        self._offset_checkpoint: OffsetCheckpoint | None = None
        self._lease: Lease | None = None

    @property
    def uncheckpointed_bytes(self) -> int:
        """Bytes behind the durable offset."""
        return (
            self.bytes_received - self._offset_checkpoint.durable_offset
            if self._offset_checkpoint
            else self.bytes_received
        )

    @property
    def checkpointed_at(self) -> float:
        """When the durable offset was last set, by the monotonic clock."""
        return self._offset_checkpoint.written_at if self._offset_checkpoint else 0.0

    @property
    def hash_state(self) -> tuple[int, Any]:
        """So many whole blocks are stored, and this is their hash, or None where another process wrote some of them."""
        return self._blocks_sent, self._hash.copy() if self._hash else None

    async def create(
        self, name: MediaName | None, new_upload: NewUpload | None = None, preconditions: Preconditions = MUST_NOT_EXIST
    ) -> UploadHandle:
        """Take the name now, so that one that is taken is refused before the body is read. Raises as `UploadStore.begin`."""
        began = time.monotonic()
        new_upload = new_upload or NewUpload()
        upload = await self._store.create_upload(name, new_upload, preconditions)
        self.length = new_upload.length
        self._start_lease(upload, began)
        return upload

    def resume(self, upload: UploadHandle, state: InProgressUpload, hash_state: Any, acquired_at: float) -> None:
        """Go on with an upload that was taken over at the monotonic time `taken`."""
        self._blocks_sent = state.offset // self._store.block_size
        self._chunker.feed(state.tail)
        self.bytes_received = state.offset
        self.length = state.length
        self._hash = hash_state if self._blocks_sent else hashlib.sha256()
        self._start_lease(upload, acquired_at)

    async def write(self, data: bytes) -> None:
        """Take the next bytes; waits while the store is behind. Raises TooLarge, or what the store raised for an earlier batch."""
        if self.bytes_received + len(data) > self._max_size:
            raise ContentTooLarge(f"the file is larger than {self._max_size} bytes")
        self.bytes_received += len(data)
        self._chunker.feed(data)
        if (
            self._offset_checkpoint
            and self._offset_checkpoint.pending
            and len(self._chunker) > MAX_UNCHECKPOINTED_BYTES
        ):
            await asyncio.wait({self._offset_checkpoint.pending})
        while len(self._chunker.complete_blocks) >= BATCH_BLOCKS:
            await self._send_batch()

    async def checkpoint(self, *, keep_lease: bool) -> datetime | None:
        """Make every byte durable that was received, unless the file is complete: then only `finish` does. Returns the expiry.

        `writing` keeps the lease.
        """
        while self._chunker.complete_blocks:
            await self._send_batch()
        await self._wait_in_flight()
        if self._offset_checkpoint is None or self.bytes_received == self.unpublished_offset:
            return None
        return await self._offset_checkpoint.write(
            self.bytes_received, self._chunker.tail, self.length, keep_lease=keep_lease
        )

    async def commit(
        self,
        name: MediaName,
        content_type: str,
        preconditions: Preconditions = MUST_NOT_EXIST,
        verify_sha256: Callable[[str], object] = lambda _: None,
        on_rehash: Callable[[], object] = lambda: None,
    ) -> OutboxEvent:
        """Store what is left and make the file visible under `name`. Raises as `UploadStore.rename` and `commit`.

        `agree` is given the sha256 and raises where it is not the one that was stated; `verifying` says that stored bytes are read.
        """
        if self.upload is None:
            await self.create(name, preconditions=preconditions)
        upload = self._require_upload()
        if self._hash is None:
            on_rehash()
            await self._wait_in_flight()
            self._hash = await rehash_blocks(self._store, upload, self._blocks_sent)
        if self._chunker:
            self.checkpoint_batches = False
            await self._send_batch(final=True)
        await self._wait_in_flight()
        if self._offset_checkpoint is not None:
            await self._offset_checkpoint.wait()
        written = StoredFile(self.bytes_received, content_type, self._hash.hexdigest())
        verify_sha256(written.sha256)
        if upload.name is None:
            await self._stop_lease()
            began = time.monotonic()
            upload = await self._store.assign_name(upload, name, preconditions)
            self._start_lease(upload, began)
        if self._lease is not None:
            await self._lease.ensure_held()
        announcement = await self._store.commit(upload, written, preconditions)
        await self._stop_lease()
        return announcement

    async def suspend(self) -> None:
        """Stop without taking anything back: another may go on. What was received and is not saved is forgotten."""
        await self._stop_lease()
        marking = self._offset_checkpoint.pending if self._offset_checkpoint else None
        for task in (self._in_flight, marking):
            if task is not None:
                await asyncio.wait({task})
                _ = task.cancelled() or task.exception()  # seen: asyncio need not report it

    async def truncate(self, first_block: int) -> None:
        """Remove block number `block` and what follows: it must not become part of the file."""
        await self.suspend()
        await self._store.truncate_blocks(self._require_upload(), first_block)

    async def abort(self, *, name_taken: bool = False) -> None:
        """Take everything back. Never raises: what fails here, the janitor finishes."""
        try:
            async with asyncio.timeout(CLEANUP_TIMEOUT_SECONDS):
                await self.suspend()
                if self.upload is not None:
                    flight = self._in_flight
                    late = flight is not None and (flight.cancelled() or flight.exception() is not None)
                    await self._store.abort(self.upload, name_taken=name_taken, second_purge=late)
        except (GridcastError, TimeoutError) as error:
            _log.warning("unfinished upload left to the garbage collector: %s", error)

    async def _send_batch(self, *, final: bool = False) -> None:
        """Send the next batch off, or with `last` all that is left. Who is cancelled here still holds it, or has sent it."""
        await self._wait_in_flight()
        if self.upload is None:
            await self.create(None)
        blocks = self._chunker.flush() if final else self._chunker.pop_blocks(BATCH_BLOCKS)
        self._in_flight = asyncio.create_task(self._run_batch(self._blocks_sent, blocks))
        self._blocks_sent += len(blocks)

    async def _run_batch(self, first_block: int, blocks: Sequence[bytes]) -> None:
        try:
            await self._write_batch(first_block, blocks)
        except GridcastError as error:
            self._on_error(error)
            raise

    async def _write_batch(self, first_block: int, blocks: Sequence[bytes]) -> None:
        upload = self._require_upload()
        if self._lease is not None:
            await self._lease.ensure_held()
        hashing = asyncio.to_thread(self._update_hash, blocks)
        storing = self._store.write_blocks(upload, first_block, blocks)
        for result in await asyncio.gather(hashing, storing, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        metrics.STORED_BYTES.inc(sum(map(len, blocks)))
        offset = (first_block + len(blocks)) * self._store.block_size
        if (
            self.checkpoint_batches
            and self._offset_checkpoint
            and offset != self.unpublished_offset
            and offset > self._offset_checkpoint.durable_offset
        ):
            await self._offset_checkpoint.schedule(offset, self.length)

    def _update_hash(self, blocks: Sequence[bytes]) -> None:
        if self._hash is not None:
            for block in blocks:
                self._hash.update(block)

    async def _wait_in_flight(self) -> None:
        """Wait for the batch in flight; being cancelled here leaves it in flight."""
        if self._in_flight is not None:
            await asyncio.wait({self._in_flight})
            self._in_flight.result()
            self._in_flight = None

    def _require_upload(self) -> UploadHandle:
        if self.upload is None:
            raise RuntimeError("no upload in progress")
        return self.upload

    def _start_lease(self, upload: UploadHandle, requested_at: float) -> None:
        self.upload = upload
        self._lease = Lease(self._store, upload, requested_at, self._on_error)
        self._offset_checkpoint = OffsetCheckpoint(self._store, self._lease, self.bytes_received)

    async def _stop_lease(self) -> None:
        if self._lease is not None:
            await self._lease.stop_renewing()
