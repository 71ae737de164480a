"""services.stream.metadata_cache: how long something is remembered, and what is never remembered."""

import asyncio
import json
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from services.common.errors import NotFound, ServiceUnavailable
from services.common.media import MediaInfo, MediaName
from services.stream.metadata_cache import MetadataCache

pytestmark = pytest.mark.anyio

NAME = MediaName("demo", "a.webm")
FILE = MediaInfo("m", "1", "demo", "a.webm", 5, "video/webm", "00", datetime(2026, 11, 20, tzinfo=UTC))
NEWER = replace(FILE, file_id="2", sha256="11")


class Store:
    block_size = 1

    def __init__(self) -> None:
        self.files: dict[MediaName, MediaInfo] = {NAME: FILE}
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.away = False

    async def find(self, name: MediaName) -> MediaInfo | None:
        self.asked += 1
        found = self.files.get(name)
        await self.gate.wait()
        if self.away:
            raise ServiceUnavailable("away")
        return found

    async def read_blocks(self, info: MediaInfo, first: int, last: int) -> list[bytes]:
        raise AssertionError

    async def check(self) -> None: ...


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def message(name: MediaName = NAME) -> bytes:
    return json.dumps([name.folder, name.filename]).encode()


async def test_remembered_for_a_second_and_no_longer(clock: Clock) -> None:
    store = Store()
    catalogue = MetadataCache(store, 10, lambda: True)
    first = await catalogue.get_or_fetch(NAME)
    clock.now += 0.999
    assert await catalogue.get_or_fetch(NAME) is first
    assert store.asked == 1
    clock.now += 0.001
    store.files[NAME] = NEWER
    assert (await catalogue.get_or_fetch(NAME)).info is NEWER
    assert store.asked == 2


async def test_the_second_begins_with_the_question(clock: Clock) -> None:
    store = Store()
    catalogue = MetadataCache(store, 10, lambda: True)
    store.gate.clear()
    asking = asyncio.create_task(catalogue.get_or_fetch(NAME))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    clock.now += 0.9
    store.gate.set()
    await asking
    clock.now += 0.2
    await catalogue.get_or_fetch(NAME)
    assert store.asked == 2


async def test_a_change_is_seen_at_once() -> None:
    store = Store()
    catalogue = MetadataCache(store, 10, lambda: True)
    await catalogue.get_or_fetch(NAME)
    store.files[NAME] = NEWER
    catalogue.on_invalidation(b"c", message(MediaName("", "other")))
    assert (await catalogue.get_or_fetch(NAME)).info is FILE
    catalogue.on_invalidation(b"c", message())
    assert (await catalogue.get_or_fetch(NAME)).info is NEWER


async def test_an_answer_that_a_change_overtook_is_not_remembered() -> None:
    store = Store()
    catalogue = MetadataCache(store, 10, lambda: True)
    store.gate.clear()
    old = asyncio.create_task(catalogue.get_or_fetch(NAME))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    store.files[NAME] = NEWER
    catalogue.on_invalidation(b"c", message())
    new = asyncio.create_task(catalogue.get_or_fetch(NAME))
    await asyncio.sleep(0)
    store.gate.set()
    assert (await old).info is FILE
    assert (await new).info is NEWER, "who asks after the change does not wait for an answer from before"
    assert (await catalogue.get_or_fetch(NAME)).info is NEWER


async def test_nothing_is_remembered_while_changes_cannot_be_heard() -> None:
    store = Store()
    live = False
    catalogue = MetadataCache(store, 10, lambda: live)
    for _ in range(3):
        await catalogue.get_or_fetch(NAME)
    assert store.asked == 3
    live = True
    for _ in range(3):
        await catalogue.get_or_fetch(NAME)
    assert store.asked == 4
    live = False
    await catalogue.get_or_fetch(NAME)
    catalogue.clear()
    live = True
    await catalogue.get_or_fetch(NAME)
    assert store.asked == 6


async def test_fresh_reads_through() -> None:
    store = Store()
    catalogue = MetadataCache(store, 10, lambda: True)
    await catalogue.get_or_fetch(NAME)
    store.files[NAME] = NEWER
    assert (await catalogue.get_or_fetch(NAME, bypass_cache=True)).info is NEWER
    assert (await catalogue.get_or_fetch(NAME)).info is NEWER
    assert store.asked == 2


async def test_a_miss_is_never_remembered() -> None:
    store = Store()
    catalogue = MetadataCache(store, 10, lambda: True)
    missing = MediaName("", "later")
    for _ in range(3):
        with pytest.raises(NotFound, match="file not found"):
            await catalogue.get_or_fetch(missing)
    assert store.asked == 3
    store.files[missing] = FILE
    await catalogue.get_or_fetch(missing)


async def test_one_question_however_many_ask() -> None:
    store = Store()
    catalogue = MetadataCache(store, 10, lambda: True)
    found = await asyncio.gather(*(catalogue.get_or_fetch(NAME) for _ in range(50)))
    assert store.asked == 1
    assert len({id(file) for file in found}) == 1


async def test_who_leaves_does_not_take_the_answer_from_others() -> None:
    store = Store()
    catalogue = MetadataCache(store, 10, lambda: True)
    store.gate.clear()
    first, second = (asyncio.create_task(catalogue.get_or_fetch(NAME)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    store.gate.set()
    assert (await second).info is FILE


async def test_a_fault_is_everybodys_and_is_not_remembered() -> None:
    store = Store()
    catalogue = MetadataCache(store, 10, lambda: True)
    store.away = True
    results = await asyncio.gather(*(catalogue.get_or_fetch(NAME) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [ServiceUnavailable] * 3
    store.away = False
    await catalogue.get_or_fetch(NAME)
    assert catalogue._in_flight == {}


async def test_no_more_than_so_many() -> None:
    store = Store()
    catalogue = MetadataCache(store, 3, lambda: True)
    for number in range(10):
        name = MediaName("", str(number))
        store.files[name] = FILE
        await catalogue.get_or_fetch(name)
    assert [name.filename for name in catalogue._entries] == ["7", "8", "9"]


@pytest.mark.parametrize("payload", [b"", b"x", b"{}", b'["a"]', b"[1, 2, 3]", b"\xff", b"null", b'[["x"], "y"]'])
async def test_what_is_no_message_means_anything(payload: bytes) -> None:
    store = Store()
    catalogue = MetadataCache(store, 10, lambda: True)
    await catalogue.get_or_fetch(NAME)
    catalogue.on_invalidation(b"c", payload)
    await catalogue.get_or_fetch(NAME)
    assert store.asked == 2


async def turns() -> None:
    """Let every task go as far as it can; no timer, since the clock may stand still."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_question_that_takes_long_is_not_everybodys(clock: Clock) -> None:
    """Its answer may be as old as the question."""
    store = Store()
    catalogue = MetadataCache(store, 10, lambda: True)
    store.gate.clear()
    old = asyncio.create_task(catalogue.get_or_fetch(NAME))
    await turns()
    store.files[NAME] = NEWER
    clock.now += 1.0
    new = asyncio.create_task(catalogue.get_or_fetch(NAME))
    await turns()
    store.gate.set()
    assert (await old).info is FILE
    assert (await new).info is NEWER
    await turns()
    assert catalogue._in_flight == {}


async def test_a_miss_under_way_is_no_answer_for_who_comes_later() -> None:
    store = Store()
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
