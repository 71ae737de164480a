"""Blocks of files in memory: bounded in bytes, fetched once however many readers ask, and ahead of readers who go on and on.

A block never changes once it is written, so nothing here is ever invalidated. It knows a `MediaReader` and no HTTP.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Self

from services.common import metrics
from services.common.errors import Unavailable
from services.common.media import MediaInfo
from services.common.store.reading import MediaReader
from services.common.tasks import end

FETCHES = 4
"""Queries under way at once. Motor has ten threads on two cores, and looking up names must not wait behind blocks."""
BATCH = 32
"""Blocks fetched by one query at the most (8 MiB), where the memory is sixteen times that. Read in order, 16 were 7 % slower,
and 60, or a second batch ahead, no faster."""
QUERY_SECONDS = 9.0
"""For a turn and the query together: nothing stays silent for 10 s, however many wait for a store that does not answer."""
FIRST_BATCH = 2
"""Blocks of the first query of a long read, doubled with each one: many a player opens a file, looks at its head and leaves."""
FEW = 4
"""Blocks that a reader may ask for at once without a share of the room: what a seek moves."""
PAUSED_SECONDS = 5.0
"""A reader who took nothing for so long has no share until it goes on: a crowd that stands still would slow down those who read."""

ENTRY = 512
"""Bytes that an entry costs beside its block: a million files of one byte are not a megabyte."""

_Key = tuple[str, int]
_READS = metrics.CACHE_READS.counts
_HIT, _MISS = ("blocks", "hit"), ("blocks", "miss")


@dataclass(frozen=True, slots=True)
class _Flight:
    """A query under way for blocks `first` and up; its result may be shorter than asked for."""

    first: int
    blocks: "asyncio.Future[list[bytes]]"


class BlockCache:
    """The least recently used blocks go first. What is being fetched counts as if it were here already."""

    def __init__(self, reader: MediaReader, limit: int) -> None:
        self.block_size = reader.block_size
        self._reader = reader
        self._limit = limit
        self._size = 0
        self._blocks: OrderedDict[_Key, bytes] = OrderedDict()
        self._flights: dict[_Key, _Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(FETCHES)
        self._walks: OrderedDict[Walk, float] = OrderedDict()
        """Readers who have a share, and when they took a block: who waits for longest is the first."""

    @property
    def size(self) -> int:
        """Bytes held and being fetched."""
        return self._size

    def walk(self, info: MediaInfo, first: int, last: int) -> "Walk":
        """A reader of blocks `first` to `last`, in that order."""
        return Walk(self, info, first, last)

    async def aclose(self) -> None:
        """Give up what is under way, then forget everything."""
        await end(*self._tasks)
        self._blocks.clear()

    def get(self, file: str, number: int) -> bytes | None:
        """A block that is here. `load` counts that it is not."""
        block = self._blocks.get((file, number))
        if block is None:
            return None
        _READS[_HIT] += 1
        self._blocks.move_to_end((file, number))
        return block

    def has(self, file: str, number: int) -> bool:
        """Whether a block is here, without asking for it."""
        return (file, number) in self._blocks

    async def load(self, info: MediaInfo, first: int, last: int) -> bytes:
        """Block `first`, from a query that may bring those up to `last` too. Raises BrokenFile and Unavailable."""
        _READS[_MISS] += 1
        while True:
            flight = self._flights.get((info.file, first)) or self._fetch(info, first, last)
            # The query is everybody's: a reader who leaves does not end it.
            blocks = await asyncio.shield(flight.blocks)
            if first - flight.first < len(blocks):
                return blocks[first - flight.first]
            # The file ends early for that query. Ask for this block alone: either it is there, or it is broken here.
            last = first

    def ahead(self, info: MediaInfo, first: int, last: int) -> None:
        """Begin to fetch what is likely to be asked for soon, unless those who wait already keep the store busy."""
        while first <= last and self._is_near(info.file, first):
            first += 1
        if first <= last and not self._turns.locked():
            self._fetch(info, first, last)

    def batch(self) -> int:
        """How many blocks one query may bring for a reader, who may be two ahead: all together they have half of the room."""
        return max(1, min(BATCH, self._limit // (4 * (self.block_size + ENTRY) * max(4, len(self._walks)))))

    def goes_on(self, walk: "Walk") -> None:
        """It takes a block. Those who paused meanwhile lose their share."""
        now = asyncio.get_running_loop().time()
        self._walks[walk] = now
        self._walks.move_to_end(walk)
        while now - next(iter(self._walks.values())) > PAUSED_SECONDS:
            self._walks.popitem(last=False)

    def leave(self, walk: "Walk") -> None:
        """It is over."""
        self._walks.pop(walk, None)

    def _is_near(self, file: str, number: int) -> bool:
        return (file, number) in self._blocks or (file, number) in self._flights

    def _fetch(self, info: MediaInfo, first: int, last: int) -> _Flight:
        end = first + 1
        while end <= last and not self._is_near(info.file, end):
            end += 1
        flight = _Flight(first, asyncio.get_running_loop().create_future())
        for number in range(first, end):
            self._flights[info.file, number] = flight
        task = asyncio.create_task(self._fly(info, flight, end - 1))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return flight

    async def _fly(self, info: MediaInfo, flight: _Flight, last: int) -> None:
        # Twice: what the store sends lies beside the blocks that are made of it.
        reserved = 2 * (last - flight.first + 1) * (self.block_size + ENTRY)
        blocks: list[bytes] = []
        fault: Exception | None = None
        try:
            async with asyncio.timeout(QUERY_SECONDS), self._turns:
                self._take(reserved)
                try:
                    blocks = await self._reader.fetch(info, flight.first, last)
                finally:
                    self._size -= reserved
        except TimeoutError:
            fault = Unavailable("the store is behind")
        except Exception as error:  # noqa: BLE001  # it is raised again for everyone who waits
            fault = error
        finally:
            for number in range(flight.first, last + 1):
                del self._flights[info.file, number]
        if fault is not None:
            flight.blocks.set_exception(fault)
            flight.blocks.exception()  # there may be nobody
            return
        flight.blocks.set_result(blocks)
        for number, block in enumerate(blocks, flight.first):
            if (info.file, number) not in self._blocks:
                self._take(len(block) + ENTRY)
                self._blocks[info.file, number] = block

    def _take(self, size: int) -> None:
        """Make room."""
        self._size += size
        while self._size > self._limit and self._blocks:
            self._size -= len(self._blocks.popitem(last=False)[1]) + ENTRY


class Walk:
    """One reader's way through consecutive blocks. It holds no block: one that was fetched ahead and has gone is fetched again."""

    def __init__(self, cache: BlockCache, info: MediaInfo, first: int, last: int) -> None:
        self._cache = cache
        self._info = info
        self._last = last
        self._shares = last - first >= FEW
        self._step = FIRST_BATCH if last - first >= BATCH else BATCH
        self._asked = first - 1
        """The last block that was asked for, by this reader or ahead of it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cache.leave(self)

    async def take(self, number: int) -> bytes:
        """Block `number`. Raises BrokenFile and Unavailable."""
        if self._shares:
            self._cache.goes_on(self)
        block = self._cache.get(self._info.file, number)
        if block is None:
            end = min(self._last, number + self._stride() - 1)
            self._asked = max(self._asked, end)
            block = await self._cache.load(self._info, number, end)
        elif self._asked < number:
            self._asked = number
        if self._shares and self._asked < self._last and self._asked - number <= min(self._step, self._cache.batch()):
            first = self._asked + 1
            self._asked = min(self._last, self._asked + self._stride())
            self._cache.ahead(self._info, first, self._asked)
        return block

    def _stride(self) -> int:
        stride = min(self._step, self._cache.batch())
        self._step = min(BATCH, self._step * 2)
        return stride
