"""Socket replicas on a Redis of their own, and a WebSocket client that keeps what a browser would keep: its secret, its place
in the sequence, the events it has seen.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from deploy.local import databases
from tests.support.databases import Server, running
from tests.support.processes import Service, launched

PATIENCE = 10.0


class HasPort(Protocol):
    """What a client has to know of a service."""

    port: int


class Client:
    """One browser. `events` are the CloudEvents it has seen, `others` its other frames."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.events: list[dict[str, Any]] = []
        self.others: list[dict[str, Any]] = []
        self.after = ""

    @classmethod
    async def open(cls, service: "HasPort", path: str = "/ws", **query: str) -> "Client":
        """Connect and read the first frame."""
        target = f"{path}?{urlencode(query)}" if query else path
        address = f"ws://127.0.0.1:{service.port}{target}"
        client = cls(await connect(address, proxy=None, compression=None, ping_interval=None, close_timeout=2))
        try:
            client.first = await client.frame()
        except BaseException:
            client.cut()
            raise
        client.sid = client.first["sid"]
        client.resume = client.first["resume"]
        client.after = client.first["sequence"]
        return client

    first: dict[str, Any]
    sid: str
    resume: str

    async def again(self, service: "HasPort", *, after: bool = True, **query: str) -> "Client":
        """The same browser on a new connection. A replica that has not found Redis again yet is asked until it has."""
        query = {**query, "resume": self.resume, **({"after": self.after} if after else {})}
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    return await Client.open(service, **query)
                except InvalidStatus as error:
                    if error.response.status_code != 503:
                        raise
                await asyncio.sleep(0.1)

    async def frame(self, within: float = PATIENCE) -> dict[str, Any]:
        """The next frame, as JSON."""
        async with asyncio.timeout(within):
            text = await self.connection.recv()
        said: dict[str, Any] = json.loads(text)
        if "specversion" in said:
            self.after = said["sequence"]
            self.events.append(said)
        else:
            self.others.append(said)
        return said

    async def event(self, kind: str = "", within: float = PATIENCE) -> dict[str, Any]:
        """The next event (of that type); other frames are passed over."""
        async with asyncio.timeout(within):
            while True:
                said = await self.frame(within)
                if "specversion" in said and (not kind or said["type"] == kind):
                    return said

    async def say(self, said: object) -> None:
        await self.connection.send(said if isinstance(said, str) else json.dumps(said))

    async def ask(self, said: object) -> dict[str, Any]:
        """The answer to a command; events that come first are kept."""
        await self.say(said)
        while "specversion" in (answer := await self.frame()):
            pass
        return answer

    async def subscribe(self, topic: str) -> dict[str, Any]:
        return await self.ask({"type": "subscribe", "topic": topic})

    async def nothing(self) -> None:
        """Fails where anything waits for this client: its next frame must be the answer to its own question."""
        await self.say("anything")
        assert await self.frame() == {"pong": True}

    async def closed(self, within: float = PATIENCE) -> int:
        """The code with which the server ends the connection."""
        async with asyncio.timeout(within):
            while True:
                try:
                    await self.frame(within)
                except ConnectionClosed:
                    return self.connection.close_code or 1006

    async def close(self) -> None:
        await self.connection.close()

    def cut(self) -> None:
        """Away, without a word."""
        self.connection.transport.abort()


class Replicas:
    """Some replicas of the socket service on one Redis."""

    def __init__(
        self, redis: Server, folder: Path, count: int, env: dict[str, str], stack: contextlib.ExitStack
    ) -> None:
        self.redis = redis
        self._folder = folder
        self._env = {"GRIDCAST_REDIS_URL": redis.url, **env}
        self._stack = stack
        self.services = [self.start() for _ in range(count)]

    def start(self, *, ready: bool = True, **env: str) -> Service:
        """One more."""
        every = {**self._env, **env}
        return self._stack.enter_context(launched("services.socket", self._folder, every, ready=ready))

    def __getitem__(self, index: int) -> Service:
        return self.services[index]


@contextlib.contextmanager
def replicas(folder: Path, count: int = 2, **env: str) -> Iterator[Replicas]:
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(running(folder / "redis", databases.redis_server))
        made = Replicas(redis, folder, count, env, stack)
        if count:
            in_use_for_long(redis)
        yield made


def in_use_for_long(redis: Server) -> None:
    """Nobody is expected to tell of sids from before: one that is unknown is unknown at once, and not only after 5 s."""
    with socket.create_connection(("127.0.0.1", redis.port), timeout=PATIENCE) as connection:
        connection.sendall(b"HSET gridcast:sequence settles 0\r\n")
        assert connection.recv(64) == b":0\r\n"


@contextlib.asynccontextmanager
async def http(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service.url, timeout=PATIENCE) as client:
        yield client


async def push(service: Service, target: str, said: dict[str, Any], **query: str | float) -> httpx.Response:
    """`target` is a sid, `topic:NAME` or `all`."""
    if target.startswith("topic:"):
        path, query = "/sockets/messages", {"topic": target.removeprefix("topic:"), **query}
    else:
        path = "/sockets/messages" if target == "all" else f"/sockets/{target}/messages"
    async with http(service) as client:
        return await client.post(path, json=said, params=query)


async def soon(check: Any, within: float = PATIENCE) -> Any:
    """The first true result of the coroutine function `check`."""
    deadline = asyncio.get_running_loop().time() + within
    while not (result := await check()):
        assert asyncio.get_running_loop().time() < deadline, f"not true within {within:g} s"
        await asyncio.sleep(0.02)
    return result


def resident(pid: int) -> int:
    """Bytes of memory."""
    return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * 4096


def stopped_reader(port: int) -> socket.socket:
    """A connection that reads its first frame and then nothing, with little room in its kernel."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.settimeout(20)
    made.connect(("127.0.0.1", port))
    made.sendall(
        b"GET /ws HTTP/1.1\r\nhost: 127.0.0.1\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
        b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n"
    )
    got = b""
    while b"recovered" not in got:
        got += made.recv(2048)
    return made
