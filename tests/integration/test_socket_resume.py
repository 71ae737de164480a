"""Replay: who comes back keeps the sid and gets what was missed, once and in order, or is told that he cannot."""

import asyncio
import signal
from collections.abc import Iterator

import pytest

from services.common.bus.publisher import Publisher
from tests.support.websocket_client import Client, Replicas, http, push, replicas, soon

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    with replicas(tmp_path_factory.mktemp("sockets")) as pair:
        yield pair


async def test_what_was_missed_comes_by_number_over_all_targets(two: Replicas) -> None:
    client = await Client.open(two[0], topics="a")
    await client.subscribe("b")
    await push(two[0], client.sid, {"type": "t", "data": 0})
    assert (await client.event())["data"] == 0
    client.cut()
    targets = [client.sid, "topic:a", "all", "topic:b", client.sid, "topic:other", "all", "topic:a"]
    for number, target in enumerate(targets):
        await push(two[number % 2], target, {"type": "t", "data": number})
    back = await client.again(two[1])
    assert back.first["recovered"] is True
    assert back.sid == client.sid
    assert back.resume != client.resume
    assert [(await back.event())["data"] for _ in range(7)] == [0, 1, 2, 3, 4, 6, 7]
    await push(two[0], "topic:b", {"type": "t", "data": "live"})
    assert (await back.event())["data"] == "live"
    await back.nothing()
    await back.close()


async def test_without_a_place_nothing_is_missed(two: Replicas) -> None:
    client = await Client.open(two[0])
    for number in range(5):
        await push(two[0], client.sid, {"type": "t", "data": number})
    for _ in range(3):
        await client.event()
    client.cut()
    back = await client.again(two[1], after=False)
    assert back.first["recovered"] is True
    seen = [(await back.event())["data"] for _ in range(5)]
    assert seen == [0, 1, 2, 3, 4], "nothing was proved by a pong, so all is repeated"
    await back.close()


async def test_a_secret_works_once_the_client_has_the_next(two: Replicas) -> None:
    client = await Client.open(two[0])
    back = await client.again(two[1])
    assert back.sid == client.sid

    async def refused() -> bool:
        """The pong that proves the new secret is on its way."""
        thief = await client.again(two[0])
        stolen = bool(thief.sid == client.sid)
        await thief.close()
        return not stolen

    assert await back.ask("x") == {"pong": True}
    await asyncio.sleep(0.2)
    assert await refused()
    await back.nothing()
    await back.close()


async def test_a_lost_answer_does_not_lose_the_session(two: Replicas) -> None:
    """The replica granted the resume, the network lost the answer: the client knows the old secret only."""
    client = await Client.open(two[0])
    await push(two[0], client.sid, {"type": "t", "data": 1})
    client.cut()
    for _ in range(3):
        await lost_answer(two, client)
    back = await client.again(two[0])
    assert (back.sid, back.first["recovered"]) == (client.sid, True)
    assert (await back.event())["data"] == 1
    await back.close()


async def lost_answer(two: Replicas, client: Client) -> None:
    """Come back as this client, and vanish without having read the first frame."""
    reader, writer = await asyncio.open_connection("127.0.0.1", two[1].port)
    writer.write(
        f"GET /ws?resume={client.resume}&after={client.after} HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\n"
        "connection: upgrade\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n".encode()
    )
    assert await reader.read(12) == b"HTTP/1.1 101"
    writer.transport.abort()


@pytest.mark.parametrize("resume", ["", "x", "{sid}", "{sid}.", "{sid}.wrong", "{other}"])
async def test_guessing_and_using_anothers_sid_has_no_effect(two: Replicas, resume: str) -> None:
    victim, other = await Client.open(two[0]), await Client.open(two[0])
    wrong = resume.format(sid=victim.sid, other=f"{victim.sid}.{other.resume.partition('.')[2]}")
    thief = await Client.open(two[1], resume=wrong, after=victim.after)
    assert thief.sid not in {victim.sid, other.sid}
    assert thief.first["recovered"] is False
    await push(two[1], victim.sid, {"type": "t", "data": "for the victim"})
    assert (await victim.event())["data"] == "for the victim"
    await thief.nothing()
    for client in (victim, other, thief):
        await client.close()


async def test_who_resumes_many_times_at_once_has_one_connection(two: Replicas) -> None:
    """Impatient tabs: one secret, both replicas. All but the last are closed, and that one misses nothing."""
    for turn in range(5):
        client = await Client.open(two[0])
        client.cut()
        await push(two[0], client.sid, {"type": "t", "data": turn})
        wishes = [Client.open(two[number % 2], resume=client.resume, after=client.after) for number in range(8)]
        # Who is overtaken before its handshake is answered gets no answer.
        answers = await asyncio.gather(*wishes, return_exceptions=True)
        backs = [answer for answer in answers if isinstance(answer, Client)]
        assert {back.sid for back in backs} == {client.sid}
        ends = [asyncio.create_task(back.closed(30)) for back in backs]
        async with asyncio.timeout(8):
            while sum(end.done() for end in ends) < len(backs) - 1:
                await asyncio.wait([end for end in ends if not end.done()], return_when=asyncio.FIRST_COMPLETED)
        assert {end.result() for end in ends if end.done()} <= {1008}
        (last,) = [number for number, end in enumerate(ends) if not end.done()]
        answer = await push(two[1], client.sid, {"type": "t", "data": "live"})
        assert answer.json()["status"] == "sent"
        async with asyncio.timeout(5):
            while len(backs[last].events) < 2:  # noqa: ASYNC110  # its own task reads
                await asyncio.sleep(0.01)
        assert [event["data"] for event in backs[last].events] == [turn, "live"]
        await backs[last].close()
        await ends[last]


async def test_who_resumes_elsewhere_closes_the_connection_before(two: Replicas) -> None:
    for here in two.services:
        client = await Client.open(two[0])
        back = await client.again(here)
        assert await client.closed() == 1008
        await push(two[0], client.sid, {"type": "t", "data": 1})
        assert (await back.event())["data"] == 1
        async with http(two[0]) as asking:
            assert (await asking.get(f"/sockets/{client.sid}")).json()["state"] == "online"
        await back.close()


@pytest.mark.parametrize("after", ["0-0", "abc", "6f-", "9" * 400, "-1", "{epoch}-999999999", "{epoch}--1"])
async def test_a_place_that_is_none_is_not_recovered(two: Replicas, after: str) -> None:
    client = await Client.open(two[0])
    client.cut()
    epoch = client.after.partition("-")[0]
    back = await Client.open(two[0], resume=client.resume, after=after.format(epoch=epoch))
    assert back.first["recovered"] is False
    assert back.sid == client.sid
    await push(two[0], client.sid, {"type": "t", "data": 1})
    assert (await back.event())["data"] == 1
    await back.close()


async def test_more_than_is_kept_is_said(two: Replicas) -> None:
    client = await Client.open(two[0])
    client.cut()
    async with Publisher.from_url(two.redis.url, "/x") as other:
        for number in range(700):
            await other.send(client.sid, "t", number)
    back = await client.again(two[1])
    assert back.first["recovered"] is False
    numbers = [(await back.event())["data"] for _ in range(256)]
    while numbers[-1] != 699:
        numbers.append((await back.event())["data"])
    assert numbers == list(range(numbers[0], 700))
    back.cut()
    again = await back.again(two[0])
    assert again.first["recovered"] is True, "the gap has been said; it is not said again"
    await again.nothing()
    await again.close()


async def test_a_gap_is_told_until_it_was_read(two: Replicas) -> None:
    """The first frame that told of it was lost on the way, and meanwhile what proved it has ended."""
    client = await Client.open(two[0])
    client.cut()
    async with Publisher.from_url(two.redis.url, "/x") as other:
        for number in range(700):
            await other.send(client.sid, "t", number)
        await lost_answer(two, client)
        await soon(lambda: is_away(two, client.sid))
        await other.redis.execute("DEL", f"gridcast:history:{client.after.partition('-')[0]}:sid:{client.sid}")
    back = await client.again(two[0])
    assert (back.sid, back.first["recovered"]) == (client.sid, False)
    await back.nothing()
    back.cut()
    again = await back.again(two[1])
    assert again.first["recovered"] is True
    await again.close()


async def is_away(two: Replicas, sid: str) -> bool:
    async with http(two[0]) as asking:
        return bool((await asking.get(f"/sockets/{sid}")).json()["state"] == "away")


async def test_a_busy_topic_that_was_joined_late_is_no_gap(two: Replicas) -> None:
    """More than its history holds went through the topic before the client joined it."""
    client = await Client.open(two[0])
    async with Publisher.from_url(two.redis.url, "/x") as other:
        for number in range(500):
            await other.publish("busy", "t", number)
        await client.subscribe("busy")
        client.cut()
        await other.publish("busy", "t", "missed")
    back = await client.again(two[1])
    assert back.first["recovered"] is True
    assert (await back.event())["data"] == "missed"
    await back.nothing()
    await back.close()


async def test_last_values_are_not_kept_and_are_no_gap(two: Replicas) -> None:
    client = await Client.open(two[0])
    async with Publisher.from_url(two.redis.url, "/x") as other:
        await other.send(client.sid, "progress", 1, conflation_key=True)
        assert (await client.event())["data"] == 1
        client.cut()
        await other.send(client.sid, "t", "kept")
        await other.send(client.sid, "progress", 2, conflation_key=True)
    back = await client.again(two[1])
    assert back.first["recovered"] is True
    assert (await back.event())["data"] == "kept"
    await back.nothing()
    await back.close()


async def test_pushes_go_on_while_a_client_returns(two: Replicas) -> None:
    """300 numbered pushes, a new connection after each dozen, alternating replicas: all once, all in order, none flagged."""
    client = await Client.open(two[0])
    seen: list[int] = []

    async def pushing() -> None:
        async with Publisher.from_url(two.redis.url, "/x") as other:
            for number in range(300):
                await other.send(client.sid, "t", number)
                await asyncio.sleep(0.001)

    task = asyncio.create_task(pushing())
    turn = 0
    while len(seen) < 300:
        event = await client.event()
        seen.append(event["data"])
        if len(seen) % 12 == 0 and len(seen) < 300:
            turn += 1
            if turn % 2:
                client.cut()
            client = await client.again(two[turn % 2])
            assert client.first["recovered"] is True
    await task
    assert seen == list(range(300))
    await client.nothing()
    await client.close()


async def test_a_killed_replicas_clients_miss_nothing(two: Replicas) -> None:
    victim = two.start()
    clients = [await Client.open(victim, topics="t") for _ in range(5)]
    victim.child.send_signal(signal.SIGKILL)
    codes = [await client.closed() for client in clients]
    assert codes == [1006] * 5
    for number, client in enumerate(clients):
        answer = await push(two[0], client.sid, {"type": "t", "data": number})
        assert answer.json()["status"] == "queued"
    await push(two[0], "topic:t", {"type": "t", "data": "topic"})
    for number, client in enumerate(clients):
        back = await client.again(two[number % 2])
        assert (back.sid, back.first["recovered"]) == (client.sid, True)
        assert [(await back.event())["data"] for _ in range(2)] == [number, "topic"]
        await back.nothing()
        await back.close()


async def test_topics_and_meta_stay(two: Replicas) -> None:
    client = await Client.open(two[0], topics="a,b", meta='{"name":"ann"}')
    await client.ask({"type": "unsubscribe", "topic": "b"})
    client.cut()
    back = await Client.open(two[1], resume=client.resume, after=client.after, topics="c")
    async with http(two[0]) as asking:
        said = (await asking.get(f"/sockets/{client.sid}")).json()
    assert said["topics"] == ["a", "c"]
    assert said["meta"] == {"name": "ann"}
    await back.close()


async def test_closed_by_an_operator_is_for_good(two: Replicas) -> None:
    client = await Client.open(two[0])
    async with http(two[1]) as asking:
        assert (await asking.delete(f"/sockets/{client.sid}")).status_code == 204
        assert await client.closed() == 1008
        assert (await asking.get(f"/sockets/{client.sid}")).status_code == 404
        assert (await asking.delete(f"/sockets/{client.sid}")).status_code == 404
    back = await client.again(two[0])
    assert back.sid != client.sid
    assert back.first["recovered"] is False
    await back.close()
    # One that is away cannot come back either.
    await soon(lambda: gone(two, back.sid))
    other = await back.again(two[0])
    assert other.sid != back.sid
    await other.close()


async def gone(two: Replicas, sid: str) -> bool:
    async with http(two[0]) as asking:
        return (await asking.delete(f"/sockets/{sid}")).status_code == 204
