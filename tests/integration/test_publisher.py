"""The publisher on a real Redis, and the same from another client written after docs/messages.md."""

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import redis as another_client

from deploy.local.ports import HOST, free_ports
from gridcast._bus import events
from gridcast._bus.keys import INVALIDATION_CHANNEL
from gridcast._bus.redis import REDIS_COMMAND_TIMEOUT_SECONDS
from gridcast._bus.wakeup import PUBLISH_EVENT, Wakeup
from gridcast.publish import EventTooLarge, InvalidEvent, Publisher, RedisUnavailable, SessionsNotReady
from services.common.bus.publisher import EventPublisher
from services.common.bus.redis import RedisClient
from services.common.bus.subscription import Subscription
from services.common.errors import BadRequest, ContentTooLarge, ServiceUnavailable
from tests.support.databases import ServerProcess
from tests.support.waiting import eventually_async
from tests.support.websocket_client import SocketReplicas, WebSocketClient

pytestmark = pytest.mark.anyio
DOCUMENT = (Path(__file__).parents[2] / "docs" / "messages.md").read_text("utf-8")
SCRIPT = "".join(re.findall(r"```lua\n(.*?)```", DOCUMENT, re.DOTALL))
SID = "B" * 51 + "Q"


@pytest.fixture
async def publisher(redis_url: str) -> AsyncIterator[EventPublisher]:
    async with EventPublisher.from_url(redis_url, "/test") as made:
        yield made


async def is_true(condition: Callable[[], bool]) -> bool:
    return condition()


async def subscribe_and_collect(push: EventPublisher, *channels: str) -> tuple[Subscription, list[bytes]]:
    messages: list[bytes] = []
    subscription = Subscription(push.redis, channels, lambda _channel, payload: messages.append(payload), name="test")
    subscription.start()
    await eventually_async(lambda: is_true(lambda: subscription.subscribed))
    return subscription, messages


async def test_push_writes_sequence_history_and_wake_up(publisher: EventPublisher) -> None:
    subscription, messages = await subscribe_and_collect(publisher, "gridcast:all", "gridcast:topic:a")
    first = await publisher.broadcast("t", {"n": 1}, id="one")
    second = await publisher.publish("a", "t", {"n": 2})
    third = await publisher.broadcast("t", {"n": 3})
    await subscription.barrier()
    await subscription.aclose()
    epoch = str(first.sequence).partition("-")[0]
    assert [r.sequence for r in (first, second, third)] == [f"{epoch}-{n}" for n in (1, 2, 3)]
    assert [r.status for r in (first, second, third)] == ["sent"] * 3
    heads = [message.partition(b"\n")[0].decode().split("\t") for message in messages]
    assert heads == [
        [f"{epoch}-1", "all", "", "", ""],
        [f"{epoch}-2", "topic", "a", "", ""],
        [f"{epoch}-3", "all", "", "", ""],
    ]
    event = events.decode_event(messages[0].partition(b"\n")[2].decode())
    assert (event.id, event.source, event.type, event.data) == ("one", "/test", "t", {"n": 1})
    entries = await publisher.redis.execute("XRANGE", f"gridcast:history:{epoch}:all:", "-", "+")
    assert [(number, entry[b"previous"]) for number, entry in entries] == [(b"1-0", b"0"), (b"3-0", b"1")]
    assert 200 < await publisher.redis.execute("TTL", f"gridcast:history:{epoch}:all:") <= 240


async def test_event_id_is_deduplicated_per_target_and_source(publisher: EventPublisher, redis_url: str) -> None:
    subscription, messages = await subscribe_and_collect(publisher, "gridcast:all", "gridcast:topic:a")
    first = await publisher.broadcast("t", 1, id="x")
    again = await publisher.broadcast("t", 1, id="x")
    assert (first.duplicate, again.duplicate, again.sequence) == (False, True, first.sequence)
    assert not (await publisher.publish("a", "t", 1, id="x")).duplicate
    async with EventPublisher.from_url(redis_url, "/other") as other:
        assert not (await other.broadcast("t", 1, id="x")).duplicate
    for number in range(3):
        assert not (await publisher.broadcast("t", number, id="progress", conflation_key=True)).duplicate
    await subscription.barrier()
    await subscription.aclose()
    assert len(messages) == 6


async def test_concurrent_pushes_are_all_delivered(publisher: EventPublisher) -> None:
    """Every sequence number is used once, and of ten pushes with one id nine are duplicates."""
    receipts = await asyncio.gather(*(publisher.broadcast("t", n, id=f"id-{n % 50}") for n in range(500)))
    fresh = [receipt for receipt in receipts if not receipt.duplicate]
    assert len(fresh) == 50
    assert sorted(int(str(receipt.sequence).partition("-")[2]) for receipt in fresh) == list(range(1, 51))


async def test_conflated_events_are_numbered_and_not_stored(publisher: EventPublisher) -> None:
    subscription, messages = await subscribe_and_collect(publisher, "gridcast:all")
    await publisher.broadcast("t", 1)
    receipt = await publisher.broadcast("file.progress", {"received": 5}, conflation_key="upload-1")
    await publisher.broadcast("file.progress", {"received": 6}, conflation_key=True)
    await publisher.broadcast("t", 2)
    await subscription.barrier()
    await subscription.aclose()
    assert [message.split(b"\t")[3] for message in messages] == [
        b"",
        b"/test file.progress upload-1",
        b"/test file.progress ",
        b"",
    ]
    epoch = str(receipt.sequence).partition("-")[0]
    entries = await publisher.redis.execute("XRANGE", f"gridcast:history:{epoch}:all:", "-", "+")
    assert [(number, entry[b"previous"]) for number, entry in entries] == [(b"1-0", b"0"), (b"4-0", b"1")]


async def test_history_length_is_bounded(publisher: EventPublisher) -> None:
    receipts = [await publisher.publish("a", "t", "x" * 100) for _ in range(1000)]
    epoch = str(receipts[-1].sequence).partition("-")[0]
    assert 256 <= await publisher.redis.execute("XLEN", f"gridcast:history:{epoch}:topic:a") <= 400


async def test_unknown_sids_are_reported(publisher: EventPublisher) -> None:
    for sid in ("", "x", "gridcast:*", "a" * 52):
        receipt = await publisher.send(sid, "t", 1)
        assert (receipt.status, receipt.sequence) == ("unknown", None)
    with pytest.raises(ServiceUnavailable):
        await publisher.send(SID, "t", 1)  # Redis is new: replicas have not had the time to register their clients
    await publisher.redis.execute("HSET", "gridcast:sequence", "settles", "0")
    assert (await publisher.send(SID, "t", 1)).status == "unknown"
    assert await publisher.redis.execute("HGET", "gridcast:sequence", "number") == b"0", "nothing was pushed"


@pytest.mark.parametrize(
    ("kind", "said", "error"),
    [
        ("a b", 1, BadRequest),
        ("", 1, BadRequest),
        ("t", float("nan"), BadRequest),
        ("t", object(), BadRequest),
        ("t", "x" * 70_000, ContentTooLarge),
    ],
)
async def test_invalid_events_are_rejected_before_redis(
    publisher: EventPublisher, kind: str, said: Any, error: type[Exception]
) -> None:
    for attempt in (
        publisher.broadcast(kind, said),
        publisher.publish("a", kind, said),
        publisher.send(SID, kind, said),
    ):
        with pytest.raises(error):
            await attempt
    for attempt in (
        publisher.publish("a b", "t", 1),
        publisher.broadcast("t", 1, id="a b"),
        publisher.broadcast("t", 1, conflation_key="a\t"),
    ):
        with pytest.raises(BadRequest):
            await attempt
    assert await publisher.redis.execute("EXISTS", "gridcast:sequence") == 0


async def test_the_wake_up_of_the_script_is_parsed(publisher: EventPublisher) -> None:
    subscription, messages = await subscribe_and_collect(publisher, "gridcast:topic:a")
    result = await publisher.publish("a", "t", 1, conflation_key="k")
    await subscription.barrier()
    await subscription.aclose()
    parsed = Wakeup.parse(messages[0])
    assert (str(parsed.position), *parsed[1:5]) == (result.sequence, "topic", "a", "/test t k", "")
    assert events.decode_event(parsed.event).id == result.id


async def test_the_client_raises_its_own_errors(redis_url: str) -> None:
    """gridcast.publish without the services."""
    async with Publisher.from_url(redis_url, "/test") as client:
        await client.ping()
        assert (await client.broadcast("t", 1)).status == "sent"
        assert (await client.send("x", "t", 1)).status == "unknown"
        with pytest.raises(SessionsNotReady):
            await client.send(SID, "t", 1)
        with pytest.raises(InvalidEvent):
            await client.publish("a b", "t", 1)
        with pytest.raises(EventTooLarge):
            await client.broadcast("t", "x" * 70_000)
    (port,) = free_ports(1)
    async with Publisher.from_url(f"redis://{HOST}:{port}", "/test") as client:
        with pytest.raises(RedisUnavailable) as refused:
            await client.broadcast("t", 1)
        assert HOST not in str(refused.value)


async def test_invalidation_is_published(publisher: EventPublisher) -> None:
    subscription, messages = await subscribe_and_collect(publisher, INVALIDATION_CHANNEL)
    await publisher.publish_invalidation("dämö/a", 'v".webm')
    await subscription.barrier()
    await subscription.aclose()
    assert [json.loads(message) for message in messages] == [["dämö/a", 'v".webm']]


async def test_refused_connection_fails_immediately_and_a_hanging_one_times_out(dedicated_redis: ServerProcess) -> None:
    async with EventPublisher.from_url(dedicated_redis.url, "/test") as push:
        await push.ping()
        dedicated_redis.pause()
        began = time.monotonic()
        results = await asyncio.gather(*(push.broadcast("t", n) for n in range(100)), return_exceptions=True)
        assert time.monotonic() - began < REDIS_COMMAND_TIMEOUT_SECONDS + 0.5
        assert {type(result) for result in results} == {ServiceUnavailable}
        dedicated_redis.resume()
        await push.ping()
        dedicated_redis.kill()
        began = time.monotonic()
        for _ in range(20):
            with pytest.raises(ServiceUnavailable) as refused:
                await push.broadcast("t", 1)
            assert "127.0.0.1" not in refused.value.detail
            assert refused.value.headers["retry-after"]
        assert time.monotonic() - began < 1
        dedicated_redis.start()
        assert (await push.broadcast("t", 1)).status == "sent", "the first push after the return goes through"


async def test_redis_that_accepts_and_never_replies_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hole:
        async with EventPublisher.from_url(f"redis://127.0.0.1:{hole.getsockname()[1]}", "/test") as push:
            began = time.monotonic()
            with pytest.raises(ServiceUnavailable):
                await push.ping()
            assert time.monotonic() - began < REDIS_COMMAND_TIMEOUT_SECONDS + 0.5


async def test_redis_out_of_memory_or_wrong_password_is_an_error(dedicated_redis: ServerProcess) -> None:
    async with EventPublisher.from_url(dedicated_redis.url, "/test") as push:
        await push.redis.execute("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(ServiceUnavailable):
            await push.broadcast("t", 1)
        await push.redis.execute("CONFIG", "SET", "maxmemory", "0")
        assert (await push.broadcast("t", 1)).status == "sent"
        await push.redis.execute("CONFIG", "SET", "requirepass", "secret")
    async with EventPublisher.from_url(dedicated_redis.url, "/test") as push:
        with pytest.raises(ServiceUnavailable) as refused:
            await push.broadcast("t", 1)
        assert "secret" not in str(refused.value)
    async with EventPublisher.from_url(dedicated_redis.url.replace("redis://", "redis://:secret@"), "/test") as push:
        assert (await push.broadcast("t", 1)).status == "sent"


async def test_subscription_detects_a_half_open_connection(dedicated_redis: ServerProcess) -> None:
    said: list[str] = []
    redis = RedisClient.from_url(dedicated_redis.url)

    async def live(server: str) -> None:
        said.append(f"live {len(server)}")

    subscription = Subscription(
        redis,
        ["a"],
        lambda _channel, payload: said.append(payload.decode()),
        name="test",
        on_subscribed=live,
        on_disconnected=lambda: said.append("lost"),
    )
    subscription.start()

    async def until(count: int, within: float) -> None:
        await eventually_async(lambda: is_true(lambda: len(said) >= count), within)

    await until(1, 3)
    dedicated_redis.pause()
    await until(2, 5)
    assert not subscription.subscribed
    for attempt in (subscription.barrier(), subscription.subscribe("b")):
        with pytest.raises(ServiceUnavailable):
            await attempt
    dedicated_redis.resume()
    await until(3, 5)
    await redis.execute("PUBLISH", "a", "hello")
    await subscription.barrier()
    await subscription.subscribe("b")
    await redis.execute("PUBLISH", "b", "there")
    await subscription.barrier()
    await subscription.unsubscribe("b")
    await redis.execute("PUBLISH", "b", "nobody")
    await subscription.barrier()
    assert said == ["live 40", "lost", "live 40", "hello", "there"]
    await subscription.aclose()
    await redis.aclose()


async def test_subscribing_to_many_channels_is_no_timeout(
    publisher: EventPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes to subscribe to all of them, Redis keeps replying."""
    monkeypatch.setattr("services.common.bus.subscription.REDIS_COMMAND_TIMEOUT_SECONDS", 0.2)
    subscription, messages = await subscribe_and_collect(
        publisher, *(f"gridcast:topic:{number}" for number in range(20_000))
    )
    for topic in ("0", "9999", "19999"):
        await publisher.publish(topic, "t", topic)
    await subscription.barrier()
    await subscription.aclose()
    assert [message.split(b"\t")[2] for message in messages] == [b"0", b"9999", b"19999"]


def test_redis_urls() -> None:
    for url in (
        "http://localhost",
        "localhost:6379",
        "",
        "redis+sentinel://localhost:26379",
        "redis+sentinel:///mymaster",
    ):
        with pytest.raises(ValueError, match=r"Redis|Sentinel"):
            RedisClient.from_url(url)
    for url in (
        "redis://localhost",
        "rediss://:a@localhost:1/2",
        "redis+sentinel://a:1,b:2/mymaster/3",
        "redis+sentinel://a/m",
    ):
        RedisClient.from_url(url)


# docs/messages.md


def test_documented_script_matches_the_code() -> None:
    assert PUBLISH_EVENT.source == SCRIPT


async def test_another_client_pushes_with_the_documented_script(single_replica: SocketReplicas) -> None:
    client = await WebSocketClient.connect(single_replica[0], topics="news")

    def from_elsewhere() -> list[Any]:
        answers = []
        with another_client.Redis.from_url(single_replica.redis.url) as redis:
            sha = redis.script_load(SCRIPT)
            for kind, name in (("sid", client.sid), ("topic", "news"), ("all", ""), ("sid", SID)):
                event = {
                    "specversion": "1.0",
                    "id": f"1-{kind}",
                    "source": "/php",
                    "type": "said",
                    "time": "",
                    "data": kind,
                }
                args = (kind, name, json.dumps(event), "/php", f"1-{kind}", "", "gridcast:test")
                answers.append(redis.evalsha(sha, 1, "gridcast:sequence", *args))
        return answers

    answers = await asyncio.to_thread(from_elsewhere)
    assert [answer[0] for answer in answers] == [b"sent", b"sent", b"sent", b"unknown"]
    for kind, answer in zip(("sid", "topic", "all"), answers, strict=False):
        event = await client.receive_event()
        assert (event["data"], event["sequence"]) == (kind, answer[1].decode())
    # It is in the history like any other.
    back = await client.reconnect(single_replica[0])
    assert back.first_frame["recovered"] is True
    await back.assert_nothing_pending()
    back.last_sequence = client.first_frame["sequence"]
    again = await back.reconnect(single_replica[0])
    assert [(await again.receive_event())["data"] for _ in range(3)] == ["sid", "topic", "all"]
    # And its sender gets the ack.
    async with EventPublisher.from_url(single_replica.redis.url, "/test") as push:
        subscription, messages = await subscribe_and_collect(push, "gridcast:test")
        await again.send({"type": "ack", "id": "1-sid"})
        await eventually_async(lambda: is_true(lambda: bool(messages)))
        await subscription.aclose()
    assert json.loads(messages[0]) == {"type": "ack", "sid": client.sid, "id": "1-sid"}
    await again.close()


async def test_documented_keys_match_redis(single_replica: SocketReplicas) -> None:
    named = re.findall(r"^\| `(gridcast:[^`]+)` \|", DOCUMENT, re.MULTILINE)
    patterns = [re.compile(re.sub(r"<[^>]+>", ".*", name)) for name in named]
    client = await WebSocketClient.connect(single_replica[0], topics="a")
    async with EventPublisher.from_url(single_replica.redis.url, "/test") as push:
        await push.publish("a", "t", 1)
        await push.send(client.sid, "t", 1)
        keys = [key.decode() for key in await push.redis.execute("KEYS", "*")]
        channels = [channel.decode() for channel in await push.redis.execute("PUBSUB", "CHANNELS")]
    assert len(keys) >= 6
    for name in [*keys, *channels]:
        assert any(pattern.fullmatch(name) for pattern in patterns), name
    await client.close()
