"""Redis behind three real Sentinels: the master is killed, and services continue with its replica without intervention.

Users, permissions and configuration are those that deploy/containers/credentials.py makes for the containers.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from deploy.containers import credentials
from deploy.example import billing
from deploy.local import databases
from deploy.local.ports import HOST, free_ports
from deploy.local.processes import Program
from services.common.bus.redis import RedisClient
from services.common.errors import ServiceUnavailable
from tests.support.databases import ServerProcess, run_server, storage_env
from tests.support.processes import StartService
from tests.support.redis_commands import send_redis_commands
from tests.support.waiting import eventually
from tests.support.websocket_client import WebSocketClient, push_message

SECRETS = {
    name: hashlib.sha256(name.encode()).hexdigest() for name in (*credentials.PASSWORDS, credentials.REPLICA_SET_KEY)
}
ProgramFactory = Callable[[Path, int], Program]
DOWN_AFTER_MS = 1000
"""A third of the containers' timeout, so that tests wait less."""


def write_config(folder: Path, template: str, **changes: str) -> Path:
    """A configuration file, with the lines replaced that name paths of a container."""
    folder.mkdir(parents=True, exist_ok=True)
    for directive, value in {"dir": str(folder), **changes}.items():
        template = re.sub(rf"^{directive} .*$", f"{directive} {value}", template, flags=re.MULTILINE)
    path = folder / "server.conf"
    path.write_text(template, "ascii")
    return path


def redis_program(master: int | None = None) -> ProgramFactory:
    """How to start a Redis server with our users; with `master`, as the replica of that port."""

    def program(folder: Path, port: int) -> Program:
        usual = databases.redis_server(folder, port)
        acl = folder / "users.acl"
        acl.write_text(credentials.redis_acl_file(SECRETS), "ascii")
        path = write_config(folder, credentials.redis_conf(SECRETS), aclfile=str(acl))
        more = ("--replicaof", HOST, str(master)) if master else ()
        command = (usual.command[0], str(path), "--port", str(port), "--bind", HOST, *more)
        return dataclasses.replace(usual, command=command, readiness_error=lambda: connection_error(port))

    return program


def sentinel_program(master: int) -> ProgramFactory:
    """How to start a Sentinel that watches the server on port `master`."""

    def program(folder: Path, port: int) -> Program:
        usual = databases.redis_server(folder, port)
        text = credentials.sentinel_conf(SECRETS, {"REDIS_MASTER": HOST}).replace(
            f"{HOST} 6379 2", f"{HOST} {master} 2"
        )
        text = text.replace(
            "down-after-milliseconds gridcast 3000", f"down-after-milliseconds gridcast {DOWN_AFTER_MS}"
        )
        path = write_config(folder, text, port=str(port))
        command = (usual.command[0], str(path), "--sentinel", "--bind", HOST)
        return dataclasses.replace(
            usual, name="sentinel", command=command, readiness_error=lambda: connection_error(port)
        )

    return program


def connection_error(port: int) -> str | None:
    """Why it does not reply; an error about a missing password is a reply."""
    try:
        answer = send_redis_commands(port, "PING")
    except OSError as error:
        return str(error)
    return None if answer.startswith(("-NOAUTH", "+PONG")) else answer


class SentinelCluster:
    """A master, its replica, and three Sentinels."""

    def __init__(self, master: ServerProcess, replica: ServerProcess, sentinels: list[ServerProcess]) -> None:
        self.master = master
        self.replica = replica
        self.sentinels = sentinels

    def url(self, service: str) -> str:
        hosts = ",".join(f"{HOST}:{server.port}" for server in self.sentinels)
        return credentials.redis_url(service, SECRETS, {"REDIS_SENTINELS": hosts})

    def all_sentinels_agree(self, port: int, *, with_replica: bool = False) -> bool:
        """Whether every Sentinel names the server on `port` as master (and knows a replica and both others)."""
        login = f"AUTH {SECRETS['REDIS_SENTINEL_CLIENT_PASSWORD']}"
        for server in self.sentinels:
            said = send_redis_commands(server.port, login, "SENTINEL get-master-addr-by-name gridcast")
            if f"\r\n{port}\r\n" not in said:
                return False
            known = send_redis_commands(server.port, login, "SENTINEL master gridcast").split("\r\n")
            numbers = [known[known.index(fact) + 2] for fact in ("num-slaves", "num-other-sentinels")]
            if with_replica and numbers != ["1", "2"]:
                return False
        return True


@pytest.fixture
def sentinel_cluster(tmp_path: Path) -> Iterator[SentinelCluster]:
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(run_server(tmp_path / "one", redis_program()))
        replica = stack.enter_context(run_server(tmp_path / "two", redis_program(master.port)))
        sentinels = [
            stack.enter_context(run_server(tmp_path / f"s{n}", sentinel_program(master.port))) for n in range(3)
        ]
        watched = SentinelCluster(master, replica, sentinels)
        eventually(
            lambda: watched.all_sentinels_agree(master.port, with_replica=True), 30.0, "the Sentinels know each other"
        )
        yield watched


@pytest.mark.anyio
async def test_services_survive_the_death_of_the_master(
    sentinel_cluster: SentinelCluster, start_service: StartService, mongod: ServerProcess, database_name: str
) -> None:
    """Sockets stay open, pushes are rejected until the replica is master and then arrive, uploads never stop."""
    sockets = start_service("services.socket", GRIDCAST_REDIS_URL=sentinel_cluster.url("socket"))
    upload = start_service(
        "services.upload",
        **storage_env(mongod, sentinel_cluster.url("upload"), database_name, GRIDCAST_MIN_FREE_SPACE="0"),
    )
    browser = await WebSocketClient.connect(sockets)
    await billing.push(sentinel_cluster.url("publisher"), 7, browser.sid)
    assert (await browser.receive_event("invoice.yours"))["data"] == {"number": 7}
    assert (await push_message(sockets, "all", {"type": "before", "data": 1})).is_success
    assert (await browser.receive_event("before"))["data"] == 1

    began = time.monotonic()
    sentinel_cluster.master.kill()
    async with httpx.AsyncClient(base_url=upload.url, timeout=20) as client:
        stored = await client.put("/file/stream?filename=while-away", content=b"x" * 1000)
    assert stored.status_code == 201
    eventually(
        lambda: sentinel_cluster.all_sentinels_agree(sentinel_cluster.replica.port),
        30.0,
        "the Sentinels have made the replica master",
    )
    elected = time.monotonic() - began

    accepted: list[int] = []
    first = 0.0
    while not any(event["type"] == "after" for event in browser.events):
        answer = await push_message(sockets, "all", {"type": "after", "data": len(accepted)})
        assert answer.status_code in {200, 202, 503}, answer.text
        if answer.is_success:
            first = first or time.monotonic() - began
            accepted.append(len(accepted))
        with contextlib.suppress(TimeoutError):
            await browser.receive_frame(timeout_seconds=0.5)
        assert time.monotonic() - began < 40
    heard = [event["data"] for event in browser.events if event["type"] == "after"]
    # What was accepted before the replica had found the new master may be missing, but a gap is always reported.
    assert heard == accepted or any(event["type"] == "socket.resync" for event in browser.events)
    print(f"\nmaster killed: a new one after {elected:.1f} s, a push accepted after {first:.1f} s")
    eventually(sockets.is_ready, 10.0, "the socket service is ready")
    newcomer = await WebSocketClient.connect(sockets)
    await newcomer.close()
    await browser.close()

    sentinel_cluster.master.start()
    eventually(
        lambda: "role:slave" in replication_info(sentinel_cluster.master), 30.0, "the old master follows the new one"
    )


def test_a_client_of_the_sentinels_cannot_change_the_master(sentinel_cluster: SentinelCluster) -> None:
    """Every Redis URL contains this password. It is none of Redis, either."""
    login = f"AUTH {SECRETS['REDIS_SENTINEL_CLIENT_PASSWORD']}"
    for command in (
        "SENTINEL FAILOVER gridcast",
        "SENTINEL REMOVE gridcast",
        "SENTINEL SET gridcast quorum 1",
        f"SENTINEL MONITOR other {HOST} 1 1",
        "SENTINEL CONFIG GET *",
        "SHUTDOWN",
        "PUBLISH __sentinel__:hello x",
        "ACL LIST",
    ):
        assert send_redis_commands(sentinel_cluster.sentinels[0].port, login, command).startswith("-NOPERM"), command
    assert sentinel_cluster.all_sentinels_agree(sentinel_cluster.master.port, with_replica=True)
    for user in ("sentinel", "default"):
        refused = f"AUTH {user} {SECRETS['REDIS_SENTINEL_CLIENT_PASSWORD']}"
        assert send_redis_commands(sentinel_cluster.master.port, refused).startswith("-WRONGPASS")


def replication_info(server: ServerProcess) -> str:
    return send_redis_commands(server.port, f"AUTH sentinel {SECRETS['REDIS_SENTINEL_PASSWORD']}", "INFO replication")


FORBIDDEN_TO_ALL: tuple[tuple[str | int, ...], ...] = (
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("CONFIG", "GET", "*"),
    ("KEYS", "*"),
    ("SHUTDOWN",),
    ("ACL", "LIST"),
    ("SCRIPT", "FLUSH"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("GET", "other"),
    ("PUBLISH", "other", "{}"),
    ("EVAL", "return redis.call('GET', 'other')", 0),
)
FORBIDDEN_BY_USER: dict[str, tuple[tuple[str | int, ...], ...]] = {
    "upload": (("INFO",), ("SUBSCRIBE", "gridcast:all"), ("DEL", "gridcast:test"), ("SCAN", 0)),
    "stream": (
        ("INFO",),
        ("SUBSCRIBE", "gridcast:all"),
        ("PSUBSCRIBE", "*"),
        ("PUBLISH", "gridcast:invalidate", "[]"),
        ("GET", "gridcast:test"),
        ("SET", "gridcast:test", "1"),
        ("DEL", "gridcast:test"),
        ("EVAL", "return redis.call('PUBLISH', 'gridcast:invalidate', '[]')", 0),
        ("PUBLISH", "gridcast:live", "{}"),
        ("PUBLISH", "gridcast:topic:room", "{}"),
        ("GET", "gridcast:sid:test"),
    ),
    "socket": (),
    "live": (("INFO",), ("SUBSCRIBE", "gridcast:all"), ("DEL", "gridcast:test"), ("SCAN", 0)),
    "publisher": (
        ("INFO",),
        ("SUBSCRIBE", "gridcast:all"),
        ("PUBLISH", "gridcast:invalidate", "[]"),
        ("GET", "gridcast:sids"),
        ("DEL", "gridcast:sequence"),
        ("SCAN", 0),
        # Read-only keys: a publisher must neither take over a session nor refresh the presence of a replica.
        ("HSET", "gridcast:sid:test", "resume", "x"),
        ("SET", "gridcast:node:test", "1"),
        ("SET", "gridcast:closed:test", "1"),
        ("EVAL", "return redis.call('HSET', 'gridcast:sid:test', 'node', '')", 0),
        ("EVAL", "return redis.call('PUBLISH', 'gridcast:invalidate', '[]')", 0),
    ),
}


@pytest.fixture
def redis_with_acl_users(tmp_path: Path) -> Iterator[ServerProcess]:
    with run_server(tmp_path / "alone", redis_program()) as server:
        yield server


def redis_url_for(server: ServerProcess, service: str) -> str:
    return credentials.redis_url(service, SECRETS, {}).replace("@redis:6379", f"@{HOST}:{server.port}")


@pytest.mark.anyio
@pytest.mark.parametrize("service", ["upload", "stream", "socket", "live", "publisher"])
async def test_service_user_has_only_the_permissions_it_needs(
    redis_with_acl_users: ServerProcess, service: str
) -> None:
    client = RedisClient.from_url(redis_url_for(redis_with_acl_users, service))
    try:
        await client.ping()
        for command in FORBIDDEN_TO_ALL + FORBIDDEN_BY_USER[service]:
            with pytest.raises(ServiceUnavailable):
                await client.execute(*command)
    finally:
        await client.aclose()


@pytest.mark.anyio
async def test_every_service_works_with_its_own_user(
    redis_with_acl_users: ServerProcess, start_service: StartService, mongod: ServerProcess, database_name: str
) -> None:
    """Upload publishes events, stream receives invalidations, socket delivers; Redis has denied no command."""
    (port,) = free_ports(1)
    store = storage_env(mongod, "", database_name, GRIDCAST_MIN_FREE_SPACE="0")
    del store["GRIDCAST_REDIS_URL"]
    urls = {name: redis_url_for(redis_with_acl_users, name) for name in ("upload", "stream", "socket")}
    sockets = start_service("services.socket", GRIDCAST_REDIS_URL=urls["socket"])
    upload = start_service("services.upload", GRIDCAST_REDIS_URL=urls["upload"], **store)
    stream = start_service(
        "services.stream", GRIDCAST_REDIS_URL=urls["stream"], GRIDCAST_METRICS_PORT=str(port), **store
    )

    def live() -> bool:
        text = httpx.get(f"http://{HOST}:{port}/metrics").text
        return 'gridcast_redis_subscription_up{subscription="invalidation"} 1.0' in text

    eventually(live, 10.0, "stream hears of changes")
    browser = await WebSocketClient.connect(sockets)
    async with httpx.AsyncClient(base_url=upload.url, timeout=20) as client:
        query = f"/file/upload?sid={browser.sid}"
        stored = await client.post(query, files={"file": ("a.webm", b"x" * 3_000_000)})
    assert stored.status_code == 201
    await browser.receive_event("file.created")
    assert any(event["type"] == "file.progress" for event in browser.events)
    assert (await push_message(sockets, "all", {"type": "news", "data": 1})).is_success
    await browser.receive_event("news")
    await browser.subscribe("news")
    await billing.push(redis_url_for(redis_with_acl_users, "publisher"), 7, browser.sid)
    for event_type in ("invoice.paid", "invoice.news", "invoice.yours"):
        assert (await browser.receive_event(event_type))["data"] == {"number": 7}
    await browser.close()
    for service in (sockets, upload, stream):
        assert "Redis command failed" not in service.log
    assert live()


@pytest.mark.anyio
@pytest.mark.parametrize(("scheme", "first"), [("rediss+sentinel", b"\x16\x03"), ("redis+sentinel", b"*")])
async def test_sentinel_connection_follows_the_url(scheme: str, first: bytes) -> None:
    """The first bytes that it receives: a TLS handshake, or a command."""
    heard = asyncio.get_running_loop().create_future()

    async def sentinel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = await reader.read(64)
        if not heard.done():
            heard.set_result(said)
        writer.close()

    server = await asyncio.start_server(sentinel, HOST, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        client = RedisClient.from_url(f"{scheme}://user:password@{HOST}:{port}/gridcast/0?sentinel_password=x")
        try:
            with pytest.raises(ServiceUnavailable):
                await client.ping()
        finally:
            await client.aclose()
        assert (await asyncio.wait_for(heard, 5)).startswith(first)
