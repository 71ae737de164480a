"""services.stream.metadata_cache: how long an entry is valid, and what is never cached."""

import asyncio
import gc
import json
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from services.common.errors import NotFound, ServiceUnavailable
from services.common.media import FolderFilter, MediaInfo, MediaName, Poster
from services.common.store.media_reader import FolderTotals, ListQuery, MediaPage
from services.stream.metadata_cache import MAX_CACHED_TEXT_BYTES, MetadataCache

pytestmark = pytest.mark.anyio

NAME = MediaName("demo", "a.webm")
FILE = MediaInfo("m", "1", "demo", "a.webm", 5, "video/webm", "00", datetime(2026, 11, 20, tzinfo=UTC))
NEWER_FILE = replace(FILE, file_id="2", sha256="11")


class CountingStore:
    block_size = 1

    def __init__(self) -> None:
        self.files: dict[MediaName, MediaInfo] = {NAME: FILE}
        self.lookups = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.unavailable = False

    async def find(self, name: MediaName) -> MediaInfo | None:
        self.lookups += 1
        found = self.files.get(name)
        await self.gate.wait()
        if self.unavailable:
            raise ServiceUnavailable("away")
        return found

    async def read_blocks(self, info: MediaInfo, first_block: int, last_block: int) -> list[bytes]:
        raise AssertionError(info, first_block, last_block)

    async def list_files(self, list_query: ListQuery) -> MediaPage:
        raise AssertionError(list_query)

    async def read_poster(self, info: MediaInfo) -> Poster | None:
        raise AssertionError(info)

    async def sum_folders(self, folders: Sequence[str]) -> list[FolderTotals]:
        raise AssertionError(folders)

    async def list_folders(self, after: str | None, limit: int, readable: FolderFilter | None = None) -> list[str]:
        raise AssertionError(after, limit)

    async def check_health(self) -> None: ...


class FakeClock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def fake_clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


def invalidation_message(name: MediaName = NAME) -> bytes:
    return json.dumps([name.folder, name.filename]).encode()


async def test_entry_expires_after_one_second(fake_clock: FakeClock) -> None:
    store = CountingStore()
    catalogue = MetadataCache(store, 10, lambda: True)
    first = await catalogue.get_or_fetch(NAME)
    fake_clock.now += 0.999
    assert await catalogue.get_or_fetch(NAME) is first
    assert store.lookups == 1
    fake_clock.now += 0.001
    store.files[NAME] = NEWER_FILE
    assert (await catalogue.get_or_fetch(NAME)).info is NEWER_FILE
    assert store.lookups == 2


async def test_entry_age_counts_from_the_start_of_the_lookup(fake_clock: FakeClock) -> None:
    store = CountingStore()
    catalogue = MetadataCache(store, 10, lambda: True)
    store.gate.clear()
    asking = asyncio.create_task(catalogue.get_or_fetch(NAME))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    fake_clock.now += 0.9
    store.gate.set()
    await asking
    fake_clock.now += 0.2
    await catalogue.get_or_fetch(NAME)
    assert store.lookups == 2


async def test_change_is_visible_immediately() -> None:
    store = CountingStore()
    catalogue = MetadataCache(store, 10, lambda: True)
    await catalogue.get_or_fetch(NAME)
    store.files[NAME] = NEWER_FILE
    catalogue.on_invalidation(b"c", invalidation_message(MediaName("", "other")))
    assert (await catalogue.get_or_fetch(NAME)).info is FILE
    catalogue.on_invalidation(b"c", invalidation_message())
    assert (await catalogue.get_or_fetch(NAME)).info is NEWER_FILE


async def test_lookup_overtaken_by_an_invalidation_is_not_cached() -> None:
    store = CountingStore()
    catalogue = MetadataCache(store, 10, lambda: True)
    store.gate.clear()
    old = asyncio.create_task(catalogue.get_or_fetch(NAME))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    store.files[NAME] = NEWER_FILE
    catalogue.on_invalidation(b"c", invalidation_message())
    new = asyncio.create_task(catalogue.get_or_fetch(NAME))
    await asyncio.sleep(0)
    store.gate.set()
    assert (await old).info is FILE
    assert (await new).info is NEWER_FILE, "who asks after the change does not wait for an answer from before"
    assert (await catalogue.get_or_fetch(NAME)).info is NEWER_FILE


async def test_nothing_is_cached_without_a_subscription() -> None:
    store = CountingStore()
    live = False
    catalogue = MetadataCache(store, 10, lambda: live)
    for _ in range(3):
        await catalogue.get_or_fetch(NAME)
    assert store.lookups == 3
    live = True
    for _ in range(3):
        await catalogue.get_or_fetch(NAME)
    assert store.lookups == 4
    live = False
    await catalogue.get_or_fetch(NAME)
    catalogue.clear()
    live = True
    await catalogue.get_or_fetch(NAME)
    assert store.lookups == 6


async def test_fresh_lookup_bypasses_the_cache() -> None:
    store = CountingStore()
    catalogue = MetadataCache(store, 10, lambda: True)
    await catalogue.get_or_fetch(NAME)
    store.files[NAME] = NEWER_FILE
    assert (await catalogue.get_or_fetch(NAME, bypass_cache=True)).info is NEWER_FILE
    assert (await catalogue.get_or_fetch(NAME)).info is NEWER_FILE
    assert store.lookups == 2


async def test_missing_file_is_never_cached() -> None:
    store = CountingStore()
    catalogue = MetadataCache(store, 10, lambda: True)
    missing = MediaName("", "later")
    for _ in range(3):
        with pytest.raises(NotFound, match="file not found"):
            await catalogue.get_or_fetch(missing)
    assert store.lookups == 3
    store.files[missing] = FILE
    await catalogue.get_or_fetch(missing)


async def test_concurrent_callers_share_one_lookup() -> None:
    store = CountingStore()
    catalogue = MetadataCache(store, 10, lambda: True)
    found = await asyncio.gather(*(catalogue.get_or_fetch(NAME) for _ in range(50)))
    assert store.lookups == 1
    assert len({id(file) for file in found}) == 1


async def test_cancelled_caller_does_not_cancel_a_shared_lookup() -> None:
    store = CountingStore()
    catalogue = MetadataCache(store, 10, lambda: True)
    store.gate.clear()
    first, second = (asyncio.create_task(catalogue.get_or_fetch(NAME)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    store.gate.set()
    assert (await second).info is FILE


async def test_error_is_raised_to_all_waiters_and_not_cached() -> None:
    store = CountingStore()
    catalogue = MetadataCache(store, 10, lambda: True)
    store.unavailable = True
    results = await asyncio.gather(*(catalogue.get_or_fetch(NAME) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [ServiceUnavailable] * 3
    store.unavailable = False
    await catalogue.get_or_fetch(NAME)
    assert catalogue._in_flight == {}


async def test_entries_are_limited() -> None:
    store = CountingStore()
    catalogue = MetadataCache(store, 3, lambda: True)
    for number in range(10):
        name = MediaName("", str(number))
        store.files[name] = FILE
        await catalogue.get_or_fetch(name)
    assert [name.filename for name in catalogue._entries] == ["7", "8", "9"]


async def test_what_uploaders_say_of_their_files_takes_bounded_memory() -> None:
    """An entry has up to 16 KiB of it: 10,000 of them would be 160 MiB."""
    store = CountingStore()
    catalogue = MetadataCache(store, 10_000, lambda: True)
    names = [MediaName("", str(number)) for number in range(1000)]
    for number, name in enumerate(names):
        store.files[name] = replace(FILE, metadata_json=json.dumps({"a": "x" * 16_000, "b": number}))
        await catalogue.get_or_fetch(name)
    kept = MAX_CACHED_TEXT_BYTES // 16_100
    assert list(catalogue._entries) == names[-len(catalogue._entries) :]
    assert kept - 5 <= len(catalogue._entries) <= kept + 5
    for name in names[-3:]:
        catalogue.on_invalidation(b"c", json.dumps([name.folder, name.filename]).encode())
    assert len(catalogue._entries) <= kept + 2
    catalogue.clear()
    assert catalogue._text_bytes == 0
    store.files[NAME] = replace(FILE, metadata_json="{" + " " * MAX_CACHED_TEXT_BYTES + "}")
    assert (await catalogue.get_or_fetch(NAME)).info is store.files[NAME]
    assert (len(catalogue._entries), catalogue._text_bytes) == (0, 0)


@pytest.mark.parametrize("payload", [b"", b"x", b"{}", b'["a"]', b"[1, 2, 3]", b"\xff", b"null", b'[["x"], "y"]'])
async def test_malformed_invalidation_clears_the_cache(payload: bytes) -> None:
    store = CountingStore()
    catalogue = MetadataCache(store, 10, lambda: True)
    await catalogue.get_or_fetch(NAME)
    catalogue.on_invalidation(b"c", payload)
    await catalogue.get_or_fetch(NAME)
    assert store.lookups == 2


async def run_ready_tasks() -> None:
    """Let every task run as far as it can; no timer, since the clock is fake."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_slow_lookup_is_not_shared_for_long(fake_clock: FakeClock) -> None:
    """Its result may be as old as the start of the lookup."""
    store = CountingStore()
    catalogue = MetadataCache(store, 10, lambda: True)
    store.gate.clear()
    old = asyncio.create_task(catalogue.get_or_fetch(NAME))
    await run_ready_tasks()
    store.files[NAME] = NEWER_FILE
    fake_clock.now += 1.0
    new = asyncio.create_task(catalogue.get_or_fetch(NAME))
    await run_ready_tasks()
    store.gate.set()
    assert (await old).info is FILE
    assert (await new).info is NEWER_FILE
    await run_ready_tasks()
    assert catalogue._in_flight == {}


async def test_pending_miss_is_not_shared_with_later_callers() -> None:
    store = CountingStore()
    catalogue = MetadataCache(store, 10, lambda: True)
    later = MediaName("", "later")
    store.gate.clear()
    early = asyncio.create_task(catalogue.get_or_fetch(later))
    await asyncio.sleep(0.01)
    store.files[later] = FILE
    late = asyncio.create_task(catalogue.get_or_fetch(later))
    await asyncio.sleep(0.01)
    store.gate.set()
    with pytest.raises(NotFound):
        await early
    assert (await late).info is FILE


async def test_a_lookup_leaves_nothing_for_the_garbage_collector() -> None:
    """It runs after 50,000 objects, and names that have no file are looked up each time."""
    cache = MetadataCache(CountingStore(), 10, lambda: True)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(NotFound):
            await cache.get_or_fetch(MediaName("demo", "none"))
        await cache.get_or_fetch(NAME)
        await asyncio.sleep(0)
        alive = weakref.ref(cache)
        del cache
        assert alive() is None
    finally:
        gc.enable()
