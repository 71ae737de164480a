"""Caches blocks of files in memory, with single-flight fetches and read-ahead for sequential readers.

The cache is bounded in bytes. A block never changes once it is written, so blocks are never invalidated.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Self

from services.common.aio.cancellation import cancel_and_wait
from services.common.errors import GridcastError, ServiceUnavailable, drop_tracebacks
from services.common.media import MediaInfo
from services.common.store.media_reader import BlockReader
from services.common.telemetry import metrics

MAX_CONCURRENT_FETCHES = 4
"""Concurrent queries for blocks. Motor has ten threads on two cores, and metadata lookups must not wait behind blocks."""
MAX_BATCH_BLOCKS = 32
"""Maximum blocks of one query, if the cache is sixteen times as large. Sequential reads were 7 % slower with 16 of 255 KiB, and no
faster with 60 or with a second batch ahead.
"""
MAX_BATCH_BYTES = 8 * 1024 * 1024
"""Maximum bytes of one query: 32 blocks of 255 KiB, 16 of 512 KiB."""
FETCH_TIMEOUT_SECONDS = 9.0
"""For waiting for a slot and the query together, so that every request is answered within 10 s while the store does not respond."""
INITIAL_BATCH_BLOCKS = 2
"""Blocks of the first query of a long read, doubled with each query: many players read the head of a file and disconnect."""
PREFETCH_THRESHOLD_BLOCKS = 4
"""Blocks that a reader may read at once without a share of the read-ahead memory: what a seek needs."""
READER_IDLE_SECONDS = 5.0
"""A reader that has not read for this long loses its share of the read-ahead memory until it reads again: many paused readers would
slow down the active ones.
"""

ENTRY_OVERHEAD_BYTES = 512
"""Memory of an entry besides its block, in bytes: a million files of one byte take more than a megabyte."""

_BlockKey = tuple[str, int]
_BLOCK_LOOKUPS = metrics.CACHE_LOOKUPS.counts
_BLOCK_HIT, _BLOCK_MISS = ("block", "hit"), ("block", "miss")


@dataclass(frozen=True, slots=True)
class _InFlightFetch:
    """A query in flight for blocks from `first` on; its result may be shorter than requested."""

    first: int
    future: "asyncio.Future[list[bytes]]"


class BlockCache:
    """An LRU cache of blocks. Blocks that are being fetched count as cached."""

    def __init__(self, reader: BlockReader, max_bytes: int) -> None:
        self.block_size = reader.block_size
        self.max_batch_blocks = max(1, min(MAX_BATCH_BLOCKS, MAX_BATCH_BYTES // reader.block_size))
        """Maximum blocks of one query."""
        self._reader = reader
        self._max_bytes = max_bytes
        self._size_bytes = 0
        self._blocks: OrderedDict[_BlockKey, bytes] = OrderedDict()
        self._in_flight: dict[_BlockKey, _InFlightFetch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._fetch_slots = asyncio.Semaphore(MAX_CONCURRENT_FETCHES)
        self._prefetching_readers: OrderedDict[SequentialReader, float] = OrderedDict()
        """Readers with a share of the read-ahead memory and the time of their last read, the longest idle first."""

    @property
    def size_bytes(self) -> int:
        """Bytes cached and being fetched."""
        return self._size_bytes

    def open_reader(self, info: MediaInfo, first: int, last: int) -> "SequentialReader":
        """Return a reader of blocks `first` to `last`, in that order."""
        return SequentialReader(self, info, first, last)

    async def aclose(self) -> None:
        """Cancel the queries in flight and drop all blocks."""
        await cancel_and_wait(*self._tasks)
        self._blocks.clear()

    def get(self, file_id: str, index: int) -> bytes | None:
        """Return a cached block, or None; `get_or_fetch` counts the miss."""
        block = self._blocks.get((file_id, index))
        if block is None:
            return None
        _BLOCK_LOOKUPS[_BLOCK_HIT] += 1
        self._blocks.move_to_end((file_id, index))
        return block

    def contains(self, file_id: str, index: int) -> bool:
        """Return whether a block is cached, without counting a lookup."""
        return (file_id, index) in self._blocks

    async def get_or_fetch(self, info: MediaInfo, first: int, last: int) -> bytes:
        """Return block `first`, from a query that may fetch blocks up to `last` too. Raises CorruptFile and ServiceUnavailable."""
        _BLOCK_LOOKUPS[_BLOCK_MISS] += 1
        while True:
            fetch = self._in_flight.get((info.file_id, first)) or self._start_fetch(info, first, last)
            # Single-flight: a reader that disconnects does not cancel the query of the others.
            blocks = await asyncio.shield(fetch.future)
            if first - fetch.first < len(blocks):
                return blocks[first - fetch.first]
            # The query found fewer blocks. Fetch this block alone: it exists, or the file is corrupt here.
            last = first

    def prefetch(self, info: MediaInfo, first: int, last: int) -> None:
        """Start to fetch blocks that are likely to be read soon, unless all fetch slots are in use."""
        while first <= last and self._is_cached_or_in_flight(info.file_id, first):
            first += 1
        if first <= last and not self._fetch_slots.locked():
            self._start_fetch(info, first, last)

    def max_blocks_per_fetch(self) -> int:
        """Return the maximum blocks of one query: a reader may be two queries ahead, and all readers share half of the cache."""
        return max(
            1,
            min(
                self.max_batch_blocks,
                self._max_bytes
                // (4 * (self.block_size + ENTRY_OVERHEAD_BYTES) * max(4, len(self._prefetching_readers))),
            ),
        )

    def touch_reader(self, reader: "SequentialReader") -> None:
        """Record that a reader reads a block. Idle readers lose their share."""
        now = asyncio.get_running_loop().time()
        self._prefetching_readers[reader] = now
        self._prefetching_readers.move_to_end(reader)
        while now - next(iter(self._prefetching_readers.values())) > READER_IDLE_SECONDS:
            self._prefetching_readers.popitem(last=False)

    def remove_reader(self, reader: "SequentialReader") -> None:
        """Forget a reader that has finished."""
        self._prefetching_readers.pop(reader, None)

    def _is_cached_or_in_flight(self, file_id: str, index: int) -> bool:
        return (file_id, index) in self._blocks or (file_id, index) in self._in_flight

    def _start_fetch(self, info: MediaInfo, first: int, last: int) -> _InFlightFetch:
        end = first + 1
        while end <= last and not self._is_cached_or_in_flight(info.file_id, end):
            end += 1
        fetch = _InFlightFetch(first, asyncio.get_running_loop().create_future())
        for number in range(first, end):
            self._in_flight[info.file_id, number] = fetch
        task = asyncio.create_task(self._run_fetch(info, fetch, end - 1))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return fetch

    async def _run_fetch(self, info: MediaInfo, fetch: _InFlightFetch, last: int) -> None:
        # Twice, because the reply of the store and the blocks made of it are in memory together.
        reserved = 2 * (last - fetch.first + 1) * (self.block_size + ENTRY_OVERHEAD_BYTES)
        blocks: list[bytes] = []
        error_to_raise: Exception | None = None
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_SECONDS), self._fetch_slots:
                self._reserve(reserved)
                try:
                    blocks = await self._reader.read_blocks(info, fetch.first, last)
                finally:
                    self._size_bytes -= reserved
        except TimeoutError:
            error_to_raise = ServiceUnavailable("the store is overloaded")
        except Exception as error:  # noqa: BLE001  # it is raised again for all callers
            if isinstance(error, GridcastError):  # the traceback of any other one will be logged
                drop_tracebacks(error)
            error_to_raise = error
        finally:
            for number in range(fetch.first, last + 1):
                del self._in_flight[info.file_id, number]
        if error_to_raise is not None:
            fetch.future.set_exception(error_to_raise)
            fetch.future.exception()  # all callers may have been cancelled; else asyncio logs the exception
            return
        fetch.future.set_result(blocks)
        for number, block in enumerate(blocks, fetch.first):
            if (info.file_id, number) not in self._blocks:
                self._reserve(len(block) + ENTRY_OVERHEAD_BYTES)
                self._blocks[info.file_id, number] = block

    def _reserve(self, size: int) -> None:
        """Evict blocks until `size` more bytes fit."""
        self._size_bytes += size
        while self._size_bytes > self._max_bytes and self._blocks:
            self._size_bytes -= len(self._blocks.popitem(last=False)[1]) + ENTRY_OVERHEAD_BYTES


class SequentialReader:
    """Reads consecutive blocks with read-ahead. It holds no block: one that was evicted before it was read is fetched again."""

    def __init__(self, cache: BlockCache, info: MediaInfo, first: int, last: int) -> None:
        self._cache = cache
        self._info = info
        self._last = last
        self._prefetches = last - first >= PREFETCH_THRESHOLD_BLOCKS
        self._max_batch = cache.max_batch_blocks
        self._batch_size = INITIAL_BATCH_BLOCKS if last - first >= self._max_batch else self._max_batch
        self._requested_through = first - 1
        """The last block that was requested, read-ahead included."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cache.remove_reader(self)

    async def read(self, index: int) -> bytes:
        """Return a block. Raises CorruptFile and ServiceUnavailable."""
        if self._prefetches:
            self._cache.touch_reader(self)
        block = self._cache.get(self._info.file_id, index)
        if block is None:
            end = min(self._last, index + self._next_batch_size() - 1)
            self._requested_through = max(self._requested_through, end)
            block = await self._cache.get_or_fetch(self._info, index, end)
        elif self._requested_through < index:
            self._requested_through = index
        if (
            self._prefetches
            and self._requested_through < self._last
            and self._requested_through - index <= min(self._batch_size, self._cache.max_blocks_per_fetch())
        ):
            first = self._requested_through + 1
            self._requested_through = min(self._last, self._requested_through + self._next_batch_size())
            self._cache.prefetch(self._info, first, self._requested_through)
        return block

    def _next_batch_size(self) -> int:
        stride = min(self._batch_size, self._cache.max_blocks_per_fetch())
        self._batch_size = min(self._max_batch, self._batch_size * 2)
        return stride
