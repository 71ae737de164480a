"""The loaders of a process: found, shared, bounded, and dropped."""

import asyncio

import pytest

from services.common.errors import NotFound, ServiceUnavailable
from services.common.live.wakeups import WakeUp, encode_wake_up
from services.stream.live.loaders import LOADER_IDLE_SECONDS, StreamLoaders
from tests.support.waiting import eventually_async
from tests.unit.stream.live.live_streams import STREAM_ID, Clock, NoMarks, Streams

pytestmark = pytest.mark.anyio


class ManyStreams(Streams):
    """Every id is a stream."""

    async def get_stream(self, stream_id: str) -> object:  # type: ignore[override]
        return None if stream_id == "unknown" else await super().get_stream(STREAM_ID)

    async def read_segments(self, stream_id: str, first: int, limit: int = 5000) -> object:  # type: ignore[override]
        del stream_id
        return await super().read_segments(STREAM_ID, first, limit)


def make(streams: Streams, clock: Clock, **bounds: int) -> StreamLoaders:
    all_bounds = {"max_streams": 3, "max_segments": 1000, "max_waiting": 3, "max_waiting_per_stream": 2, **bounds}
    return StreamLoaders(streams, lambda: True, NoMarks(), clock=clock, **all_bounds)


async def test_a_stream_is_loaded_once_and_dropped_when_nobody_asks() -> None:
    streams, clock = Streams(5), Clock()
    loaders = make(streams, clock)
    assert loaders.get(STREAM_ID) is None
    first, second = await asyncio.gather(loaders.open(STREAM_ID), loaders.open(STREAM_ID))
    assert first is second
    assert streams.questions == 1
    assert loaders.get(STREAM_ID) is first
    clock.now += LOADER_IDLE_SECONDS - 1
    loaders.drop_idle()
    assert loaders.stream_count == 1
    clock.now += 2
    loaders.drop_idle()
    assert loaders.stream_count == 0


async def test_unknown_streams_take_no_room() -> None:
    streams = Streams(5)
    loaders = make(streams, Clock())
    for _ in range(10):
        with pytest.raises(NotFound):
            await loaders.open("unknown")
    streams.is_away = True
    with pytest.raises(ServiceUnavailable):
        await loaders.open(STREAM_ID)
    assert loaders.stream_count == 0


async def test_streams_in_memory_are_bounded() -> None:
    loaders = make(ManyStreams(5), Clock())
    for number in range(5):
        await loaders.open(f"s{number}")
    assert loaders.stream_count == 3
    assert loaders.get("s1") is None
    assert loaders.get("s4") is not None


async def test_segments_in_memory_are_bounded() -> None:
    loaders = make(ManyStreams(400), Clock(), max_streams=100)
    for number in range(5):
        await loaders.open(f"s{number}")
    assert loaders.stream_count == 3


async def test_streams_that_are_waited_for_are_not_dropped() -> None:
    streams, clock = ManyStreams(5), Clock()
    loaders = make(streams, clock, max_streams=1)
    loader = await loaders.open("s0")
    with loaders.park(loader):
        wait = asyncio.create_task(loader.wait_for(5, 10, lambda: False))
        await eventually_async(lambda: loader.waiting == 1)
        clock.now += 2 * LOADER_IDLE_SECONDS
        loaders.drop_idle()
        assert loaders.stream_count == 1
        with pytest.raises(ServiceUnavailable, match="too many live streams"):
            await loaders.open("s1")
        streams.add(1)
        loaders.on_wake_up(encode_wake_up(WakeUp("s0", 5, "live")))
        assert await wait
    await loaders.open("s1")
    await loaders.aclose()


async def test_requests_that_wait_are_bounded() -> None:
    """The third one of a stream is refused, the fourth one of the process as well."""
    loaders = make(ManyStreams(5), Clock())
    one, two = await loaders.open("s0"), await loaders.open("s1")

    async def wait(loader: object) -> None:
        assert loader in {one, two}
        chosen = one if loader is one else two
        with loaders.park(chosen):
            await chosen.wait_for(5, 10, lambda: False)

    waits = [asyncio.create_task(wait(loader)) for loader in (one, one, two)]
    await eventually_async(lambda: one.waiting == 2 and two.waiting == 1)
    for loader in (one, two):
        with pytest.raises(ServiceUnavailable, match="too many requests"), loaders.park(loader):
            pass
    for task in waits:
        task.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    assert loaders.waiting == 0
    await loaders.aclose()


async def test_malformed_wake_ups_are_ignored() -> None:
    loaders = make(Streams(5), Clock())
    loader = await loaders.open(STREAM_ID)
    for payload in (b"", b"x", b"{}", b"[1]", encode_wake_up(WakeUp("other", 9, "live"))):
        loaders.on_wake_up(payload)
    assert loader.is_current
    loaders.on_disconnected()
    assert not loader.is_current
