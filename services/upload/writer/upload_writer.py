"""Writes one upload into the store: cut into blocks, hashed and scanned, stored in batches, committed or aborted.

One batch is in flight while the next one fills: the client is read no faster than the store writes, and an upload holds at most two
batches in memory. A cancelled call never stops a write half-way: the caller then calls `abort` or `suspend`, which wait for it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from services.common.errors import ContentTooLarge, GridcastError
from services.common.media import NO_METADATA, MediaName
from services.common.store.preconditions import MUST_NOT_EXIST, Preconditions
from services.common.store.quotas import RESERVATION_STEP_BYTES, QuotaExceeded
from services.common.store.upload_store import (
    Checkpoint,
    InProgressUpload,
    NewUpload,
    OutboxEvent,
    StoredFile,
    UploadHandle,
    UploadStore,
)
from services.common.telemetry import metrics
from services.common.uploads.chunker import Chunker
from services.common.uploads.lease import Lease
from services.upload.writer.checkpoints import OffsetCheckpoint
from services.upload.writer.rehash import ContentState, rehash_blocks

BATCH_BLOCKS = 8
"""Blocks of one insert: 2 MiB. Larger batches were no faster, smaller ones were slower."""
MAX_UNCHECKPOINTED_BYTES = 256 * 1024
"""Bytes received while the checkpoint of an older batch is pending: a client never has to send more than two batches again."""
PLAYED_CHECKPOINT_SECONDS = 0.5
"""How often the durable offset of an upload is set that is followed by players and else would have none before its end."""
CLEANUP_TIMEOUT_SECONDS = 10.0
"""What cannot be removed within this time is left to the garbage collector."""

_log = logging.getLogger("gridcast.upload")


class BlockWatch(Protocol):
    """Is shown the blocks of an upload from its first one on, until it is `done`."""

    @property
    def done(self) -> bool:
        """Whether no further block is wanted."""

    def show(self, upload: UploadHandle, block: bytes) -> bool:
        """Look at the next block; the result says whether players may follow the upload from now on."""


class UploadWriter:
    """One upload from its first byte to `commit`, `abort` or `suspend`. Must not be called concurrently.

    `expected_bytes`, set before the first call, is about how many bytes a body of unknown length will have.

    `max_size` in bytes. `on_error` is called at once with an error that a later call would raise: the client may have stopped
    sending, and the error would not be noticed. `client` is the key of the client, `owner` the subject that owns the file. With
    `checkpoint_batches` the durable offset follows every batch, so that another process can resume from it.
    """

    def __init__(
        self,
        store: UploadStore,
        max_size: int,
        on_error: Callable[[GridcastError], object] = lambda _: None,
        client: str = "",
        owner: str = "",
    ) -> None:
        self.upload: UploadHandle | None = None
        self.bytes_received = 0
        self.checkpoint_batches = False
        self.length: int | None = None
        self.expected_bytes = 0
        self._unpublished_offset: int | None = None
        self._store = store
        self._max_size = max_size
        self._on_error = on_error
        self._client = client
        self._owner = owner
        self._reserved_bytes = 0
        self._chunker = Chunker(store.block_size)
        self._blocks_sent = 0
        self._content: ContentState | None = ContentState()
        self._in_flight: asyncio.Task[None] | None = None
        self._offset_checkpoint: OffsetCheckpoint | None = None
        self._lease: Lease | None = None
        self._lease_released = False
        self._watch: BlockWatch | None = None
        self._blocks_shown = 0
        self._ttl_if_played: float | None = None
        self._outcome_ttl: float | None = None
        self._checkpoint_seconds = 0.0
        self._checkpoint_follows = False

    @property
    def uncheckpointed_bytes(self) -> int:
        """Bytes received beyond the durable offset."""
        durable = self._offset_checkpoint.durable_offset if self._offset_checkpoint else 0
        return self.bytes_received - durable

    @property
    def checkpointed_at(self) -> float:
        """When the durable offset was last set, by the monotonic clock."""
        return self._offset_checkpoint.written_at if self._offset_checkpoint else 0.0

    @property
    def content_state(self) -> tuple[int, ContentState | None]:
        """The number of complete blocks sent to the store and their state, None where another process wrote some of them."""
        return self._blocks_sent, self._content

    async def create(
        self,
        name: MediaName | None,
        new_upload: NewUpload | None = None,
        preconditions: Preconditions = MUST_NOT_EXIST,
        unpublished_offset: int | None = None,
    ) -> UploadHandle:
        """Create the upload now, so that a name that is taken is refused before the body is read. Raises as the store's call.

        `unpublished_offset` is never checkpointed: a client that reads the whole length takes the file for stored, which only the
        commit may say.
        """
        requested_at = time.monotonic()
        new_upload = new_upload or NewUpload(reservation=self.expected_bytes)
        new_upload = replace(new_upload, client=self._client, owner=self._owner)
        upload = await self._store.create_upload(name, new_upload, preconditions)
        self.length = new_upload.length
        self._reserved_bytes = new_upload.reserved_bytes if self.length is None else self.length
        self._unpublished_offset = unpublished_offset
        self._start_lease(upload, requested_at)
        return upload

    def resume(
        self,
        upload: UploadHandle,
        state: InProgressUpload,
        content_state: ContentState | None,
        acquired_at: float,
        *,
        length: int | None,
        unpublished_offset: int | None,
    ) -> None:
        """Continue an upload that was acquired at `acquired_at` of the monotonic clock.

        `content_state` covers its complete blocks, None where they must be read again. `length` is what is known of it now.
        `unpublished_offset` as in `create`.
        """
        self._blocks_sent = state.offset // self._store.block_size
        self._chunker.feed(state.tail)
        self.bytes_received = state.offset
        self.length = length
        self._reserved_bytes = state.offset if state.length is None else state.length
        self._unpublished_offset = unpublished_offset
        self._content = content_state if self._blocks_sent else ContentState()
        self._start_lease(upload, acquired_at)

    def watch_blocks(self, watch: BlockWatch | None, ttl_if_played: float | None = None) -> None:
        """Show the blocks of an upload that has none yet to `watch`, before they are stored.

        With `ttl_if_played` the upload has no TTL of its own: from when players may follow it, the durable offset follows what is
        stored, and its outcome is kept for that many seconds.
        """
        self._watch, self._ttl_if_played = watch, ttl_if_played

    async def write(self, data: bytes) -> None:
        """Add bytes; waits while the store is behind. Raises ContentTooLarge, or what the store raised for an earlier batch."""
        if self.bytes_received + len(data) > self._max_size:
            raise ContentTooLarge(f"the file is larger than {self._max_size} bytes")
        self.bytes_received += len(data)
        self._chunker.feed(data)
        if self._watch is not None and self._chunker.complete_blocks:
            await self._show_blocks(self._watch)
        pending = self._offset_checkpoint.pending if self._offset_checkpoint else None
        if pending and len(self._chunker) > MAX_UNCHECKPOINTED_BYTES:
            await asyncio.wait({pending})
        while len(self._chunker.complete_blocks) >= BATCH_BLOCKS:
            await self._send_batch()
        if self._outcome_ttl is not None and self._chunker.complete_blocks and self._is_checkpoint_due():
            await self._send_batch()  # a slow client: players need not wait until the batch is full

    async def join_parts(self, parts: Sequence[tuple[UploadHandle, int]], on_progress: Callable[[int], object]) -> bool:
        """Make an upload without a byte of the first bytes of each part, within the store; False where the store cannot do that.

        Raises as `PartJoiner.join_parts`.
        """
        content = self._content or ContentState()
        if not await self._store.join_parts(self._require_upload(), parts, content.update, on_progress):
            return False
        self._content = content
        self.bytes_received = sum(length for _, length in parts)
        metrics.STORED_BYTES.inc(self.bytes_received)
        return True

    async def checkpoint(self, *, keep_lease: bool) -> datetime | None:
        """Make all received bytes durable, and return when the upload expires.

        Does not set the offset where that is the unpublished one, and returns None then. `keep_lease` says that more bytes follow;
        without it the lease is released.
        """
        self._checkpoint_follows = self.bytes_received != self._unpublished_offset
        while self._chunker.complete_blocks:
            await self._send_batch()
        await self._wait_in_flight()
        self._checkpoint_follows = False
        if self._offset_checkpoint is None:
            return None
        if self.bytes_received == self._unpublished_offset:
            await self._offset_checkpoint.wait()
            if not keep_lease and not self._lease_released:
                await self._store.release_lease(self._require_upload())
                self._lease_released = True
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
        metadata_json: str = NO_METADATA,
    ) -> OutboxEvent:
        """Store the remaining bytes and make the file visible under `name`. Raises as `assign_name` and `commit` of the store.

        `verify_sha256` is called with the digest in hex and raises where it is not the expected one. `on_rehash` is called before
        stored bytes are read again.
        """
        if self.upload is None:
            await self.create(name, preconditions=preconditions)
        upload = self._require_upload()
        content = self._content
        if content is None:
            on_rehash()
            await self._wait_in_flight()
            content = self._content = await rehash_blocks(self._store, upload, self._blocks_sent)
        if self._chunker:
            self.checkpoint_batches = False
            await self._send_batch(final=True)
        await self._wait_in_flight()
        if self._offset_checkpoint is not None:
            await self._offset_checkpoint.wait()
        if not content.is_finished:  # there was no last short block
            await asyncio.to_thread(content.finish)
        sha256 = content.hexdigest()
        verify_sha256(sha256)
        if upload.name is None:
            await self._stop_lease()
            requested_at = time.monotonic()
            upload = await self._store.assign_name(upload, name, preconditions, outcome_ttl=self._outcome_ttl)
            self._start_lease(upload, requested_at)
        if self._lease is not None:
            await self._lease.ensure_held()
        stored_file = StoredFile(
            self.bytes_received,
            content_type,
            sha256,
            metadata_json=metadata_json,
            media_facts_json=content.media_facts_json,
            outcome_ttl=self._outcome_ttl,
        )
        event = await self._store.commit(upload, stored_file, preconditions)
        await self._stop_lease()
        return event

    async def suspend(self) -> None:
        """Stop and keep the upload: another writer may resume it. Bytes that were received and not checkpointed are lost."""
        await self._stop_lease()
        await _wait_and_ignore(self._in_flight)
        # Looked at only now: the batch has scheduled a checkpoint at its end.
        await _wait_and_ignore(self._offset_checkpoint.pending if self._offset_checkpoint else None)

    async def truncate(self, first_block: int) -> None:
        """Stop, and delete the blocks from number `first_block` on: they must not become part of the file."""
        await self.suspend()
        await self._store.truncate_blocks(self._require_upload(), first_block)

    async def abort(self, *, name_taken: bool = False) -> None:
        """Delete the upload with its blocks. Never raises: what fails here is left to the garbage collector."""
        try:
            async with asyncio.timeout(CLEANUP_TIMEOUT_SECONDS):
                await self.suspend()
                if self.upload is not None:
                    last = self._in_flight
                    outcome_unknown = last is not None and (last.cancelled() or last.exception() is not None)
                    await self._store.abort(self.upload, name_taken=name_taken, second_purge=outcome_unknown)
        except (GridcastError, TimeoutError) as error:
            _log.warning("unfinished upload left to the garbage collector: %s", error)

    async def _show_blocks(self, watch: BlockWatch) -> None:
        if self.upload is None:
            await self.create(None)
        blocks = self._chunker.complete_blocks
        for block in blocks[max(0, self._blocks_shown - self._blocks_sent) :]:
            self._blocks_shown += 1
            if watch.show(self._require_upload(), block) and self._ttl_if_played is not None:
                self._outcome_ttl = self._ttl_if_played
                self.checkpoint_batches, self._checkpoint_seconds = True, PLAYED_CHECKPOINT_SECONDS
            if watch.done:
                self._watch = None
                return

    def _is_checkpoint_due(self) -> bool:
        """Whether it is time for the next durable offset. The first one is due at once: players wait for it."""
        first = self._offset_checkpoint is not None and not self._offset_checkpoint.durable_offset
        return first or time.monotonic() - self.checkpointed_at >= self._checkpoint_seconds

    async def _send_batch(self, *, final: bool = False) -> None:
        """Send the next batch, with `final` all that is left. A cancellation here loses no block: it is still held, or sent."""
        await self._wait_in_flight()
        if self.upload is None:
            await self.create(None)
        await self._reserve(self._require_upload())
        blocks = self._chunker.flush() if final else self._chunker.pop_blocks(BATCH_BLOCKS)
        self._in_flight = asyncio.create_task(self._run_batch(self._blocks_sent, blocks, final=final))
        self._blocks_sent += len(blocks)

    async def _reserve(self, upload: UploadHandle) -> None:
        """Reserve what was received beyond the reservation, with some room if there is any. Raises QuotaExceeded."""
        needed = self.bytes_received
        if not upload.owner or needed <= self._reserved_bytes:
            return
        try:
            reserved = needed + RESERVATION_STEP_BYTES
            await self._store.reserve(upload, reserved)
        except QuotaExceeded:
            reserved = needed
            await self._store.reserve(upload, reserved)
        self._reserved_bytes = reserved

    async def _run_batch(self, first_block: int, blocks: Sequence[bytes], *, final: bool) -> None:
        if self._offset_checkpoint is None:
            raise RuntimeError("no upload in progress")
        hash_blocks = partial(self._update_content, blocks, final=final)
        checkpoint = self._next_checkpoint(first_block + len(blocks))
        try:
            await self._offset_checkpoint.write_blocks(first_block, blocks, hash_blocks, checkpoint)
        except BaseException as error:
            self._content = None  # some of the blocks may not be in it
            if isinstance(error, GridcastError):
                self._on_error(error)
            raise
        metrics.STORED_BYTES.inc(sum(map(len, blocks)))

    def _next_checkpoint(self, block_count: int) -> Checkpoint | None:
        """The durable offset behind the first `block_count` blocks; None where it is not to be set, or not yet."""
        offset = block_count * self._store.block_size
        follows = self.checkpoint_batches and not self._checkpoint_follows and offset != self._unpublished_offset
        if follows and self.bytes_received - self.uncheckpointed_bytes < offset and self._is_checkpoint_due():
            return Checkpoint(offset, self.length)
        return None

    def _update_content(self, blocks: Sequence[bytes], *, final: bool) -> None:
        if self._content is not None:
            for block in blocks:
                self._content.update(block)
            if final:
                self._content.finish()

    async def _wait_in_flight(self) -> None:
        """Wait for the batch in flight; a cancellation here leaves it in flight."""
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
        self._lease_released = False
        self._offset_checkpoint = OffsetCheckpoint(self._store, self._lease, self.bytes_received)

    async def _stop_lease(self) -> None:
        if self._lease is not None:
            await self._lease.stop_renewing()


async def _wait_and_ignore(task: asyncio.Task[Any] | None) -> None:
    """Wait for the end of a task. Its exception is retrieved, so that asyncio does not report it."""
    if task is not None:
        await asyncio.wait({task})
        _ = task.cancelled() or task.exception()
