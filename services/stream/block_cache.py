"""Blocks of files in memory: bounded in bytes, fetched once however many readers ask, and ahead of readers who go on and on.

A block never changes once it is written, so nothing here is ever invalidated. It knows a `MediaReader` and no HTTP.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Self

from services.common.aio.cancellation import cancel_and_wait
from services.common.errors import ServiceUnavailable
from services.common.media import MediaInfo
from services.common.store.media_reader import MediaReader
from services.common.telemetry import metrics

MAX_CONCURRENT_FETCHES = 4
"""Queries under way at once. Motor has ten threads on two cores, and looking up names must not wait behind blocks."""
MAX_BATCH_BLOCKS = 32
"""Blocks fetched by one query at the most (8 MiB), where the memory is sixteen times that. Read in order, 16 were 7 % slower,
and 60, or a second batch ahead, no faster."""
FETCH_TIMEOUT_SECONDS = 9.0
"""For a turn and the query together: nothing stays silent for 10 s, however many wait for a store that does not answer."""
INITIAL_BATCH_BLOCKS = 2
"""Blocks of the first query of a long read, doubled with each one: many a player opens a file, looks at its head and leaves."""
PREFETCH_THRESHOLD_BLOCKS = 4
"""Blocks that a reader may ask for at once without a share of the room: what a seek moves."""
READER_IDLE_SECONDS = 5.0
"""A reader who took nothing for so long has no share until it goes on: a crowd that stands still would slow down those who read."""

ENTRY_OVERHEAD_BYTES = 512
"""Bytes that an entry costs beside its block: a million files of one byte are not a megabyte."""

_BlockKey = tuple[str, int]
_READS = metrics.CACHE_LOOKUPS.counts
_BLOCK_HIT, _BLOCK_MISS = ("block", "hit"), ("block", "miss")


@dataclass(frozen=True, slots=True)
class _InFlightFetch:
    """A query under way for blocks `first` and up; its result may be shorter than asked for."""

    first: int
    future: "asyncio.Future[list[bytes]]"


class BlockCache:
    """The least recently used blocks go first. What is being fetched counts as if it were here already."""

    def __init__(self, reader: MediaReader, max_bytes: int) -> None:
        self.block_size = reader.block_size
        self._reader = reader
        self._max_bytes = max_bytes
        self._size_bytes = 0
        self._blocks: OrderedDict[_BlockKey, bytes] = OrderedDict()
        self._in_flight: dict[_BlockKey, _InFlightFetch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._fetch_slots = asyncio.Semaphore(MAX_CONCURRENT_FETCHES)
        self._prefetching_readers: OrderedDict[SequentialReader, float] = OrderedDict()
        """Readers who have a share, and when they took a block: who waits for longest is the first."""

    @property
    def size_bytes(self) -> int:
        """Bytes held and being fetched."""
        return self._size_bytes

    def open_reader(self, info: MediaInfo, first: int, last: int) -> "SequentialReader":
        """A reader of blocks `first` to `last`, in that order."""
        return SequentialReader(self, info, first, last)

    async def aclose(self) -> None:
        """Give up what is under way, then forget everything."""
        await cancel_and_wait(*self._tasks)
        self._blocks.clear()

    def get(self, file_id: str, index: int) -> bytes | None:
        """A block that is here. `load` counts that it is not."""
        block = self._blocks.get((file_id, index))
        if block is None:
            return None
        _READS[_BLOCK_HIT] += 1
        self._blocks.move_to_end((file_id, index))
        return block

    def contains(self, file_id: str, index: int) -> bool:
        """Whether a block is here, without asking for it."""
        return (file_id, index) in self._blocks

    async def get_or_fetch(self, info: MediaInfo, first: int, last: int) -> bytes:
        """Block `first`, from a query that may bring those up to `last` too. Raises BrokenFile and Unavailable."""
        _READS[_BLOCK_MISS] += 1
        while True:
            flight = self._in_flight.get((info.file_id, first)) or self._start_fetch(info, first, last)
            # The query is everybody's: a reader who leaves does not end it.
            blocks = await asyncio.shield(flight.future)
            if first - flight.first < len(blocks):
                return blocks[first - flight.first]
            # The file ends early for that query. Ask for this block alone: either it is there, or it is broken here.
            last = first

    def prefetch(self, info: MediaInfo, first: int, last: int) -> None:
        """Begin to fetch what is likely to be asked for soon, unless those who wait already keep the store busy."""
        while first <= last and self._is_cached_or_in_flight(info.file_id, first):
            first += 1
        if first <= last and not self._fetch_slots.locked():
            self._start_fetch(info, first, last)

    def max_blocks_per_fetch(self) -> int:
        """How many blocks one query may bring for a reader, who may be two ahead: all together they have half of the room."""
        return max(
            1,
            min(
                MAX_BATCH_BLOCKS,
                self._max_bytes
                // (4 * (self.block_size + ENTRY_OVERHEAD_BYTES) * max(4, len(self._prefetching_readers))),
            ),
        )

    def touch_reader(self, reader: "SequentialReader") -> None:
        """It takes a block. Those who paused meanwhile lose their share."""
        now = asyncio.get_running_loop().time()
        self._prefetching_readers[reader] = now
        self._prefetching_readers.move_to_end(reader)
        while now - next(iter(self._prefetching_readers.values())) > READER_IDLE_SECONDS:
            self._prefetching_readers.popitem(last=False)

    def remove_reader(self, reader: "SequentialReader") -> None:
        """It is over."""
        self._prefetching_readers.pop(reader, None)

    def _is_cached_or_in_flight(self, file_id: str, index: int) -> bool:
        return (file_id, index) in self._blocks or (file_id, index) in self._in_flight

    def _start_fetch(self, info: MediaInfo, first: int, last: int) -> _InFlightFetch:
        end = first + 1
        while end <= last and not self._is_cached_or_in_flight(info.file_id, end):
            end += 1
        flight = _InFlightFetch(first, asyncio.get_running_loop().create_future())
        for number in range(first, end):
            self._in_flight[info.file_id, number] = flight
        task = asyncio.create_task(self._run_fetch(info, flight, end - 1))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return flight

    async def _run_fetch(self, info: MediaInfo, fetch: _InFlightFetch, last: int) -> None:
        # Twice: what the store sends lies beside the blocks that are made of it.
        reserved = 2 * (last - fetch.first + 1) * (self.block_size + ENTRY_OVERHEAD_BYTES)
        blocks: list[bytes] = []
        fault: Exception | None = None
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_SECONDS), self._fetch_slots:
                self._reserve(reserved)
                try:
                    blocks = await self._reader.read_blocks(info, fetch.first, last)
                finally:
                    self._size_bytes -= reserved
        except TimeoutError:
            fault = ServiceUnavailable("the store is overloaded")
        except Exception as error:  # noqa: BLE001  # it is raised again for everyone who waits
            fault = error
        finally:
            for number in range(fetch.first, last + 1):
                del self._in_flight[info.file_id, number]
        if fault is not None:
            fetch.future.set_exception(fault)
            fetch.future.exception()  # there may be nobody
            return
        fetch.future.set_result(blocks)
        for number, block in enumerate(blocks, fetch.first):
            if (info.file_id, number) not in self._blocks:
                self._reserve(len(block) + ENTRY_OVERHEAD_BYTES)
                self._blocks[info.file_id, number] = block

    def _reserve(self, size: int) -> None:
        """Make room."""
        self._size_bytes += size
        while self._size_bytes > self._max_bytes and self._blocks:
            self._size_bytes -= len(self._blocks.popitem(last=False)[1]) + ENTRY_OVERHEAD_BYTES


class SequentialReader:
    """One reader's way through consecutive blocks. It holds no block: one that was fetched ahead and has gone is fetched again."""

    def __init__(self, cache: BlockCache, info: MediaInfo, first: int, last: int) -> None:
        self._cache = cache
        self._info = info
        self._last = last
        self._prefetches = last - first >= PREFETCH_THRESHOLD_BLOCKS
        self._batch_size = INITIAL_BATCH_BLOCKS if last - first >= MAX_BATCH_BLOCKS else MAX_BATCH_BLOCKS
        self._requested_through = first - 1
        """The last block that was asked for, by this reader or ahead of it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cache.remove_reader(self)

    async def read(self, index: int) -> bytes:
        """Block `number`. Raises BrokenFile and Unavailable."""
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
        self._batch_size = min(MAX_BATCH_BLOCKS, self._batch_size * 2)
        return stride
