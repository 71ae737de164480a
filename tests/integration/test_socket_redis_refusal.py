"""Redis refuses writes: full, read-only, or unable to save. Readiness and 503 name the reason; an open socket is online."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from services.socket.socket_auth import new_sid
from tests.support.databases import ServerProcess
from tests.support.processes import ServiceProcess
from tests.support.redis_commands import send_redis_commands
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


def fill(redis: ServerProcess, folder: Path) -> Callable[[], object]:
    send_redis_commands(redis.port, "CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1")
    return lambda: send_redis_commands(redis.port, "CONFIG SET maxmemory 0")


def make_read_only(redis: ServerProcess, folder: Path) -> Callable[[], object]:
    """A replica of a primary that is not there: a failover that came to the wrong end."""
    assert send_redis_commands(redis.port, "REPLICAOF 127.0.0.1 1") == "+OK\r\n"
    return lambda: send_redis_commands(redis.port, "REPLICAOF NO ONE")


def break_snapshots(redis: ServerProcess, folder: Path) -> Callable[[], object]:
    """The name of the snapshot is that of a folder, so that it cannot be replaced."""
    # The folder itself cannot be changed: Redis 7 protects that setting.
    target = Path(send_redis_commands(redis.port, "CONFIG GET dir").split("\r\n")[4]) / "dump.rdb"
    target.unlink(missing_ok=True)
    target.mkdir()
    (target / "file").touch()
    assert send_redis_commands(redis.port, "CONFIG SET save '3600 1'", "BGSAVE").startswith("+Background saving")
    return lambda: send_redis_commands(redis.port, "CONFIG SET save ''", "CONFIG SET stop-writes-on-bgsave-error no")


FAULTS = {
    "full": (fill, "Redis is full (maxmemory) and refuses writes"),
    "read-only": (make_read_only, "Redis is read-only"),
    "no snapshot": (break_snapshots, "Redis refuses writes: it cannot save its data to disk"),
}


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[SocketReplicas]:
    with run_socket_replicas(tmp_path) as started:
        yield started


async def get(service: ServiceProcess, path: str) -> httpx.Response:
    async with http_client(service) as client:
        return await client.get(path)


@pytest.mark.parametrize("fault", FAULTS)
async def test_redis_refuses_writes_for_longer_than_records_live(
    replicas: SocketReplicas, tmp_path: Path, fault: str
) -> None:
    break_redis, reason = FAULTS[fault]
    clients = [await WebSocketClient.connect(service, topics="a") for service in replicas.services]
    sids = [client.sid for client in clients]
    port = replicas.redis.port
    assert {send_redis_commands(port, f"PEXPIRE gridcast:sid:{sid} 1000") for sid in sids} == {":1\r\n"}
    mend = break_redis(replicas.redis, tmp_path)

    async def none_is_ready() -> bool:
        answers = [await get(service, "/readyz") for service in replicas.services]
        return all(answer.json()["checks"]["redis"] == reason for answer in answers)

    async def records_have_expired() -> bool:
        return all(send_redis_commands(port, f"EXISTS gridcast:sid:{sid}") == ":0\r\n" for sid in sids)

    await eventually_async(none_is_ready)
    await eventually_async(records_have_expired)
    for service in replicas.services:
        for sid in sids:
            pushed = await push_message(service, sid, EVENT)
            assert (pushed.status_code, pushed.json()["detail"]) == (503, reason)
            found = await get(service, f"/sockets/{sid}")
            assert found.status_code == 200
            assert (found.json()["state"], found.json()["topics"]) == ("online", ["a"])
            async with http_client(service) as deleting:
                assert (await deleting.delete(f"/sockets/{sid}")).status_code == 503
        listed = (await get(service, "/sockets")).json()["sockets"]
        assert {one["sid"]: one["state"] for one in listed} == dict.fromkeys(sids, "online")
        pushed = await push_message(service, "topic:a", EVENT)
        assert (pushed.status_code, pushed.json()["detail"]) == (503, reason)
        assert (await get(service, f"/sockets/{new_sid()}")).status_code == 404
        with pytest.raises(InvalidStatus) as rejected:
            await WebSocketClient.connect(service)
        assert rejected.value.response.status_code == 503
        assert reason in rejected.value.response.body.decode()
    await clients[0].assert_nothing_pending()

    replicas[0].child.send_signal(signal.SIGSTOP)
    try:
        assert (await get(replicas[1], f"/sockets/{sids[0]}")).status_code == 503, (
            "the one that holds it cannot be asked"
        )
        assert (await get(replicas[1], f"/sockets/{sids[1]}")).json()["state"] == "online"
    finally:
        replicas[0].child.send_signal(signal.SIGCONT)

    mend()
    statuses = []

    async def is_delivered() -> bool:
        # To a socket of the other replica: its record may come back later than this one's heartbeat.
        statuses.append((await push_message(replicas[1], sids[0], EVENT)).status_code)
        return statuses[-1] == 200

    await eventually_async(is_delivered)
    assert set(statuses) <= {200, 503}
    assert (await clients[0].receive_event())["data"] == 1
    for service in replicas.services:
        assert (await get(service, f"/sockets/{sids[0]}")).json()["state"] == "online"
    await eventually_async(lambda: all_ready(replicas))
    for client in clients:
        await client.close()


async def all_ready(replicas: SocketReplicas) -> bool:
    return all([(await get(service, "/readyz")).status_code == 200 for service in replicas.services])


async def test_client_that_leaves_a_full_redis_is_not_online(replicas: SocketReplicas, tmp_path: Path) -> None:
    """Its end is written, because that takes no memory; the others stay online, and their sessions can be resumed afterwards."""
    leaves, stays = [await WebSocketClient.connect(service) for service in replicas.services]
    mend = fill(replicas.redis, tmp_path)
    await leaves.close()

    async def is_away() -> bool:
        return bool((await get(replicas[1], f"/sockets/{leaves.sid}")).json()["state"] == "away")

    await eventually_async(is_away)
    assert (await get(replicas[0], f"/sockets/{stays.sid}")).json()["state"] == "online"
    mend()
    back = await leaves.reconnect(replicas[1])
    assert back.sid == leaves.sid
    assert back.first_frame["recovered"] is True
    for client in (back, stays):
        await client.close()


async def test_subscription_is_renewed_on_a_redis_that_refuses_writes(replicas: SocketReplicas, tmp_path: Path) -> None:
    """A replica that loses its subscription meanwhile answers the others nevertheless, and delivers again."""
    client = await WebSocketClient.connect(replicas[0])
    mend = fill(replicas.redis, tmp_path)
    send_redis_commands(replicas.redis.port, "CLIENT KILL TYPE pubsub")

    async def says_why() -> bool:
        checks = (await get(replicas[0], "/readyz")).json()["checks"]
        return "full" in checks["redis"] and (await get(replicas[1], f"/sockets/{client.sid}")).status_code == 200

    await eventually_async(says_why)
    assert (await get(replicas[1], f"/sockets/{client.sid}")).json()["state"] == "online"
    mend()

    async def is_sent() -> bool:
        return (await push_message(replicas[1], client.sid, EVENT)).status_code == 200

    await eventually_async(is_sent)
    assert (await client.receive_event())["data"] == 1
    await client.close()
