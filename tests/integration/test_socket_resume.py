"""Resume: a client that reconnects keeps its sid and gets the events it missed, once and in order, or a report that it cannot."""

import asyncio
import signal

import pytest

from services.common.bus.publisher import EventPublisher
from tests.support.waiting import eventually_async
from tests.support.websocket_client import (
    SocketReplicas,
    WebSocketClient,
    http_client,
    push_message,
)

pytestmark = pytest.mark.anyio


async def test_missed_events_arrive_in_sequence_order_over_all_targets(two_replicas: SocketReplicas) -> None:
    client = await WebSocketClient.connect(two_replicas[0], topics="a")
    await client.subscribe("b")
    await push_message(two_replicas[0], client.sid, {"type": "t", "data": 0})
    assert (await client.receive_event())["data"] == 0
    client.abort()
    targets = [client.sid, "topic:a", "all", "topic:b", client.sid, "topic:other", "all", "topic:a"]
    for number, target in enumerate(targets):
        await push_message(two_replicas[number % 2], target, {"type": "t", "data": number})
    back = await client.reconnect(two_replicas[1])
    assert back.first_frame["recovered"] is True
    assert back.sid == client.sid
    assert back.resume_secret != client.resume_secret
    assert [(await back.receive_event())["data"] for _ in range(7)] == [0, 1, 2, 3, 4, 6, 7]
    await push_message(two_replicas[0], "topic:b", {"type": "t", "data": "live"})
    assert (await back.receive_event())["data"] == "live"
    await back.assert_nothing_pending()
    await back.close()


async def test_resume_without_a_position_repeats_all_unacknowledged_events(two_replicas: SocketReplicas) -> None:
    client = await WebSocketClient.connect(two_replicas[0])
    for number in range(5):
        await push_message(two_replicas[0], client.sid, {"type": "t", "data": number})
    for _ in range(3):
        await client.receive_event()
    client.abort()
    back = await client.reconnect(two_replicas[1], with_position=False)
    assert back.first_frame["recovered"] is True
    seen = [(await back.receive_event())["data"] for _ in range(5)]
    assert seen == [0, 1, 2, 3, 4], "nothing was proved by a pong, so all is repeated"
    await back.close()


async def test_previous_secret_is_invalid_once_the_next_is_acknowledged(two_replicas: SocketReplicas) -> None:
    client = await WebSocketClient.connect(two_replicas[0])
    back = await client.reconnect(two_replicas[1])
    assert back.sid == client.sid

    async def refused() -> bool:
        """The pong that proves the new secret is on its way."""
        thief = await client.reconnect(two_replicas[0])
        stolen = bool(thief.sid == client.sid)
        await thief.close()
        return not stolen

    assert await back.send_command("x") == {"pong": True}
    await asyncio.sleep(0.2)
    assert await refused()
    await back.assert_nothing_pending()
    await back.close()


async def test_lost_handshake_response_does_not_lose_the_session(two_replicas: SocketReplicas) -> None:
    """The replica accepted the resume, the network lost the response: the client has the old secret only."""
    client = await WebSocketClient.connect(two_replicas[0])
    await push_message(two_replicas[0], client.sid, {"type": "t", "data": 1})
    client.abort()
    for _ in range(3):
        await reconnect_and_vanish(two_replicas, client)
    back = await client.reconnect(two_replicas[0])
    assert (back.sid, back.first_frame["recovered"]) == (client.sid, True)
    assert (await back.receive_event())["data"] == 1
    await back.close()


async def reconnect_and_vanish(two: SocketReplicas, client: WebSocketClient) -> None:
    """Resume as this client, and disconnect before the first frame is read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", two[1].port)
    writer.write(
        f"GET /ws?resume={client.resume_secret}&after={client.last_sequence} HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\n"
        "connection: upgrade\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n".encode()
    )
    assert await reader.read(12) == b"HTTP/1.1 101"
    writer.transport.abort()


@pytest.mark.parametrize("resume", ["", "x", "{sid}", "{sid}.", "{sid}.wrong", "{other}"])
async def test_guessed_or_foreign_sid_has_no_effect(two_replicas: SocketReplicas, resume: str) -> None:
    victim, other = await WebSocketClient.connect(two_replicas[0]), await WebSocketClient.connect(two_replicas[0])
    wrong = resume.format(sid=victim.sid, other=f"{victim.sid}.{other.resume_secret.partition('.')[2]}")
    thief = await WebSocketClient.connect(two_replicas[1], resume=wrong, after=victim.last_sequence)
    assert thief.sid not in {victim.sid, other.sid}
    assert thief.first_frame["recovered"] is False
    await push_message(two_replicas[1], victim.sid, {"type": "t", "data": "for the victim"})
    assert (await victim.receive_event())["data"] == "for the victim"
    await thief.assert_nothing_pending()
    for client in (victim, other, thief):
        await client.close()


async def test_concurrent_resumes_leave_one_connection(two_replicas: SocketReplicas) -> None:
    """Tabs that resume concurrently: one secret, both replicas. All but the last are closed, and that one misses nothing.

    A handshake that is judged after another client has answered a ping gets a new session: the secret is revoked by then.
    """
    for turn in range(5):
        client = await WebSocketClient.connect(two_replicas[0])
        client.abort()
        await push_message(two_replicas[0], client.sid, {"type": "t", "data": turn})
        wishes = [
            WebSocketClient.connect(two_replicas[number % 2], resume=client.resume_secret, after=client.last_sequence)
            for number in range(8)
        ]
        # A handshake that another one supersedes gets no response.
        answers = await asyncio.gather(*wishes, return_exceptions=True)
        connected = [answer for answer in answers if isinstance(answer, WebSocketClient)]
        backs = [one for one in connected if one.sid == client.sid]
        assert backs
        for late in connected:
            if late not in backs:
                assert late.first_frame["recovered"] is False
                await late.close()
        ends = [asyncio.create_task(back.wait_for_close_code(30)) for back in backs]
        async with asyncio.timeout(8):
            while sum(end.done() for end in ends) < len(backs) - 1:
                await asyncio.wait([end for end in ends if not end.done()], return_when=asyncio.FIRST_COMPLETED)
        assert {end.result() for end in ends if end.done()} <= {1008}
        (last,) = [number for number, end in enumerate(ends) if not end.done()]
        answer = await push_message(two_replicas[1], client.sid, {"type": "t", "data": "live"})
        assert answer.json()["status"] == "sent"
        async with asyncio.timeout(5):
            while len(backs[last].events) < 2:  # noqa: ASYNC110  # its own task reads
                await asyncio.sleep(0.01)
        assert [event["data"] for event in backs[last].events] == [turn, "live"]
        await backs[last].close()
        await ends[last]


async def test_resuming_elsewhere_closes_the_previous_connection(two_replicas: SocketReplicas) -> None:
    for here in two_replicas.services:
        client = await WebSocketClient.connect(two_replicas[0])
        back = await client.reconnect(here)
        assert await client.wait_for_close_code() == 1008
        await push_message(two_replicas[0], client.sid, {"type": "t", "data": 1})
        assert (await back.receive_event())["data"] == 1
        async with http_client(two_replicas[0]) as asking:
            assert (await asking.get(f"/sockets/{client.sid}")).json()["state"] == "online"
        await back.close()


@pytest.mark.parametrize("after", ["0-0", "abc", "6f-", "9" * 400, "-1", "{epoch}-999999999", "{epoch}--1"])
async def test_invalid_position_is_not_recovered(two_replicas: SocketReplicas, after: str) -> None:
    client = await WebSocketClient.connect(two_replicas[0])
    client.abort()
    epoch = client.last_sequence.partition("-")[0]
    back = await WebSocketClient.connect(two_replicas[0], resume=client.resume_secret, after=after.format(epoch=epoch))
    assert back.first_frame["recovered"] is False
    assert back.sid == client.sid
    await push_message(two_replicas[0], client.sid, {"type": "t", "data": 1})
    assert (await back.receive_event())["data"] == 1
    await back.close()


async def test_events_beyond_the_history_are_reported_as_a_gap(two_replicas: SocketReplicas) -> None:
    client = await WebSocketClient.connect(two_replicas[0])
    client.abort()
    async with EventPublisher.from_url(two_replicas.redis.url, "/x") as other:
        for number in range(700):
            await other.send(client.sid, "t", number)
    back = await client.reconnect(two_replicas[1])
    assert back.first_frame["recovered"] is False
    numbers = [(await back.receive_event())["data"] for _ in range(256)]
    while numbers[-1] != 699:
        numbers.append((await back.receive_event())["data"])
    assert numbers == list(range(numbers[0], 700))
    back.abort()
    again = await back.reconnect(two_replicas[0])
    assert again.first_frame["recovered"] is True, "the gap has been said; it is not said again"
    await again.assert_nothing_pending()
    await again.close()


async def test_gap_is_repeated_until_it_is_received(two_replicas: SocketReplicas) -> None:
    """The first frame that reported it was lost, and meanwhile the history that proved the gap has expired."""
    client = await WebSocketClient.connect(two_replicas[0])
    client.abort()
    async with EventPublisher.from_url(two_replicas.redis.url, "/x") as other:
        for number in range(700):
            await other.send(client.sid, "t", number)
        await reconnect_and_vanish(two_replicas, client)
        await eventually_async(lambda: is_offline(two_replicas, client.sid))
        await other.redis.execute("DEL", f"gridcast:history:{client.last_sequence.partition('-')[0]}:sid:{client.sid}")
    back = await client.reconnect(two_replicas[0])
    assert (back.sid, back.first_frame["recovered"]) == (client.sid, False)
    await back.assert_nothing_pending()
    back.abort()
    again = await back.reconnect(two_replicas[1])
    assert again.first_frame["recovered"] is True
    await again.close()


async def is_offline(two: SocketReplicas, sid: str) -> bool:
    async with http_client(two[0]) as asking:
        return bool((await asking.get(f"/sockets/{sid}")).json()["state"] == "away")


async def test_late_subscription_to_a_busy_topic_is_no_gap(two_replicas: SocketReplicas) -> None:
    """More events than its history holds were published to the topic before the client subscribed."""
    client = await WebSocketClient.connect(two_replicas[0])
    async with EventPublisher.from_url(two_replicas.redis.url, "/x") as other:
        for number in range(500):
            await other.publish("busy", "t", number)
        await client.subscribe("busy")
        client.abort()
        await other.publish("busy", "t", "missed")
    back = await client.reconnect(two_replicas[1])
    assert back.first_frame["recovered"] is True
    assert (await back.receive_event())["data"] == "missed"
    await back.assert_nothing_pending()
    await back.close()


async def test_conflated_events_are_not_stored_and_are_no_gap(two_replicas: SocketReplicas) -> None:
    client = await WebSocketClient.connect(two_replicas[0])
    async with EventPublisher.from_url(two_replicas.redis.url, "/x") as other:
        await other.send(client.sid, "progress", 1, conflation_key=True)
        assert (await client.receive_event())["data"] == 1
        client.abort()
        await other.send(client.sid, "t", "kept")
        await other.send(client.sid, "progress", 2, conflation_key=True)
    back = await client.reconnect(two_replicas[1])
    assert back.first_frame["recovered"] is True
    assert (await back.receive_event())["data"] == "kept"
    await back.assert_nothing_pending()
    await back.close()


async def test_pushes_continue_while_a_client_resumes(two_replicas: SocketReplicas) -> None:
    """300 numbered pushes, a new connection after each dozen, alternating replicas: all once, all in order, no gap reported."""
    client = await WebSocketClient.connect(two_replicas[0])
    seen: list[int] = []

    async def pushing() -> None:
        async with EventPublisher.from_url(two_replicas.redis.url, "/x") as other:
            for number in range(300):
                await other.send(client.sid, "t", number)
                await asyncio.sleep(0.001)

    task = asyncio.create_task(pushing())
    turn = 0
    while len(seen) < 300:
        event = await client.receive_event()
        seen.append(event["data"])
        if len(seen) % 12 == 0 and len(seen) < 300:
            turn += 1
            if turn % 2:
                client.abort()
            client = await client.reconnect(two_replicas[turn % 2])
            assert client.first_frame["recovered"] is True
    await task
    assert seen == list(range(300))
    await client.assert_nothing_pending()
    await client.close()


async def test_clients_of_a_killed_replica_miss_no_event(two_replicas: SocketReplicas) -> None:
    victim = two_replicas.start()
    clients = [await WebSocketClient.connect(victim, topics="t") for _ in range(5)]
    victim.child.send_signal(signal.SIGKILL)
    codes = [await client.wait_for_close_code() for client in clients]
    assert codes == [1006] * 5
    for number, client in enumerate(clients):
        answer = await push_message(two_replicas[0], client.sid, {"type": "t", "data": number})
        assert answer.json()["status"] == "queued"
    await push_message(two_replicas[0], "topic:t", {"type": "t", "data": "topic"})
    for number, client in enumerate(clients):
        back = await client.reconnect(two_replicas[number % 2])
        assert (back.sid, back.first_frame["recovered"]) == (client.sid, True)
        assert [(await back.receive_event())["data"] for _ in range(2)] == [number, "topic"]
        await back.assert_nothing_pending()
        await back.close()


async def test_topics_and_metadata_survive_a_resume(two_replicas: SocketReplicas) -> None:
    client = await WebSocketClient.connect(two_replicas[0], topics="a,b", meta='{"name":"ann"}')
    await client.send_command({"type": "unsubscribe", "topic": "b"})
    client.abort()
    back = await WebSocketClient.connect(
        two_replicas[1], resume=client.resume_secret, after=client.last_sequence, topics="c"
    )
    async with http_client(two_replicas[0]) as asking:
        said = (await asking.get(f"/sockets/{client.sid}")).json()
    assert said["topics"] == ["a", "c"]
    assert said["meta"] == {"name": "ann"}
    await back.close()


async def test_operator_disconnect_is_permanent(two_replicas: SocketReplicas) -> None:
    client = await WebSocketClient.connect(two_replicas[0])
    async with http_client(two_replicas[1]) as asking:
        assert (await asking.delete(f"/sockets/{client.sid}")).status_code == 204
        assert await client.wait_for_close_code() == 1008
        assert (await asking.get(f"/sockets/{client.sid}")).status_code == 404
        assert (await asking.delete(f"/sockets/{client.sid}")).status_code == 404
    back = await client.reconnect(two_replicas[0])
    assert back.sid != client.sid
    assert back.first_frame["recovered"] is False
    await back.close()
    # A session that is offline cannot be resumed either.
    await eventually_async(lambda: delete_session(two_replicas, back.sid))
    other = await back.reconnect(two_replicas[0])
    assert other.sid != back.sid
    await other.close()


async def delete_session(two: SocketReplicas, sid: str) -> bool:
    async with http_client(two[0]) as asking:
        return (await asking.delete(f"/sockets/{sid}")).status_code == 204
