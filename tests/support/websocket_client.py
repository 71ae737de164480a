"""Socket replicas on a Redis of their own, and a WebSocket client that keeps its resume secret, position and events.

Fixtures: `single_replica` and `two_replicas`, for all tests of a module. `run_socket_replicas` runs others.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from deploy.local import databases
from tests.support.databases import ServerProcess, run_server
from tests.support.processes import ServiceProcess, run_service
from tests.support.raw_sockets import WEBSOCKET_HANDSHAKE
from tests.support.redis_commands import send_redis_commands

TIMEOUT = 10.0


class HasPort(Protocol):
    """Anything that listens on a loopback port."""

    port: int


class WebSocketClient:
    """A client. `events` are the CloudEvents it has received, `other_frames` everything else."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.events: list[dict[str, Any]] = []
        self.other_frames: list[dict[str, Any]] = []
        self.last_sequence = ""

    @classmethod
    async def connect(
        cls,
        service: "HasPort",
        path: str = "/ws",
        *,
        headers: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] | None = None,
        **query: str,
    ) -> "WebSocketClient":
        """Connect and receive the first frame. Raises InvalidStatus where the handshake is rejected."""
        target = f"{path}?{urlencode(query)}" if query else path
        address = f"ws://127.0.0.1:{service.port}{target}"
        client = cls(
            await connect(
                address,
                proxy=None,
                compression=None,
                ping_interval=None,
                close_timeout=2,
                additional_headers=headers,
                subprotocols=None if subprotocols is None else [Subprotocol(name) for name in subprotocols],
            )
        )
        try:
            client.first_frame = await client.receive_frame()
        except BaseException:
            client.abort()
            raise
        client.sid = client.first_frame["sid"]
        client.resume_secret = client.first_frame["resume"]
        client.last_sequence = client.first_frame["sequence"]
        return client

    first_frame: dict[str, Any]
    sid: str
    resume_secret: str

    async def reconnect(
        self,
        service: "HasPort",
        *,
        with_position: bool = True,
        headers: Mapping[str, str] | None = None,
        **query: str,
    ) -> "WebSocketClient":
        """Resume on a new connection; repeat while the replica rejects it with 503 because Redis is unavailable."""
        query = {**query, "resume": self.resume_secret, **({"after": self.last_sequence} if with_position else {})}
        async with asyncio.timeout(TIMEOUT):
            while True:
                try:
                    return await WebSocketClient.connect(service, headers=headers, **query)
                except InvalidStatus as error:
                    if error.response.status_code != 503:
                        raise
                await asyncio.sleep(0.1)

    async def receive_frame(self, timeout_seconds: float = TIMEOUT) -> dict[str, Any]:
        """Receive the next frame and parse it as JSON."""
        async with asyncio.timeout(timeout_seconds):
            text = await self.connection.recv()
        frame: dict[str, Any] = json.loads(text)
        if "specversion" in frame:
            self.last_sequence = frame["sequence"]
            self.events.append(frame)
        else:
            self.other_frames.append(frame)
        return frame

    async def receive_event(self, kind: str = "", timeout_seconds: float = TIMEOUT) -> dict[str, Any]:
        """Receive the next event, of that type if one is given; skip all other frames."""
        async with asyncio.timeout(timeout_seconds):
            while True:
                frame = await self.receive_frame(timeout_seconds)
                if "specversion" in frame and (not kind or frame["type"] == kind):
                    return frame

    async def send(self, message: object) -> None:
        await self.connection.send(message if isinstance(message, str) else json.dumps(message))

    async def send_command(self, command: object) -> dict[str, Any]:
        """Send a command and return the reply; events that arrive before it are kept."""
        await self.send(command)
        while "specversion" in (reply := await self.receive_frame()):
            pass
        return reply

    async def subscribe(self, topic: str) -> dict[str, Any]:
        return await self.send_command({"type": "subscribe", "topic": topic})

    async def assert_nothing_pending(self) -> None:
        """Assert that no frame is pending: the next one must be the reply to a ping that is sent now."""
        await self.send("anything")
        assert await self.receive_frame() == {"pong": True}

    async def wait_for_close_code(self, timeout_seconds: float = TIMEOUT) -> int:
        """Receive until the server closes the connection and return the close code, 1006 where there is none."""
        async with asyncio.timeout(timeout_seconds):
            while True:
                try:
                    await self.receive_frame(timeout_seconds)
                except ConnectionClosed:
                    return self.connection.close_code or 1006

    async def close(self) -> None:
        await self.connection.close()

    def abort(self) -> None:
        """Abort the TCP connection without a close frame."""
        self.connection.transport.abort()


class SocketReplicas:
    """Replicas of the socket service on one Redis, by index. `env` are variables for all of them."""

    def __init__(
        self, redis: ServerProcess, folder: Path, count: int, env: dict[str, str], stack: contextlib.ExitStack
    ) -> None:
        self.redis = redis
        self._folder = folder
        self._env = {"GRIDCAST_REDIS_URL": redis.url, **env}
        self._stack = stack
        self.services = [self.start() for _ in range(count)]

    def start(self, env: Mapping[str, str] | None = None, *, ready: bool = True) -> ServiceProcess:
        """Start one more replica, with these variables besides the common ones."""
        every = {**self._env, **(env or {})}
        return self._stack.enter_context(run_service("services.socket", self._folder, every, ready=ready))

    def __getitem__(self, index: int) -> ServiceProcess:
        return self.services[index]


@contextlib.contextmanager
def run_socket_replicas(folder: Path, count: int = 2, **env: str) -> Iterator[SocketReplicas]:
    """Run a Redis and `count` replicas, with these variables for every replica, and stop them at the end."""
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(run_server(folder / "redis", databases.redis_server))
        made = SocketReplicas(redis, folder, count, env, stack)
        if count:
            skip_settling_period(redis)
        yield made


def skip_settling_period(redis: ServerProcess) -> None:
    """End the first 5 s of a new Redis, in which a replica does not report an unknown sid as unknown yet."""
    assert send_redis_commands(redis.port, "HSET gridcast:sequence settles 0") == ":0\r\n"


@contextlib.asynccontextmanager
async def http_client(service: ServiceProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service.url, timeout=TIMEOUT) as client:
        yield client


async def push_message(
    service: ServiceProcess, target: str, message: dict[str, Any], **query: str | float
) -> httpx.Response:
    """Push over HTTP. `target` is a sid, `topic:NAME` or `all`."""
    if target.startswith("topic:"):
        path, query = "/sockets/messages", {"topic": target.removeprefix("topic:"), **query}
    else:
        path = "/sockets/messages" if target == "all" else f"/sockets/{target}/messages"
    async with http_client(service) as client:
        return await client.post(path, json=message, params=query)


def connect_stalled_reader(port: int) -> socket.socket:
    """Connect with a receive buffer of 4 KiB, receive the first frame, and read nothing more."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.settimeout(20)
    made.connect(("127.0.0.1", port))
    made.sendall(WEBSOCKET_HANDSHAKE)
    got = b""
    while b"recovered" not in got:
        got += made.recv(2048)
    return made


@pytest.fixture(scope="module")
def single_replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SocketReplicas]:
    """One socket replica with its own Redis, for all tests of a module."""
    with run_socket_replicas(tmp_path_factory.mktemp("sockets"), 1) as replicas:
        yield replicas


@pytest.fixture(scope="module")
def two_replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SocketReplicas]:
    """Two socket replicas with one Redis of their own, for all tests of a module."""
    with run_socket_replicas(tmp_path_factory.mktemp("sockets")) as replicas:
        yield replicas
