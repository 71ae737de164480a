"""Redis is killed, hangs, is flushed, ends the subscription: sockets stay open, and every possible gap is reported."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from services.common.bus.publisher import EventPublisher
from services.common.errors import ServiceUnavailable
from tests.support.processes import ServiceProcess
from tests.support.waiting import eventually_async
from tests.support.websocket_client import (
    SocketReplicas,
    WebSocketClient,
    http_client,
    push_message,
    run_socket_replicas,
)

pytestmark = pytest.mark.anyio
EVENT = {"type": "t", "data": 1}


@pytest.fixture
def two_replicas(tmp_path: Path) -> Iterator[SocketReplicas]:
    with run_socket_replicas(tmp_path) as pair:
        yield pair


async def all_ready(two: SocketReplicas) -> bool:
    for service in two.services:
        async with http_client(service) as asking:
            if (await asking.get("/readyz")).status_code != 200:
                return False
    return True


async def test_redis_is_killed_and_restarted(two_replicas: SocketReplicas) -> None:
    clients = [
        await WebSocketClient.connect(two_replicas[0], topics="a"),
        await WebSocketClient.connect(two_replicas[1]),
    ]
    two_replicas.redis.kill()
    began = time.monotonic()
    for target in ("all", clients[0].sid, "topic:a"):
        answer = await push_message(two_replicas[0], target, EVENT)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
    assert time.monotonic() - began < 3
    with pytest.raises(InvalidStatus) as refused:
        await WebSocketClient.connect(two_replicas[0])
    assert refused.value.response.status_code == 503
    for service in two_replicas.services:
        async with http_client(service) as asking:
            assert (await asking.get("/livez")).status_code == 200
            assert (await asking.get("/readyz")).status_code == 503
            assert (await asking.get("/sockets")).status_code == 503
    refusal = await clients[0].subscribe("b")
    assert refusal["type"] == "error"
    for client in clients:
        await client.assert_nothing_pending()
    await asyncio.sleep(5)
    two_replicas.redis.start()
    back = time.monotonic()
    for client in clients:
        resync = await client.receive_event()
        assert (resync["type"], resync["source"]) == ("socket.resync", "/socket")
    assert time.monotonic() - back < 5
    # The replicas that hold the connections have restored the session records.
    for client in clients:
        assert (await push_message(two_replicas[0], client.sid, EVENT)).json()["status"] == "sent"
        assert (await client.receive_event())["data"] == 1
    await push_message(two_replicas[1], "topic:a", {"type": "t", "data": "topic"})
    assert (await clients[0].receive_event())["data"] == "topic"
    again = await clients[0].reconnect(two_replicas[1])
    assert (again.sid, again.first_frame["recovered"]) == (clients[0].sid, True)
    await again.assert_nothing_pending()
    await again.close()
    await clients[1].close()


async def test_client_offline_during_a_redis_flush_gets_a_gap(two_replicas: SocketReplicas) -> None:
    client = await WebSocketClient.connect(two_replicas[0])
    client.abort()
    await asyncio.sleep(0.3)
    two_replicas.redis.kill()
    two_replicas.redis.start()
    await eventually_async(lambda: all_ready(two_replicas))
    back = await client.reconnect(two_replicas[1])
    assert back.first_frame["recovered"] is False
    assert back.sid != client.sid
    await back.close()


async def test_redis_hangs_for_9_s(two_replicas: SocketReplicas) -> None:
    client = await WebSocketClient.connect(two_replicas[0])
    ids = [
        (await push_message(two_replicas[1], client.sid, {"type": "t", "data": number})).json()["id"]
        for number in range(3)
    ]
    two_replicas.redis.pause()
    began = time.monotonic()
    answer = await push_message(two_replicas[1], client.sid, {"type": "t", "data": "in the silence", "id": "unsure"})
    assert answer.status_code == 503
    assert time.monotonic() - began < 3
    await asyncio.sleep(9 - (time.monotonic() - began))
    two_replicas.redis.resume()
    await eventually_async(lambda: all_ready(two_replicas), 5)
    # The caller does not know the outcome and repeats the push with the same id.
    answer = await push_message(two_replicas[1], client.sid, {"type": "t", "data": "in the silence", "id": "unsure"})
    assert answer.json()["status"] == "sent"
    await push_message(two_replicas[1], client.sid, {"type": "the.end"})
    seen = []
    while (event := await client.receive_event())["type"] != "the.end":
        seen.append(event["id"])
    assert seen == [*ids, "unsure"], "nothing twice, nothing lost, nothing flagged: Redis forgot nothing"
    await client.close()


async def test_broken_subscription_misses_no_event(two_replicas: SocketReplicas) -> None:
    client = await WebSocketClient.connect(two_replicas[0], topics="a")
    seen: list[int] = []

    async def reading() -> None:
        while len(seen) < 400:
            event = await client.receive_event()
            assert event["type"] == "t", event
            seen.append(event["data"])

    task = asyncio.create_task(reading())
    async with EventPublisher.from_url(two_replicas.redis.url, "/x") as other:
        for number in range(400):
            if number % 3 == 0:
                await other.send(client.sid, "t", number)
            elif number % 3 == 1:
                await other.publish("a", "t", number)
            else:
                await other.broadcast("t", number)
            if number % 40 == 20:
                await other.redis.execute("CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.sleep(0.003)
        async with asyncio.timeout(10):
            await task
    assert seen == list(range(400))
    await client.assert_nothing_pending()
    await client.close()


async def test_missed_events_beyond_the_history_are_a_gap(two_replicas: SocketReplicas) -> None:
    """A paused replica reads nothing, Redis ends its subscription, and more events pass than a history holds."""
    quiet, busy = (
        await WebSocketClient.connect(two_replicas[0]),
        await WebSocketClient.connect(two_replicas[0], topics="busy"),
    )
    two_replicas[0].child.send_signal(signal.SIGSTOP)
    async with EventPublisher.from_url(two_replicas.redis.url, "/x") as other:
        await other.redis.execute("CLIENT", "KILL", "TYPE", "pubsub")
        for number in range(600):
            await other.publish("busy", "t", number)
    two_replicas[0].child.send_signal(signal.SIGCONT)
    assert (await busy.receive_event())["type"] == "socket.resync"
    numbers = [(await busy.receive_event())["data"]]
    while numbers[-1] != 599:
        numbers.append((await busy.receive_event())["data"])
    assert numbers == list(range(numbers[0], 600))
    await quiet.assert_nothing_pending()
    await quiet.close()
    await busy.close()


@pytest.mark.parametrize("count", [1, 200, 1500])
async def test_events_of_a_restarted_redis_reach_a_replica_that_was_paused(
    two_replicas: SocketReplicas, count: int
) -> None:
    """Behind one resync for the loss. What is more than the history keeps is a second gap."""
    client = await WebSocketClient.connect(two_replicas[0], topics="a")
    two_replicas[0].child.send_signal(signal.SIGSTOP)
    two_replicas.redis.kill()
    two_replicas.redis.start()
    async with EventPublisher.from_url(two_replicas.redis.url, "/x") as other:
        for number in range(count):
            await other.publish("a", "t", number)
    two_replicas[0].child.send_signal(signal.SIGCONT)
    while not client.events or client.events[-1]["data"] != count - 1:
        await client.receive_event()
    types = [event["type"] for event in client.events]
    numbers = [event["data"] for event in client.events if event["type"] == "t"]
    assert types[0] == "socket.resync"
    assert types.count("socket.resync") == (1 if count <= 256 else 2)
    assert numbers == list(range(count))[-len(numbers) :]
    assert len(numbers) >= min(count, 256)
    await client.close()


async def test_subscriber_over_its_output_buffer_recovers(two_replicas: SocketReplicas) -> None:
    """Redis ends a subscription with 32 MB of unread output (the default), then more events pass than a history holds.

    The kernel takes up to 36 MB before that, depending on the machine, and the replica reads them in one burst. So the bytes are in
    the events of a topic whose only client is gone, and the client that is watched gets small ones. The former are below 16 KiB:
    Valkey 9 refers to longer strings (min-string-size-copy-avoid), and does not count them as output.
    """
    client = await WebSocketClient.connect(two_replicas[0])
    gone = await WebSocketClient.connect(two_replicas[0], topics="filler")
    two_replicas[0].child.send_signal(signal.SIGSTOP)
    gone.abort()
    filler = "x" * 15_000
    sent = 0
    async with EventPublisher.from_url(two_replicas.redis.url, "/x") as other:
        before = await count_subscriptions(other)
        while await count_subscriptions(other) == before:
            assert sent < 2000, "Redis keeps the subscription"
            for _ in range(20):
                await other.broadcast("t", sent)
                sent += 1
                for _ in range(5):
                    await other.publish("filler", "t", filler)
        for number in range(sent, sent + 600):
            await other.broadcast("t", number)
        sent += 600
        two_replicas[0].child.send_signal(signal.SIGCONT)
        seen: list[int] = []
        while (event := await client.receive_event())["type"] == "t":
            seen.append(event["data"])
        assert event["type"] == "socket.resync"
        assert seen == list(range(len(seen)))
        assert 0 < len(seen) < sent
        await other.broadcast("t", sent)
        after_gap = [(await client.receive_event())["data"]]
        while after_gap[-1] != sent:
            after_gap.append((await client.receive_event())["data"])
        assert after_gap == list(range(after_gap[0], sent + 1)), "the only gap is where it was told of"
        assert after_gap[0] > len(seen)
    await client.assert_nothing_pending()
    await client.close()


async def count_subscriptions(publisher: EventPublisher) -> int:
    """How many subscriptions Redis has. It closes one whose output is not read."""
    clients: bytes = await publisher.redis.execute("CLIENT", "LIST", "TYPE", "pubsub")
    return len(clients.splitlines())


async def test_operator_disconnect_while_the_replica_is_unsubscribed(two_replicas: SocketReplicas) -> None:
    """The replica resumes, finds no record, and must not take the sid for one that a flush has removed."""
    client = await WebSocketClient.connect(two_replicas[0])
    two_replicas[0].child.send_signal(signal.SIGSTOP)
    async with EventPublisher.from_url(two_replicas.redis.url, "/x") as other, http_client(two_replicas[1]) as asking:
        await other.redis.execute("CLIENT", "KILL", "TYPE", "pubsub")
        assert (await asking.delete(f"/sockets/{client.sid}")).status_code == 204
        two_replicas[0].child.send_signal(signal.SIGCONT)
        assert await client.wait_for_close_code() == 1008
        assert (await asking.get(f"/sockets/{client.sid}")).status_code == 404
    back = await client.reconnect(two_replicas[1])
    assert back.sid != client.sid
    await back.close()


async def test_redis_is_flushed_while_clients_are_connected(two_replicas: SocketReplicas) -> None:
    client = await WebSocketClient.connect(two_replicas[0], topics="a", meta='{"n":1}')
    before = client.last_sequence.partition("-")[0]
    async with EventPublisher.from_url(two_replicas.redis.url, "/x") as other:
        await other.redis.execute("FLUSHALL")
        with pytest.raises(ServiceUnavailable):
            await other.send(client.sid, "t", "too early: who is there is not known yet")
        resync = await client.receive_event("socket.resync")
        assert not resync["sequence"].startswith(before)
        assert (await other.send(client.sid, "t", 1)).status == "sent"
        assert (await client.receive_event())["data"] == 1
        await other.publish("a", "t", 2)
        assert (await client.receive_event())["data"] == 2
    async with http_client(two_replicas[1]) as asking:
        answer = await asking.get(f"/sockets/{client.sid}")
        async with asyncio.timeout(10):
            while answer.status_code == 503:  # it cannot know yet who is there
                await asyncio.sleep(0.05)
                answer = await asking.get(f"/sockets/{client.sid}")
    said = answer.json()
    assert answer.status_code == 200, said
    assert (said["state"], said["topics"], said["meta"]) == ("online", ["a"], {"n": 1})
    await client.close()


async def test_paused_replica_misses_no_event(two_replicas: SocketReplicas) -> None:
    """Longer than its node record lives: its sids were offline meanwhile, and are online again without a new connection."""
    client, other_client = (
        await WebSocketClient.connect(two_replicas[0]),
        await WebSocketClient.connect(two_replicas[1]),
    )
    two_replicas[0].child.send_signal(signal.SIGSTOP)

    async def state(wanted: str) -> bool:
        async with http_client(two_replicas[1]) as asking:
            return bool((await asking.get(f"/sockets/{client.sid}")).json()["state"] == wanted)

    async with EventPublisher.from_url(two_replicas.redis.url, "/x") as other:
        assert (await other.send(client.sid, "t", 0)).status == "sent"
        await eventually_async(lambda: state("away"), 20)
        for number in (1, 3, 5):
            assert (await other.send(client.sid, "t", number)).status == "queued"
            await other.broadcast("t", number + 1)
    two_replicas[0].child.send_signal(signal.SIGCONT)
    assert [(await client.receive_event())["data"] for _ in range(7)] == list(range(7))
    await eventually_async(lambda: state("online"), 5)
    assert [(await other_client.receive_event())["data"] for _ in range(3)] == [2, 4, 6]
    await client.assert_nothing_pending()
    for one in (client, other_client):
        await one.close()


async def test_restored_redis_snapshot_reuses_no_sequence_numbers(two_replicas: SocketReplicas) -> None:
    """A Redis with snapshots: after a restart it has older data, and would use sequence numbers a second time."""
    client, gone = await WebSocketClient.connect(two_replicas[0]), await WebSocketClient.connect(two_replicas[0])
    async with EventPublisher.from_url(two_replicas.redis.url, "/x") as other:
        await other.broadcast("t", 1)
        await other.redis.execute("CONFIG", "SET", "save", "3600 1")
        await other.redis.execute("SAVE")
        for number in (2, 3):
            await other.broadcast("t", number)
    assert [(await client.receive_event())["data"] for _ in range(3)] == [1, 2, 3]
    assert [(await gone.receive_event())["data"] for _ in range(3)] == [1, 2, 3]
    gone.abort()
    two_replicas.redis.kill()
    two_replicas.redis.start()
    assert (await client.receive_event())["type"] == "socket.resync"
    back = await gone.reconnect(two_replicas[1])
    assert back.first_frame["recovered"] is False
    await push_message(two_replicas[0], "all", {"type": "t", "data": 4})
    for one in (client, back):
        assert (await one.receive_event())["data"] == 4
        await one.assert_nothing_pending()
        await one.close()


async def test_service_starts_without_redis_and_becomes_ready_with_it(tmp_path: Path) -> None:
    with run_socket_replicas(tmp_path, 0) as made:
        made.redis.kill()
        service = made.start(ready=False)
        async with asyncio.timeout(15):
            while True:
                try:
                    async with http_client(service) as asking:
                        assert (await asking.get("/readyz")).status_code == 503
                        break
                except (OSError, httpx.TransportError):
                    await asyncio.sleep(0.05)
        made.redis.start()
        began = time.monotonic()
        await eventually_async(readiness_check(service))
        assert time.monotonic() - began < 5
        client = await WebSocketClient.connect(service)
        await client.assert_nothing_pending()
        # This start cannot be told from one after a flush: an unknown sid is reported as unknown only after the settling period.
        nobody = "A" * 51 + "Q"
        assert (await push_message(service, client.sid, EVENT)).json()["status"] == "sent"
        assert (await push_message(service, nobody, EVENT)).status_code == 503
        await eventually_async(lambda: is_unknown(service, nobody))
        assert time.monotonic() - began < 10
        await client.close()


async def is_unknown(service: ServiceProcess, sid: str) -> bool:
    return (await push_message(service, sid, EVENT)).status_code == 404


def readiness_check(service: ServiceProcess) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return await asyncio.to_thread(service.is_ready)

    return check
