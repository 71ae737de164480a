"""services.stream.block_cache on a store that counts and can be paused: bounds, shared fetches, prefetch."""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from services.common.errors import ServiceUnavailable
from services.common.media import FolderFilter, MediaInfo, MediaName, Poster
from services.common.store.errors import CorruptFile
from services.common.store.media_reader import FolderTotals, ListQuery, MediaPage
from services.common.telemetry import metrics
from services.stream.block_cache import (
    ENTRY_OVERHEAD_BYTES,
    INITIAL_BATCH_BLOCKS,
    MAX_BATCH_BLOCKS,
    MAX_CONCURRENT_FETCHES,
    BlockCache,
)

BLOCK_SIZE = 1000
ENTRY_SIZE = BLOCK_SIZE + ENTRY_OVERHEAD_BYTES

pytestmark = pytest.mark.anyio


class GatedStore:
    """Blocks whose content names them. `gate` holds every query; blocks in `missing` do not exist."""

    block_size = BLOCK_SIZE

    def __init__(self) -> None:
        self.queries: list[tuple[str, int, int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.missing: set[int] = set()
        self.unavailable = False
        self.concurrent = 0
        self.max_concurrent = 0

    async def find(self, name: MediaName) -> MediaInfo | None:
        raise AssertionError(name)

    async def list_files(self, list_query: ListQuery) -> MediaPage:
        raise AssertionError(list_query)

    async def read_poster(self, info: MediaInfo) -> Poster | None:
        raise AssertionError(info)

    async def sum_folders(self, folders: Sequence[str]) -> list[FolderTotals]:
        raise AssertionError(folders)

    async def list_folders(self, after: str | None, limit: int, readable: FolderFilter | None = None) -> list[str]:
        raise AssertionError(after, limit)

    async def check_health(self) -> None: ...

    async def read_blocks(self, info: MediaInfo, first_block: int, last_block: int) -> list[bytes]:
        first, last = first_block, last_block
        self.queries.append((info.file_id, first, last))
        self.concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self.concurrent)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.concurrent -= 1
        if self.unavailable:
            raise ServiceUnavailable("away")
        there = []
        for number in range(first, last + 1):
            if number in self.missing:
                break
            there.append(make_block(info.file_id, number))
        if not there:
            raise CorruptFile(f"chunk {first}")
        return there

    @property
    def fetched_blocks(self) -> list[int]:
        return sorted(number for _, first, last in self.queries for number in range(first, last + 1))


def make_block(file: str, number: int) -> bytes:
    return f"{file}:{number}".encode().ljust(BLOCK_SIZE)


def make_info(file: str = "f", blocks: int = 1000) -> MediaInfo:
    return MediaInfo("m", file, "", "n", blocks * BLOCK_SIZE, "video/webm", "00", datetime.now(UTC))


async def read_blocks(cache: BlockCache, file: MediaInfo, first: int, last: int, *, pause: float = 0) -> None:
    with cache.open_reader(file, first, last) as walk:
        for number in range(first, last + 1):
            assert await walk.read(number) == make_block(file.file_id, number)
            await asyncio.sleep(pause)


async def wait_for_tasks(cache: BlockCache) -> None:
    await asyncio.wait_for(asyncio.gather(*cache._tasks), 5)
    await asyncio.sleep(0)


async def test_concurrent_readers_share_one_fetch() -> None:
    store = GatedStore()
    cache = BlockCache(store, 100 * ENTRY_SIZE)
    store.gate.clear()
    readers = [asyncio.create_task(read_blocks(cache, make_info(), 3, 5)) for _ in range(50)]
    await asyncio.sleep(0.01)
    assert store.queries == [("f", 3, 5)]
    store.gate.set()
    await asyncio.gather(*readers)
    assert store.queries == [("f", 3, 5)]
    await read_blocks(cache, make_info(), 3, 5)
    assert len(store.queries) == 1


async def test_probe_reads_one_block() -> None:
    store = GatedStore()
    await read_blocks(BlockCache(store, 100 * ENTRY_SIZE), make_info(), 7, 7)
    assert store.fetched_blocks == [7]


async def test_cancelled_reader_does_not_cancel_a_shared_fetch() -> None:
    store = GatedStore()
    cache = BlockCache(store, 100 * ENTRY_SIZE)
    store.gate.clear()
    first, second = (asyncio.create_task(read_blocks(cache, make_info(), 0, 0)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    store.gate.set()
    await second
    assert store.fetched_blocks == [0]


async def test_read_in_order_each_block_is_fetched_once_and_batches_grow() -> None:
    store = GatedStore()
    cache = BlockCache(store, 1000 * ENTRY_SIZE)
    await read_blocks(cache, make_info(), 0, 499)
    assert store.fetched_blocks == list(range(500))
    lengths = [last - first + 1 for _, first, last in store.queries]
    assert lengths[0] == INITIAL_BATCH_BLOCKS
    assert max(lengths) == MAX_BATCH_BLOCKS
    assert len(lengths) < 500 / MAX_BATCH_BLOCKS + 5


async def test_reader_that_stops_early_costs_few_blocks() -> None:
    store = GatedStore()
    cache = BlockCache(store, 1000 * ENTRY_SIZE)
    with cache.open_reader(make_info(), 0, 999) as walk:
        await walk.read(0)
        await wait_for_tasks(cache)
    assert store.fetched_blocks == list(range(3 * INITIAL_BATCH_BLOCKS))


async def test_no_block_past_the_range_is_read() -> None:
    store = GatedStore()
    cache = BlockCache(store, 1000 * ENTRY_SIZE)
    await read_blocks(cache, make_info(), 100, 163)
    await wait_for_tasks(cache)
    assert store.fetched_blocks == list(range(100, 164))


async def test_size_limit_holds_at_all_times() -> None:
    store = GatedStore()
    limit = 40 * ENTRY_SIZE
    cache = BlockCache(store, limit)
    seen = 0

    async def look() -> None:
        nonlocal seen
        while True:
            seen = max(seen, cache.size_bytes)
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    rng = random.Random(1)
    files = [make_info(f"f{number}") for number in range(5)]
    spans = [(rng.choice(files), first := rng.randrange(900), first + rng.randrange(60)) for _ in range(60)]
    await asyncio.gather(*(read_blocks(cache, *span) for span in spans))
    looking.cancel()
    await wait_for_tasks(cache)
    held = sum(len(data) + ENTRY_OVERHEAD_BYTES for data in cache._blocks.values())
    assert cache.size_bytes == held <= limit
    # Running queries count before their blocks arrive, and are never refused.
    assert seen <= limit + 4 * MAX_BATCH_BLOCKS * ENTRY_SIZE
    assert cache._in_flight == {}
    assert not cache._prefetching_readers


async def test_concurrent_fetches_are_limited() -> None:
    store = GatedStore()
    cache = BlockCache(store, 10_000 * ENTRY_SIZE)
    await asyncio.gather(*(read_blocks(cache, make_info(f"f{number}"), 0, 40) for number in range(30)))
    assert store.max_concurrent <= 4


async def test_waiting_for_a_fetch_slot_has_the_query_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.stream.block_cache.FETCH_TIMEOUT_SECONDS", 0.1)
    store = GatedStore()
    store.gate.clear()
    cache = BlockCache(store, 100 * ENTRY_SIZE)
    async with asyncio.timeout(5):
        heard = await asyncio.gather(
            *(cache.get_or_fetch(make_info(f"f{n}"), 0, 0) for n in range(20)), return_exceptions=True
        )
    assert {type(one) for one in heard} == {ServiceUnavailable}
    assert MAX_CONCURRENT_FETCHES <= len(store.queries) < 20
    assert cache.size_bytes == 0
    store.gate.set()
    assert await cache.get_or_fetch(make_info("f19"), 0, 0) == make_block("f19", 0)


async def test_least_recently_used_blocks_are_evicted_first() -> None:
    store = GatedStore()
    cache = BlockCache(store, 4 * ENTRY_SIZE)  # three blocks, and the one that a query needs besides
    for number in (0, 1, 2, 0, 3):
        await read_blocks(cache, make_info(), number, number)
    assert [number for _, number in cache._blocks] == [2, 0, 3]


async def test_readers_share_the_prefetch_budget() -> None:
    """Otherwise they would evict each other's blocks before they are read."""
    store = GatedStore()
    cache = BlockCache(store, 40 * ENTRY_SIZE)
    readers = [read_blocks(cache, make_info(f"f{number}"), 0, 99, pause=0.0001) for number in range(20)]
    await asyncio.gather(*readers)
    assert len(store.fetched_blocks) <= 20 * 100 * 1.1


@pytest.mark.parametrize("blocks", [8, 20, 32, 33, 100])
async def test_readers_of_one_batch_share_it(blocks: int) -> None:
    """40 readers of different ranges (8 MiB are 32 blocks) on a cache of 256 MiB, which read their blocks at different speeds."""
    store = GatedStore()
    cache = BlockCache(store, 1000 * ENTRY_SIZE)
    rng = random.Random(blocks)
    readers = [
        read_blocks(cache, make_info(f"f{number}"), 0, blocks - 1, pause=0.02 * rng.random())
        for number in range(40 * max(1, 32 // blocks))
    ]
    await asyncio.gather(*readers)
    needed = len(readers) * blocks
    # The first readers do not know yet how many follow.
    assert len(store.fetched_blocks) <= needed * 1.25


async def test_idle_reader_does_not_slow_active_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """500 readers that read one block and stopped."""
    store = GatedStore()
    cache = BlockCache(store, 1000 * ENTRY_SIZE)
    with contextlib.ExitStack() as stalled:
        walks = [stalled.enter_context(cache.open_reader(make_info(f"f{number}"), 0, 999)) for number in range(500)]
        for walk in walks:
            await walk.read(0)
        assert cache.max_blocks_per_fetch() == 1
        monkeypatch.setattr("services.stream.block_cache.READER_IDLE_SECONDS", 0.05)
        await asyncio.sleep(0.06)
        store.queries.clear()
        await read_blocks(cache, make_info("reader"), 0, 499)
        assert len(store.queries) < 500 / MAX_BATCH_BLOCKS + 5
        await walks[7].read(1)
        assert len(cache._prefetching_readers) == 1, "who goes on has a share again"
    assert not cache._prefetching_readers


async def test_uncached_block_is_one_miss() -> None:
    """A reader that tries the cache first and then fetches has requested the block once."""
    store = GatedStore()
    cache = BlockCache(store, 100 * ENTRY_SIZE)
    counts = metrics.CACHE_LOOKUPS.counts
    before = dict(counts)
    assert cache.get("f", 0) is None
    await read_blocks(cache, make_info(), 0, 0)
    await read_blocks(cache, make_info(), 0, 0)
    assert counts["block", "miss"] - before.get(("block", "miss"), 0) == 1
    assert counts["block", "hit"] - before.get(("block", "hit"), 0) == 1


async def test_missing_block_is_reported_when_it_is_read() -> None:
    store = GatedStore()
    cache = BlockCache(store, 100 * ENTRY_SIZE)
    store.missing = {10}
    with cache.open_reader(make_info(), 0, 99) as walk:
        for number in range(10):
            await walk.read(number)
        with pytest.raises(CorruptFile, match="chunk 10"):
            await walk.read(10)
    await wait_for_tasks(cache)
    assert cache._in_flight == {}


async def test_error_is_raised_to_all_waiters_and_not_cached() -> None:
    store = GatedStore()
    cache = BlockCache(store, 100 * ENTRY_SIZE)
    store.unavailable = True
    results = await asyncio.gather(*(read_blocks(cache, make_info(), 0, 0) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [ServiceUnavailable] * 5
    assert len(store.queries) == 1
    store.unavailable = False
    await read_blocks(cache, make_info(), 0, 0)
    assert cache.size_bytes == ENTRY_SIZE


async def test_files_do_not_mix() -> None:
    store = GatedStore()
    cache = BlockCache(store, 1000 * ENTRY_SIZE)
    await asyncio.gather(*(read_blocks(cache, make_info(f"f{number % 3}"), 0, 50) for number in range(9)))
    assert len(store.fetched_blocks) == 3 * 51
