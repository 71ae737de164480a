"""Viewer counts on a real Redis: several counters, as replicas have them, and clocks that are set by hand."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.common.bus.redis import RedisClient
from services.common.live.viewer_counts import BUCKETS, VIEWER_TARGETS, count_key, salt_key
from services.stream.live.viewers import ViewerCounter
from tests.support.databases import ServerProcess
from tests.support.waiting import eventually_async

pytestmark = pytest.mark.anyio

TARGET = 2


class Replica:
    """A counter with what it publishes."""

    def __init__(self, redis: RedisClient) -> None:
        self.now = time.time()
        self.published: list[int] = []
        self.counter = ViewerCounter(redis, self.publish, lambda: self.now)

    async def publish(self, topic: str, type: str, data: Any, *, conflation_key: bool) -> None:  # noqa: A002
        assert (topic, type, conflation_key) == ("live/s", "live.viewers", True)
        self.published.append(data["viewers"])

    def see(self, *viewers: str) -> None:
        for viewer in viewers:
            self.counter.add("s", TARGET, viewer, "agent")


@pytest.fixture
async def redis(dedicated_redis: ServerProcess) -> AsyncIterator[RedisClient]:
    client = RedisClient.from_url(dedicated_redis.url)
    yield client
    await client.aclose()


async def test_a_viewer_of_two_replicas_is_one(redis: RedisClient) -> None:
    one, two = Replica(redis), Replica(redis)
    one.see("a", "b", "c", "c")
    two.see("c", "d")
    await one.counter.count()
    await two.counter.count()
    assert two.counter.viewers("s") == 4
    assert one.published == [3]
    assert two.published == [], "an event a second over all replicas"

    async def is_published() -> bool:
        await two.counter.count()
        return two.published == [4]

    await eventually_async(is_published, 3)
    await one.counter.count()
    assert one.counter.viewers("s") == 4
    assert one.published == [3], "what another has published is not published again"
    assert await redis.execute("GET", count_key("s")) == b"4"


async def test_viewers_that_ask_no_more_are_forgotten(redis: RedisClient) -> None:
    replica = Replica(redis)
    replica.see(*(f"viewer {number}" for number in range(50)))
    await replica.counter.count()
    assert abs(replica.counter.viewers("s") - 50) <= 2  # an estimate
    replica.now += VIEWER_TARGETS * TARGET - 0.1
    await replica.counter.count()
    assert replica.counter.viewers("s") >= 48
    replica.now += BUCKETS * VIEWER_TARGETS * TARGET

    async def is_zero() -> bool:
        await replica.counter.count()
        return replica.published[-1] == 0

    await eventually_async(is_zero, 3)
    for _ in range(3):
        await replica.counter.count()
    assert not replica.counter._audiences, "a stream without viewers has no entry"


async def test_many_viewers_are_counted_in_one_call(redis: RedisClient) -> None:
    replica = Replica(redis)
    replica.see(*(f"viewer {number}" for number in range(3500)))
    await replica.counter.count()
    assert abs(replica.counter.viewers("s") - 3500) < 3500 * 0.05


async def test_nothing_that_identifies_anybody_is_stored(redis: RedisClient) -> None:
    replica = Replica(redis)
    replica.see("203.0.113.77")
    await replica.counter.count()
    keys = await redis.execute("KEYS", "*")
    assert salt_key(replica.now).encode() in keys
    for key in keys:
        value = await redis.execute("DUMP", key)
        assert b"203.0.113.77" not in value
        assert b"agent" not in value
        assert await redis.execute("TTL", key) > 0
    assert not replica.counter._audiences["s"].seen


async def test_without_redis_nobody_is_counted_and_it_begins_anew(
    redis: RedisClient, dedicated_redis: ServerProcess
) -> None:
    """Row 25: counts restart."""
    replica = Replica(redis)
    replica.see("a", "b")
    await replica.counter.count()
    assert replica.counter.viewers("s") == 2
    dedicated_redis.kill()
    replica.see("a")
    await replica.counter.count()
    assert replica.counter.viewers("s") == 0
    dedicated_redis.start()
    await redis.execute("FLUSHALL")

    async def is_counted() -> bool:
        replica.see("a")
        await replica.counter.count()
        return replica.counter.viewers("s") == 1

    await eventually_async(is_counted, 5)
