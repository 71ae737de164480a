"""Limits: slow readers, clients that never reply, limits of number and rate, and the close at SIGTERM."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from websockets.exceptions import ConnectionClosed, InvalidStatus

from deploy.local.ports import free_ports
from deploy.local.programs import readiness_error
from gridcast.publish import Publisher
from services.socket.settings import SocketSettings
from tests.support.process_stats import resident_memory
from tests.support.raw_sockets import WEBSOCKET_HANDSHAKE
from tests.support.redis_commands import send_redis_commands
from tests.support.waiting import eventually_async
from tests.support.websocket_client import (
    SocketReplicas,
    WebSocketClient,
    connect_stalled_reader,
    http_client,
    push_message,
    run_socket_replicas,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def single_replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SocketReplicas]:
    with run_socket_replicas(
        tmp_path_factory.mktemp("sockets"),
        1,
        GRIDCAST_MAX_TOPICS_PER_CONNECTION="5",
        GRIDCAST_ALLOWED_ORIGINS="https://a.example",
    ) as single:
        yield single


@pytest.fixture
def start_replicas(tmp_path: Path) -> Iterator[Callable[..., SocketReplicas]]:
    """Replicas for this test alone, with its own settings."""
    with contextlib.ExitStack() as stack:
        yield lambda count=1, **env: stack.enter_context(run_socket_replicas(tmp_path, count, **env))


async def test_stalled_reader_is_closed_without_affecting_others(single_replica: SocketReplicas) -> None:
    others = [await WebSocketClient.connect(single_replica[0]) for _ in range(50)]
    async with Publisher.from_url(single_replica.redis.url, "/x") as pushing:
        for number in range(20):
            await pushing.broadcast("warm.up", number)
        for other in others:
            for _ in range(20):
                await other.receive_event()
        before = resident_memory(single_replica[0].pid)
        slow = await asyncio.to_thread(connect_stalled_reader, single_replica[0].port)
        async with http_client(single_replica[0]) as asking:
            sid = [seen["sid"] for seen in (await asking.get("/sockets?limit=1000")).json()["sockets"]]
        began = time.monotonic()
        latencies: list[float] = []

        async def read(other: WebSocketClient) -> None:
            while (event := await other.receive_event())["type"] != "the.end":
                latencies.append(time.time() - event["data"]["at"])

        readers = [asyncio.create_task(read(other)) for other in others]
        filler = "x" * 30_000
        closed_after = 0.0
        while not closed_after and time.monotonic() - began < 20:
            await pushing.broadcast("news", {"at": time.time(), "filler": filler})
            await asyncio.sleep(0.02)
            if "websocket closed" in single_replica[0].log and '"close_code": 1013' in single_replica[0].log:
                closed_after = time.monotonic() - began
        grown = resident_memory(single_replica[0].pid) - before
        await pushing.broadcast("the.end", 1)
        await asyncio.gather(*readers)
    slow.close()
    assert 0 < closed_after < 15
    assert grown < 4 * 1024**2
    latencies.sort()
    assert latencies[int(len(latencies) * 0.99)] < 0.5, "nobody waits for the one that does not read"
    assert len(sid) >= 51
    for other in others:
        await other.assert_nothing_pending()
        await other.close()


async def test_slow_reader_gets_the_latest_conflated_value(single_replica: SocketReplicas) -> None:
    """Far more progress events than its queue holds, while it does not read: it stays connected and gets the newest in the end."""
    client = await WebSocketClient.connect(single_replica[0])
    client.connection.transport.pause_reading()
    async with Publisher.from_url(single_replica.redis.url, "/x") as pushing:
        filler = "x" * 20_000
        for number in range(600):
            await pushing.send(client.sid, "progress", [number, filler], conflation_key="upload-1")
        await pushing.send(client.sid, "done", 1)
    client.connection.transport.resume_reading()
    numbers = []
    while (event := await client.receive_event())["type"] == "progress":
        numbers.append(event["data"][0])
    assert numbers[-1] == 599
    assert numbers == sorted(numbers)
    assert len(numbers) < 600
    await client.assert_nothing_pending()
    await client.close()


@pytest.mark.parametrize(
    ("ping", "least", "most"),
    [("1.6", 1.1, 5.0), pytest.param("20", 14.0, 40.0, marks=[pytest.mark.long])],
)
async def test_client_that_never_pongs_is_disconnected(
    start_replicas: Callable[..., SocketReplicas], ping: str, least: float, most: float
) -> None:
    made = start_replicas(1, GRIDCAST_PING_INTERVAL=ping)

    def silent() -> float:
        began = time.monotonic()
        with connect_stalled_reader(made[0].port) as connection:
            connection.settimeout(60)
            while connection.recv(4096):
                pass
        return time.monotonic() - began

    assert least < await asyncio.to_thread(silent) < most
    assert '"close_code": 1011' in made[0].log


async def test_topics_per_connection_are_limited(single_replica: SocketReplicas) -> None:
    client = await WebSocketClient.connect(single_replica[0], topics="a,b,c")
    for topic in ("d", "e", "d"):
        assert (await client.subscribe(topic))["type"] == "subscribed"
    answers = [await client.subscribe(f"t{number}") for number in range(30)]
    assert {answer["type"] for answer in answers} == {"error"}
    assert (await client.send_command({"type": "unsubscribe", "topic": "a"}))["type"] == "unsubscribed"
    assert (await client.subscribe("f"))["type"] == "subscribed"
    client.abort()
    with pytest.raises(InvalidStatus) as refused:
        await WebSocketClient.connect(single_replica[0], resume=client.resume_secret, topics="g")
    assert refused.value.response.status_code == 400
    back = await client.reconnect(single_replica[0])
    assert (back.sid, back.first_frame["recovered"]) == (client.sid, True), "a refused wish costs no secret"
    await back.close()


async def test_ten_thousand_topics(single_replica: SocketReplicas) -> None:
    """Sent as fast as possible: it gets replies up to the limit, and is closed for its rate."""
    client = await WebSocketClient.connect(single_replica[0])
    closing = asyncio.create_task(client.wait_for_close_code())
    with contextlib.suppress(ConnectionClosed):
        for number in range(10_000):
            await client.send({"type": "subscribe", "topic": f"t{number}"})
    assert await closing == 1008
    answers = Counter(said["type"] for said in client.other_frames[1:])
    assert set(answers) == {"subscribed", "error"}
    assert answers["subscribed"] == 5
    async with http_client(single_replica[0]) as asking:
        seen = (await asking.get(f"/sockets/{client.sid}")).json()
    assert seen["topics"] == [f"t{number}" for number in range(5)]


async def test_a_topic_of_a_mebibyte_ends_with_1009(single_replica: SocketReplicas) -> None:
    client = await WebSocketClient.connect(single_replica[0])
    with contextlib.suppress(ConnectionClosed):
        await client.send({"type": "subscribe", "topic": "x" * 1024**2})
    assert await client.wait_for_close_code() == 1009


async def test_a_thousand_messages_a_second_end_with_1008(single_replica: SocketReplicas) -> None:
    client = await WebSocketClient.connect(single_replica[0])
    closing = asyncio.create_task(client.wait_for_close_code())
    with contextlib.suppress(ConnectionClosed):
        while not closing.done():
            await client.send("ping")
            await asyncio.sleep(0.0005)
    assert await closing == 1008
    assert 90 <= len(client.other_frames) <= 250


async def test_an_allowed_origin(single_replica: SocketReplicas) -> None:
    from websockets.asyncio.client import connect  # noqa: PLC0415

    url = f"ws://127.0.0.1:{single_replica[0].port}/ws"
    async with connect(url, proxy=None, origin="https://a.example") as connection:  # type: ignore[arg-type]
        assert "sid" in json.loads(await connection.recv())
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, proxy=None, origin="https://b.example")  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403
    assert json.loads(refused.value.response.body)["status"] == 403


async def test_connection_limit_is_enforced(start_replicas: Callable[..., SocketReplicas]) -> None:
    made = start_replicas(GRIDCAST_MAX_CONNECTIONS="5")
    clients = [await WebSocketClient.connect(made[0]) for _ in range(5)]
    for _ in range(3):
        with pytest.raises(InvalidStatus) as refused:
            await WebSocketClient.connect(made[0])
        assert refused.value.response.status_code == 503
        assert int(refused.value.response.headers["retry-after"]) >= 1
    for client in clients:
        await client.assert_nothing_pending()
    await clients.pop().close()
    clients.append(await WebSocketClient.connect(made[0]))
    for client in clients:
        await client.close()


async def test_descriptor_limit_reduces_max_connections(tmp_path: Path) -> None:
    """256 descriptors are reserved for everything else: a limit of 276 leaves 20 for sockets, and the process keeps running."""
    with run_socket_replicas(tmp_path, 0) as made:
        (port,) = free_ports(1)
        env = {
            **os.environ,
            "GRIDCAST_PORT": str(port),
            "GRIDCAST_REDIS_URL": made.redis.url,
            "GRIDCAST_SHUTDOWN_TIMEOUT": "1",
        }
        command = f"ulimit -n 276; exec {sys.executable} -m services.socket"
        with (tmp_path / "log").open("wb") as log:
            process = await asyncio.create_subprocess_shell(command, env=env, stderr=log)
        try:
            service = ServicePort(port)
            await eventually_async(lambda: asyncio.to_thread(lambda: readiness_error(port) is None), 20)
            outcomes = await asyncio.gather(
                *(WebSocketClient.connect(service) for _ in range(60)), return_exceptions=True
            )
            clients = [outcome for outcome in outcomes if isinstance(outcome, WebSocketClient)]
            refused = [outcome for outcome in outcomes if isinstance(outcome, InvalidStatus)]
            assert (len(clients), len(refused)) == (20, 40)
            assert {outcome.response.status_code for outcome in refused} == {503}
            for client in clients:
                await client.assert_nothing_pending()
                await client.close()
            await eventually_async(lambda: can_connect(service))
        finally:
            process.terminate()
            await process.wait()
    assert "RLIMIT_NOFILE allows 20 connections" in (tmp_path / "log").read_text("utf-8")


class ServicePort:
    """The port of a service that this test has started itself."""

    def __init__(self, port: int) -> None:
        self.port = port


async def can_connect(service: ServicePort) -> bool:
    with contextlib.suppress(InvalidStatus):
        await (await WebSocketClient.connect(service)).close()
        return True
    return False


async def test_handshake_burst_is_rate_limited(start_replicas: Callable[..., SocketReplicas]) -> None:
    made = start_replicas(GRIDCAST_HANDSHAKE_RATE="20")
    before = await WebSocketClient.connect(made[0])

    async def attempt() -> int:
        try:
            client = await WebSocketClient.connect(made[0])
        except InvalidStatus as refused:
            return refused.response.status_code if refused.response.headers["retry-after"] == "1" else 0
        await client.close()
        return 101

    outcomes = Counter(await asyncio.gather(*(attempt() for _ in range(150))))
    assert set(outcomes) == {101, 503}
    assert 39 <= outcomes[101] <= 100
    await before.assert_nothing_pending()
    await asyncio.sleep(0.5)
    assert await attempt() == 101
    await before.close()


@pytest.mark.parametrize("count", [1, 400, pytest.param(2000, marks=[pytest.mark.long])])
async def test_sigterm_closes_every_socket_with_1012(start_replicas: Callable[..., SocketReplicas], count: int) -> None:
    made = start_replicas(2, GRIDCAST_SHUTDOWN_TIMEOUT="3")
    clients = [await WebSocketClient.connect(made[0]) for _ in range(count)]
    began = time.monotonic()
    made[0].child.send_signal(signal.SIGTERM)
    waiting = [asyncio.create_task(client.wait_for_close_code()) for client in clients]
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    with pytest.raises(OSError):  # noqa: PT011  # refused, whatever the system calls it
        await WebSocketClient.connect(made[0])
    codes = Counter([await one for one in waiting])
    spread = time.monotonic() - began
    assert codes == {1012: count}
    assert done
    assert await asyncio.to_thread(made[0].child.wait, 5.0)
    assert time.monotonic() - began < 5.0
    if count > 1:
        assert 1.0 < spread < 3.5
    for client in clients[:10]:
        back = await client.reconnect(made[1])
        assert (back.sid, back.first_frame["recovered"]) == (client.sid, True)
        await back.close()


async def test_sigterm_during_a_handshake(start_replicas: Callable[..., SocketReplicas]) -> None:
    """Its acquire is on its way to Redis: the handshake gets a response and no reset."""
    made = start_replicas(1, GRIDCAST_SHUTDOWN_TIMEOUT="3")
    made.redis.pause()
    entering = asyncio.create_task(WebSocketClient.connect(made[0]))
    await asyncio.sleep(0.2)
    made[0].child.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.3)
    made.redis.resume()
    with pytest.raises(InvalidStatus) as refused:
        await entering
    assert refused.value.response.status_code == 503
    assert int(refused.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("ping", ["0", "60.5", "nan"])
def test_pings_come_at_least_once_a_minute(ping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss may be noticed only after two of them, and events are kept for four minutes."""
    monkeypatch.setenv("GRIDCAST_PING_INTERVAL", ping)
    with pytest.raises(ValidationError):
        SocketSettings()


async def test_presence_over_all_replicas(start_replicas: Callable[..., SocketReplicas]) -> None:
    made = start_replicas(2)
    clients = [
        await WebSocketClient.connect(made[number % 2], topics=f"t{number}", meta=json.dumps({"n": number}))
        for number in range(7)
    ]
    for service in made.services:
        async with http_client(service) as asking:
            seen: list[dict[str, object]] = []
            after: str | None = ""
            while after is not None:
                page = (await asking.get("/sockets", params={"limit": 3, "after": after})).json()
                seen += page["sockets"]
                after = page["next"]
            assert [one["sid"] for one in seen] == sorted(client.sid for client in clients)
            assert {one["state"] for one in seen} == {"online"}
            assert len({one["replica"] for one in seen}) == 2
            by_sid = {one["sid"]: one for one in seen}
            for number, client in enumerate(clients):
                assert by_sid[client.sid]["topics"] == [f"t{number}"]
                assert by_sid[client.sid]["meta"] == {"n": number}
            for query in ({"limit": 0}, {"limit": 1001}, {"limit": "x"}, {"after": "x"}):
                assert (await asking.get("/sockets", params=query)).status_code == 400
    await clients[0].close()

    async def states() -> Counter[str]:
        async with http_client(made[1]) as asking:
            return Counter(one["state"] for one in (await asking.get("/sockets")).json()["sockets"])

    async def one_is_away() -> bool:
        return await states() == {"online": 6, "away": 1}

    await eventually_async(one_is_away, 3)
    # The sids of a dead replica are offline within 20 s.
    made[0].child.send_signal(signal.SIGKILL)
    began = time.monotonic()

    async def only_the_living() -> bool:
        return await states() == {"online": 3, "away": 4}

    await eventually_async(only_the_living, 20)
    assert time.monotonic() - began > 5
    assert (await push_message(made[1], clients[2].sid, {"type": "t"})).json()["status"] == "queued"
    for client in clients[1::2]:
        await client.assert_nothing_pending()
        await client.close()


@pytest.mark.parametrize("leaves", ["close", "reset"])
async def test_abandoned_handshake_leaves_no_session(
    start_replicas: Callable[..., SocketReplicas], leaves: str
) -> None:
    """The client has gone before the response, so it cannot resume: nothing stays in Redis. One that was answered stays."""
    replicas = start_replicas(1)
    port = replicas.redis.port
    kept = await WebSocketClient.connect(replicas[0])
    replicas[0].child.send_signal(signal.SIGSTOP)
    topics = ",".join(f"{number:070d}" for number in range(100))
    for _ in range(20):
        client = socket.create_connection(("127.0.0.1", replicas[0].port), timeout=5)
        client.sendall(WEBSOCKET_HANDSHAKE.replace(b"/ws", f"/ws?topics={topics}".encode()))
        if leaves == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    replicas[0].child.send_signal(signal.SIGCONT)
    later = await WebSocketClient.connect(replicas[0])  # accepted after the others

    async def two_are_listed() -> bool:
        return send_redis_commands(port, "ZCARD gridcast:sids") == ":2\r\n"

    await eventually_async(two_are_listed)
    for client_that_stays in (kept, later):
        client_that_stays.abort()
        back = await client_that_stays.reconnect(replicas[0])
        assert back.sid == client_that_stays.sid
        await back.close()
