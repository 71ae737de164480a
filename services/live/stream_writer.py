"""Writes one stream from one position on: blocks, then the durable offset, then the stream's own progress (ADR 40, ADR 47).

What `flush` has stored is durable and visible, and what it has not stored does not count: the next writer, in any process, goes on
behind the last flush. Older writers are fenced off by the token of the upload, and their calls raise Conflict.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from services.common.errors import Conflict, Gone, GridcastError, ServiceUnavailable
from services.common.live.segments import Epoch, Segment
from services.common.store.growing_files import GrowingFiles
from services.common.store.limits import BLOCK_SIZE
from services.common.store.live_store import LivePosition, LiveProgress, LiveStore, LiveStream
from services.common.store.media_reader import MediaReader
from services.common.store.quotas import RESERVATION_STEP_BYTES, QuotaExceeded
from services.common.store.upload_store import InProgressUpload, UploadHandle, UploadStore
from services.common.telemetry import metrics
from services.common.uploads.chunker import Chunker
from services.common.uploads.lease import Lease
from services.live.session import Session, Step

LIVE_BATCH_BLOCKS = 8
"""Blocks of one insert, as ordinary uploads have them."""
STORE_WAIT_SECONDS = 30.0
"""How long a publisher waits for a store that is unavailable. Nothing is read from it meanwhile."""
WRITE_RETRY_SECONDS = 0.25
NOTE_WAIT_SECONDS = 3.0
"""How long a publisher that goes on waits for one that has acquired the stream and not noted itself as its publisher."""
NOTE_POLL_SECONDS = 0.1

_log = logging.getLogger("gridcast.live")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class LiveStores:
    """The sides of the store that live streams need."""

    uploads: UploadStore
    live: LiveStore
    growing: GrowingFiles
    reader: MediaReader


@dataclass(frozen=True, slots=True)
class Flush:
    """What one flush has made durable."""

    before: LivePosition
    position: LivePosition
    epochs: tuple[Epoch, ...]
    segments: tuple[Segment, ...]


class StreamWriter:
    """One writer of one stream, from `open` to `close`. Must not be called concurrently.

    `stream` is the stream as it was acquired. `on_lost` is called when another writer acquires it.
    """

    def __init__(
        self,
        stores: LiveStores,
        upload: UploadHandle,
        stream: LiveStream,
        session: Session,
        tail: bytes,
        lease: Lease,
        store_wait: float,
    ) -> None:
        self.upload = upload
        self.stream = stream
        self.session = session
        self.flushed_at = time.monotonic()
        self._stores = stores
        self._lease = lease
        self._store_wait = store_wait
        self._chunker = Chunker(BLOCK_SIZE)
        self._chunker.feed(tail)
        self._next_block = stream.position.offset // BLOCK_SIZE
        self._stored = stream.position
        self._epochs: list[Epoch] = []
        self._segments: list[Segment] = []
        self._reserved_bytes = stream.position.offset

    @classmethod
    async def open(
        cls,
        stores: LiveStores,
        stream: LiveStream,
        publisher: str,
        on_lost: Callable[[Conflict], object],
        store_wait: float = STORE_WAIT_SECONDS,
        *,
        fencing_token: int | None = None,
    ) -> "StreamWriter":
        """Acquire a stream for a publisher: older writers are fenced off from here on.

        `store_wait`: seconds for which a store that is unavailable is waited for. With `fencing_token`, that of the stream as the
        caller knows it, raises Conflict where another writer has acquired it since, and changes nothing. Raises Gone where the
        stream has ended or its bytes are damaged.
        """
        requested_at = time.monotonic()
        # An upload begins with the token 1, a stream with that of no writer.
        token = None if fencing_token is None else max(1, fencing_token - stream.first_fence)
        acquired = await stores.uploads.acquire(stream.new.upload_id, token)
        if not isinstance(acquired, tuple):
            raise Gone("this stream has ended")
        upload, state = acquired
        lease = Lease(stores.uploads, upload, requested_at, on_lost)
        try:
            fence = stream.first_fence + upload.fencing_token
            current = await stores.live.set_publisher(stream.new.id, fence, publisher)
            tail = await _read_tail(stores.growing, stream.new.upload_id, state, current.position.offset)
            pending = await stores.live.read_pending(stream.new.id)
            last_epoch = current.last_epochs[-1] if current.last_epochs else None
            session = Session(current.new.target, current.position, last_epoch, pending, current.before)
        except BaseException:
            await lease.stop_renewing()
            raise
        return cls(stores, upload, current, session, tail, lease, store_wait)

    @classmethod
    async def go_on(
        cls, stores: LiveStores, stream: LiveStream, publisher: str, on_lost: Callable[[Conflict], object]
    ) -> "StreamWriter":
        """Acquire a stream for a publisher that goes on with its source, as `open` does.

        Raises Conflict where another publisher has come since the stream was read: this one could not go on behind it, and would
        only have stopped it. One that is killed, or paused, before it has noted itself is not waited for longer than a moment.
        """
        deadline = time.monotonic() + NOTE_WAIT_SECONDS
        while time.monotonic() < deadline:
            try:
                return await cls.open(stores, stream, publisher, on_lost, fencing_token=stream.fencing_token)
            except Conflict:
                current = await stores.live.get_stream(stream.new.id)
                if current is None or current.fencing_token != stream.fencing_token:
                    raise
            await asyncio.sleep(NOTE_POLL_SECONDS)
        return await cls.open(stores, stream, publisher, on_lost)

    @property
    def fence(self) -> int:
        """The fencing token of this writer for the stream: those of its uploads are counted on."""
        return self.stream.first_fence + self.upload.fencing_token

    @property
    def stored_position(self) -> LivePosition:
        """The position that is durable."""
        return self._stored

    async def take(self, step: Step) -> None:
        """Add what the session has made; whole batches of blocks are written at once. Raises Conflict, ServiceUnavailable."""
        self._chunker.feed(step.data)
        self._epochs += step.epochs
        self._segments += step.segments
        while len(self._chunker.complete_blocks) >= LIVE_BATCH_BLOCKS:
            await self._write_blocks()

    async def flush(self, *, keep_lease: bool = True) -> Flush:
        """Make durable and visible what was taken. Raises Conflict, Gone, QuotaExceeded, ServiceUnavailable."""
        before, position = self._stored, self.session.position
        epochs, segments = tuple(self._epochs), tuple(self._segments)
        progress = LiveProgress(position, epochs, segments, self.session.pending)
        while self._chunker.complete_blocks:
            await self._write_blocks()
        tail = self._chunker.tail
        if position.offset != before.offset:
            await self._persist(
                lambda: self._stores.uploads.set_offset(
                    self.upload, position.offset, tail, None, keep_lease=True, durable=True
                )
            )
        await self._persist(lambda: self._stores.live.advance(self.stream.new.id, self.fence, progress))
        del self._epochs[: len(epochs)]
        del self._segments[: len(segments)]
        self._stored, self.flushed_at = position, time.monotonic()
        if not keep_lease:
            await self.release()
        return Flush(before, position, epochs, segments)

    async def is_interrupted(self) -> bool:
        """Whether the stream is interrupted now: nothing was written for a while."""
        stream = await self._stores.live.get_stream(self.stream.new.id)
        return stream is not None and stream.state == "interrupted"

    async def write_last_block(self) -> None:
        """Write the last block of the file, which may be short. To be called after `flush`, when nothing follows."""
        if tail := self._chunker.tail:
            await self._persist(lambda: self._stores.uploads.write_blocks(self.upload, self._next_block, [tail]))

    async def release(self) -> None:
        """Let the next writer begin at once. Never raises: the lease ends by itself."""
        try:
            await self._stores.uploads.release_lease(self.upload)
        except GridcastError as error:
            _log.info("the lease of a live stream ends by itself: %s", error)

    async def close(self) -> None:
        """Stop to renew the lease. What was not flushed is lost."""
        await self._lease.stop_renewing()

    async def _write_blocks(self) -> None:
        blocks = self._chunker.complete_blocks[:LIVE_BATCH_BLOCKS]
        await self._reserve((self._next_block + len(blocks)) * BLOCK_SIZE)
        await self._persist(lambda: self._stores.uploads.write_blocks(self.upload, self._next_block, blocks))
        self._chunker.pop_blocks(len(blocks))
        self._next_block += len(blocks)
        metrics.STORED_BYTES.inc(sum(map(len, blocks)))

    async def _reserve(self, needed: int) -> None:
        """Reserve the bytes in the owner's quota, with some room if there is any. Raises QuotaExceeded."""
        if not self.upload.owner or needed <= self._reserved_bytes:
            return
        try:
            reserved = needed + RESERVATION_STEP_BYTES
            await self._persist(lambda: self._stores.uploads.reserve(self.upload, reserved))
        except QuotaExceeded:
            reserved = needed
            await self._persist(lambda: self._stores.uploads.reserve(self.upload, reserved))
        self._reserved_bytes = reserved

    async def _persist(self, call: Callable[[], Awaitable[_Result]]) -> _Result:
        """Await a call that may be repeated, and repeat it while the store is unavailable."""
        deadline = time.monotonic() + self._store_wait
        while True:
            try:
                await self._lease.ensure_held()
                return await call()
            except ServiceUnavailable:
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(WRITE_RETRY_SECONDS)


async def _read_tail(growing: GrowingFiles, upload_id: str, state: InProgressUpload, offset: int) -> bytes:
    """Return the bytes of the block that is not complete at `offset`. The upload may be ahead of it.

    Raises Gone where they are missing.
    """
    size = offset % BLOCK_SIZE
    if not size:
        return b""
    if state.offset == offset and len(state.tail) == size:
        return state.tail
    found = await growing.read_durable(upload_id, offset - size, size)
    if found is None or len(found.data) != size:
        raise Gone("the stored data of this stream is damaged")
    return found.data
