"""The loader of one stream: when it asks the store, what it says meanwhile, and whom it wakes."""

import asyncio
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.common.asgi import ClientDisconnected
from services.common.errors import NotFound, ServiceUnavailable
from services.common.live.segments import Epoch, Segment
from services.common.store.live_store import LivePosition
from services.stream.live.renderings import View
from services.stream.live.stream_loader import StreamLoader
from tests.support.fragmented_mp4 import init
from tests.support.hls_rules import check_playlist, check_reload
from tests.support.waiting import eventually_async
from tests.unit.stream.live.live_streams import STREAM_ID, Clock, NoMarks, Streams

pytestmark = pytest.mark.anyio

SEGMENTS_OF_AN_HOUR = 1800
BYTES_OF_A_SEGMENT = 110
"""What a loader keeps of one: its place in the file, its times, its line of the list, and that compressed."""
BYTES_OF_A_STREAM = 400 * 1024
"""What it keeps besides, however long the stream is; most of it is the state of the compressor."""


class LongStream(Streams):
    """A store that makes segments when they are read: what a test measures is held by the loader."""

    count = 0

    def add(self, count: int, epoch: int = 0) -> None:
        assert self.stream is not None
        assert epoch == 0
        self.count += count
        position = LivePosition(0, last_segment=self.count - 1)
        self.stream = replace(self.stream, position=position, epochs=tuple(self.epochs))

    async def read_segments(self, stream_id: str, first: int, limit: int = 5000) -> Sequence[Segment]:
        last = min(self.count, first + limit)
        return [
            Segment(
                number,
                0,
                250_000 * number,
                250_000 + number % 999,
                180_000 * number,
                180_000,
                90_000,
                1_800_000_000.0 + 2 * number,
                True,
            )
            for number in range(first, last)
        ]


def never() -> bool:
    return False


class Hearing:
    """Whether wake-ups come."""

    def __init__(self) -> None:
        self.up = True

    def __call__(self) -> bool:
        return self.up


def make(streams: Streams, clock: Clock | None = None, hearing: Hearing | None = None) -> StreamLoader:
    return StreamLoader(STREAM_ID, streams, hearing or Hearing(), NoMarks(), clock or Clock())


def is_current(loader: StreamLoader) -> bool:
    return loader.is_current


async def until_listed(loader: StreamLoader, number: int) -> None:
    await eventually_async(lambda: loader.playlist.last_number == number)


async def test_a_thousand_callers_are_one_question() -> None:
    """Row 28: what a replica that has just started asks the store."""
    streams = Streams(5)
    loader = make(streams)
    await asyncio.gather(*(loader.ensure_current() for _ in range(1000)))
    assert streams.questions == 1
    assert loader.playlist.last_number == 4
    await loader.ensure_current()
    assert streams.questions == 1


async def test_the_store_is_asked_more_often_while_no_wake_ups_come() -> None:
    """Row 25: each half target duration, else after one and a half."""
    streams, clock, hearing = Streams(5), Clock(), Hearing()
    loader = make(streams, clock, hearing)
    await loader.ensure_current()
    clock.now += 1.1
    assert is_current(loader)
    hearing.up = False
    await loader.ensure_current()
    assert streams.questions == 2, "not current any more"
    hearing.up = True
    loader.forget_wake_ups()
    assert not is_current(loader), "wake-ups were lost"
    await loader.ensure_current()
    clock.now += 2.9
    assert is_current(loader)
    clock.now += 0.2
    assert not is_current(loader)


async def test_a_wake_up_during_a_question_is_not_lost() -> None:
    streams = Streams(5)
    loader = make(streams)
    await loader.ensure_current()
    streams.gate.clear()
    streams.add(1)
    loader.wake_up(5, "live")
    await eventually_async(lambda: streams.questions == 2)
    streams.add(1)
    loader.wake_up(6, "live")
    streams.gate.set()
    await eventually_async(lambda: loader.playlist.last_number == 6)
    assert streams.questions == 3


async def test_a_wake_up_that_says_nothing_new_asks_nothing() -> None:
    streams = Streams(5)
    loader = make(streams)
    await loader.ensure_current()
    loader.wake_up(4, "live")
    assert is_current(loader)
    loader.wake_up(4, "interrupted")
    assert not is_current(loader)


async def test_streams_that_nobody_watches_are_not_asked_for() -> None:
    streams, clock = Streams(5), Clock()
    loader = make(streams, clock)
    await loader.ensure_current()
    clock.now += 60
    loader.wake_up(5, "live")
    await asyncio.sleep(0.05)
    assert streams.questions == 1
    assert not is_current(loader)


async def test_all_that_wait_are_woken_by_one_question() -> None:
    streams = Streams(5)
    loader = make(streams)
    await loader.ensure_current()
    waits = [asyncio.create_task(loader.wait_for(5, 5, never)) for _ in range(1000)]
    later = asyncio.create_task(loader.wait_for(6, 5, never))
    await eventually_async(lambda: loader.waiting == 1001)
    streams.add(1)
    loader.wake_up(5, "live")
    assert set(await asyncio.gather(*waits)) == {True}
    assert streams.questions == 2
    assert not later.done()
    streams.set_state("ended")
    loader.wake_up(5, "ended")
    assert await later, "the end answers all"
    assert loader.waiting == 0
    await loader.aclose()


async def test_a_wait_ends_with_its_time_its_client_or_its_stream() -> None:
    streams = Streams(5)
    loader = make(streams)
    await loader.ensure_current()
    assert not await loader.wait_for(5, 0.02, never)
    with pytest.raises(ClientDisconnected):
        await loader.wait_for(5, 10, lambda: True)
    wait = asyncio.create_task(loader.wait_for(5, 10, never))
    await eventually_async(lambda: loader.waiting == 1)
    streams.stream = None
    loader.wake_up(9, "ended")
    with pytest.raises(NotFound):
        await wait
    assert loader.waiting == 0
    with pytest.raises(NotFound):
        await loader.ensure_current()


async def test_closing_ends_all_waits() -> None:
    streams = Streams(5)
    loader = make(streams)
    await loader.ensure_current()
    wait = asyncio.create_task(loader.wait_for(5, 10, never))
    await eventually_async(lambda: loader.waiting == 1)
    await loader.aclose()
    with pytest.raises(ServiceUnavailable, match="shutting down"):
        await wait


async def test_a_list_that_is_known_stays_while_the_store_is_away() -> None:
    """Row 24."""
    streams, clock = Streams(5), Clock()
    loader = make(streams, clock)
    streams.is_away = True
    with pytest.raises(ServiceUnavailable):
        await loader.ensure_current()
    streams.is_away = False
    await loader.ensure_current()
    streams.is_away = True
    clock.now += 5
    await loader.ensure_current()
    asked = streams.questions
    await loader.ensure_current()
    assert streams.questions == asked, "not asked again at once"
    assert loader.playlist.last_number == 4
    streams.is_away = False
    streams.add(1)
    clock.now += 1
    await loader.ensure_current()
    assert loader.playlist.last_number == 5


async def test_a_store_that_hangs_delays_a_known_list_by_a_second() -> None:
    streams, clock = Streams(5), Clock()
    loader = make(streams, clock)
    await loader.ensure_current()
    streams.gate.clear()
    clock.now += 5
    began = asyncio.get_running_loop().time()
    await loader.ensure_current()
    assert asyncio.get_running_loop().time() - began < 3
    streams.gate.set()
    await loader.aclose()


async def test_unknown_segments_are_asked_for_four_times_a_second() -> None:
    streams = Streams(5)
    loader = StreamLoader(STREAM_ID, streams, Hearing(), NoMarks())
    await loader.ensure_current()
    await asyncio.gather(*(loader.ask_again() for _ in range(500)))
    assert streams.questions == 2


async def test_segments_of_an_epoch_that_is_not_known_yet_wait_for_it() -> None:
    """The store's answers are of two moments: what the first one does not count is not listed."""
    streams = Streams(5)
    loader = make(streams)
    streams.gate.clear()
    question = asyncio.create_task(loader.ensure_current())
    await eventually_async(lambda: streams.questions == 1)
    streams.epochs.append(Epoch(1, init(), 90_000, 0, 900_000, 1_800_000_010.0))
    streams.add(2, epoch=1)
    streams.gate.set()
    await question
    assert loader.playlist.last_number == 4
    before = loader.playlist.render()
    loader.wake_up(6, "live")
    await eventually_async(lambda: loader.playlist.last_number == 6)
    check_reload(before, loader.playlist.render())


async def test_an_ended_stream_is_a_vod_list_only_where_nobody_has_seen_another() -> None:
    fresh, old = Streams(5, "ended", datetime.now(UTC)), Streams(5, "ended", datetime.now(UTC) - timedelta(hours=1))
    for streams, kind in ((fresh, "EVENT"), (old, "VOD")):
        loader = make(streams)
        await loader.ensure_current()
        text = loader.playlist.render()
        assert check_playlist(text).ended
        assert f"PLAYLIST-TYPE:{kind}" in text


async def test_segments_that_are_missing_are_no_list() -> None:
    streams = Streams(5)
    streams.segments.clear()
    with pytest.raises(ServiceUnavailable, match="incomplete"):
        await make(streams).ensure_current()
    streams.set_state("ended")  # without a file: they have gone with the upload
    with pytest.raises(NotFound):
        await make(streams).ensure_current()


async def test_reloads_may_block_after_a_steady_cadence_and_for_ever() -> None:
    streams, clock, marks = Streams(5), Clock(), NoMarks()
    loader = StreamLoader(STREAM_ID, streams, Hearing(), marks, clock)
    await loader.ensure_current()
    for number in range(5, 10):
        assert "CAN-BLOCK-RELOAD" not in loader.playlist.render() or number > 8
        streams.add(1)
        clock.now += 2
        loader.used_at = clock.now
        loader.wake_up(number, "live")
        await until_listed(loader, number)
    assert "CAN-BLOCK-RELOAD=YES" in loader.playlist.render()
    assert marks.marked == {STREAM_ID}
    clock.now += 100
    streams.add(3)
    await loader.ensure_current()
    assert "CAN-BLOCK-RELOAD=YES" in loader.playlist.render()
    other = StreamLoader(STREAM_ID, streams, Hearing(), marks, clock)
    await other.ensure_current()
    assert "CAN-BLOCK-RELOAD=YES" in other.playlist.render()


async def test_what_a_stream_of_a_day_holds_is_its_index_and_its_lines() -> None:
    """43,200 segments by a simulated clock: after each hour the same bytes for each segment, and nothing beside them grows.

    Each of the last 60 segments before a measurement comes alone, with a delta, a window and both forms of the whole list.
    """
    streams, clock = LongStream(3), Clock()
    tracemalloc.start()
    try:
        loader = make(streams, clock)
        await loader.ensure_current()
        for hours in (1, 6, 12, 24):
            for count in (hours * SEGMENTS_OF_AN_HOUR - 60 - streams.count, *(1 for _ in range(60))):
                streams.add(count)
                clock.now += 2
                loader.forget_wake_ups()
                await loader.ensure_current()
                assert 0 < rendered_bytes(loader, View(delta=True), gzip=False) < 4 * 1024
                assert rendered_bytes(loader, View(window=600), gzip=True) < 16 * 1024
                assert rendered_bytes(loader, View(), gzip=False) < 40 * loader.segment_count
                compressed = rendered_bytes(loader, View(), gzip=True)
            assert loader.segment_count == hours * SEGMENTS_OF_AN_HOUR
            assert compressed < 400 * 1024
            loader.renderings.clear()  # as the next segment does
            held = tracemalloc.get_traced_memory()[0]
            assert held < BYTES_OF_A_SEGMENT * loader.segment_count + BYTES_OF_A_STREAM, f"after {hours} h"
    finally:
        tracemalloc.stop()
    check_playlist((loader.renderings.get(View(delta=True), gzip=False) or b"").decode())


def rendered_bytes(loader: StreamLoader, view: View, *, gzip: bool) -> int:
    return len(loader.renderings.get(view, gzip=gzip) or b"")
