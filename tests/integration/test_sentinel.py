"""Redis behind three real Sentinels: the master is killed, and services go on with its replica by themselves.

Users, rights and configuration are those that deploy/containers/credentials.py makes for the containers.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from deploy.containers import credentials
from deploy.local import databases
from deploy.local.ports import HOST, free_ports
from deploy.local.processes import Program
from services.common.bus.redis import RedisClient
from services.common.errors import ServiceUnavailable
from tests.support.databases import Server, running
from tests.support.processes import Start
from tests.support.waiting import eventually
from tests.support.websocket_client import Client, push

KNOWN = {
    name: hashlib.sha256(name.encode()).hexdigest() for name in (*credentials.PASSWORDS, credentials.REPLICA_SET_KEY)
}
How = Callable[[Path, int], Program]
DOWN_MS = 1000
"""A third of what the containers wait, so that tests wait less."""


def configured(folder: Path, text: str, **changes: str) -> Path:
    """A configuration file, with lines replaced that speak of a container's file system."""
    folder.mkdir(parents=True, exist_ok=True)
    for directive, value in {"dir": str(folder), **changes}.items():
        text = re.sub(rf"^{directive} .*$", f"{directive} {value}", text, flags=re.MULTILINE)
    path = folder / "server.conf"
    path.write_text(text, "ascii")
    return path


def redis(master: int | None = None) -> How:
    """How to start a Redis server with our users; with `master`, as the replica of that port."""

    def program(folder: Path, port: int) -> Program:
        usual = databases.redis_server(folder, port)
        acl = folder / "users.acl"
        acl.write_text(credentials.redis_acl_file(KNOWN), "ascii")
        path = configured(folder, credentials.redis_conf(KNOWN), aclfile=str(acl))
        more = ("--replicaof", HOST, str(master)) if master else ()
        command = (usual.command[0], str(path), "--port", str(port), "--bind", HOST, *more)
        return dataclasses.replace(usual, command=command, readiness_error=lambda: knocks(port))

    return program


def sentinel(master: int) -> How:
    """How to start a Sentinel that watches the server on port `master`."""

    def program(folder: Path, port: int) -> Program:
        usual = databases.redis_server(folder, port)
        text = credentials.sentinel_conf(KNOWN, {"REDIS_MASTER": HOST}).replace(f"{HOST} 6379 2", f"{HOST} {master} 2")
        text = text.replace("down-after-milliseconds gridcast 3000", f"down-after-milliseconds gridcast {DOWN_MS}")
        path = configured(folder, text, port=str(port))
        command = (usual.command[0], str(path), "--sentinel", "--bind", HOST)
        return dataclasses.replace(usual, name="sentinel", command=command, readiness_error=lambda: knocks(port))

    return program


def ask(port: int, *commands: str) -> str:
    """The raw answer of a server to some commands."""
    with socket.create_connection((HOST, port), timeout=2.0) as connection:
        for command in commands:
            connection.sendall(f"{command}\r\n".encode())
            answer = connection.recv(65536).decode()
    return answer


def knocks(port: int) -> str | None:
    """Why it does not answer; that it wants a password is an answer."""
    try:
        answer = ask(port, "PING")
    except OSError as error:
        return str(error)
    return None if answer.startswith(("-NOAUTH", "+PONG")) else answer


class Watched:
    """A master, its replica, and three Sentinels."""

    def __init__(self, master: Server, replica: Server, sentinels: list[Server]) -> None:
        self.master = master
        self.replica = replica
        self.sentinels = sentinels

    def url(self, service: str) -> str:
        hosts = ",".join(f"{HOST}:{server.port}" for server in self.sentinels)
        return credentials.redis_url(service, KNOWN, {"REDIS_SENTINELS": hosts})

    def agreed(self, port: int, *, with_replica: bool = False) -> bool:
        """Whether every Sentinel names the server on `port` as master (and knows a replica and both others)."""
        password = KNOWN["REDIS_SENTINEL_PASSWORD"]
        for server in self.sentinels:
            said = ask(server.port, f"AUTH {password}", "SENTINEL get-master-addr-by-name gridcast")
            if f"\r\n{port}\r\n" not in said:
                return False
            known = ask(server.port, f"AUTH {password}", "SENTINEL master gridcast").split("\r\n")
            numbers = [known[known.index(fact) + 2] for fact in ("num-slaves", "num-other-sentinels")]
            if with_replica and numbers != ["1", "2"]:
                return False
        return True


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(running(tmp_path / "one", redis()))
        replica = stack.enter_context(running(tmp_path / "two", redis(master.port)))
        sentinels = [stack.enter_context(running(tmp_path / f"s{n}", sentinel(master.port))) for n in range(3)]
        watched = Watched(master, replica, sentinels)
        eventually(lambda: watched.agreed(master.port, with_replica=True), 30.0, "the Sentinels know each other")
        yield watched


@pytest.mark.anyio
async def test_the_master_is_killed(watched: Watched, start_service: Start, mongod: Server, database: str) -> None:
    """Sockets stay open, pushes are refused until the replica leads and then arrive, uploads never stop."""
    sockets = start_service("services.socket", GRIDCAST_REDIS_URL=watched.url("socket"))
    upload = start_service(
        "services.upload",
        GRIDCAST_REDIS_URL=watched.url("upload"),
        GRIDCAST_MONGODB_URI=mongod.uri,
        GRIDCAST_MONGODB_DATABASE=database,
        GRIDCAST_MIN_FREE_SPACE="0",
    )
    browser = await Client.open(sockets)
    assert (await push(sockets, "all", {"type": "before", "data": 1})).is_success
    assert (await browser.event("before"))["data"] == 1

    began = time.monotonic()
    watched.master.kill()
    async with httpx.AsyncClient(base_url=upload.url, timeout=20) as client:
        stored = await client.put("/file/stream?filename=while-away", content=b"x" * 1000)
    assert stored.status_code == 201
    eventually(lambda: watched.agreed(watched.replica.port), 30.0, "the Sentinels have made the replica master")
    elected = time.monotonic() - began

    accepted: list[int] = []
    first = 0.0
    while not any(event["type"] == "after" for event in browser.events):
        answer = await push(sockets, "all", {"type": "after", "data": len(accepted)})
        assert answer.status_code in {200, 202, 503}, answer.text
        if answer.is_success:
            first = first or time.monotonic() - began
            accepted.append(len(accepted))
        with contextlib.suppress(TimeoutError):
            await browser.frame(within=0.5)
        assert time.monotonic() - began < 40
    heard = [event["data"] for event in browser.events if event["type"] == "after"]
    # What was accepted before the replica had found the new master may be missing, but never without a word.
    assert heard == accepted or any(event["type"] == "socket.resync" for event in browser.events)
    print(f"\nmaster killed: a new one after {elected:.1f} s, a push accepted after {first:.1f} s")
    eventually(sockets.is_ready, 10.0, "the socket service is ready")
    newcomer = await Client.open(sockets)
    await newcomer.close()
    await browser.close()

    watched.master.start()
    eventually(lambda: "role:slave" in facts(watched.master), 30.0, "the old master follows the new one")


def facts(server: Server) -> str:
    return ask(server.port, f"AUTH sentinel {KNOWN['REDIS_SENTINEL_PASSWORD']}", "INFO replication")


FORBIDDEN: tuple[tuple[str | int, ...], ...] = (
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
BEYOND: dict[str, tuple[tuple[str | int, ...], ...]] = {
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
        ("EVAL", "return 1", 0),
    ),
    "socket": (),
}


@pytest.fixture
def with_our_users(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path / "alone", redis()) as server:
        yield server


def url_of(server: Server, service: str) -> str:
    return credentials.redis_url(service, KNOWN, {}).replace("@redis:6379", f"@{HOST}:{server.port}")


@pytest.mark.anyio
@pytest.mark.parametrize("service", ["upload", "stream", "socket"])
async def test_a_service_may_do_no_more_than_its_work(with_our_users: Server, service: str) -> None:
    client = RedisClient.from_url(url_of(with_our_users, service))
    try:
        await client.ping()
        for command in FORBIDDEN + BEYOND[service]:
            with pytest.raises(ServiceUnavailable):
                await client.execute(*command)
    finally:
        await client.aclose()


@pytest.mark.anyio
async def test_every_service_does_its_work_with_its_own_user(
    with_our_users: Server, start_service: Start, mongod: Server, database: str
) -> None:
    """Upload pushes and tells of changes, stream hears of them, socket delivers; Redis has refused nothing."""
    (port,) = free_ports(1)
    store = {"GRIDCAST_MONGODB_URI": mongod.uri, "GRIDCAST_MONGODB_DATABASE": database, "GRIDCAST_MIN_FREE_SPACE": "0"}
    urls = {name: url_of(with_our_users, name) for name in ("upload", "stream", "socket")}
    sockets = start_service("services.socket", GRIDCAST_REDIS_URL=urls["socket"])
    upload = start_service("services.upload", GRIDCAST_REDIS_URL=urls["upload"], **store)
    stream = start_service(
        "services.stream", GRIDCAST_REDIS_URL=urls["stream"], GRIDCAST_METRICS_PORT=str(port), **store
    )

    def live() -> bool:
        text = httpx.get(f"http://{HOST}:{port}/metrics").text
        return 'gridcast_redis_subscription_up{subscription="invalidation"} 1.0' in text

    eventually(live, 10.0, "stream hears of changes")
    browser = await Client.open(sockets)
    async with httpx.AsyncClient(base_url=upload.url, timeout=20) as client:
        query = f"/file/upload?sid={browser.sid}"
        stored = await client.post(query, files={"file": ("a.webm", b"x" * 3_000_000)})
    assert stored.status_code == 201
    await browser.event("file.created")
    assert any(event["type"] == "file.progress" for event in browser.events)
    assert (await push(sockets, "all", {"type": "news", "data": 1})).is_success
    await browser.event("news")
    await browser.close()
    for service in (sockets, upload, stream):
        assert "refused a command" not in service.log
    assert live()


@pytest.mark.anyio
@pytest.mark.parametrize(("scheme", "first"), [("rediss+sentinel", b"\x16\x03"), ("redis+sentinel", b"*")])
async def test_a_sentinel_is_spoken_to_as_the_url_says(scheme: str, first: bytes) -> None:
    """The first bytes that it gets: a TLS handshake, or a command."""
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
