"""Broadcasts side by side in one run: the socket service, socket.io with its Redis adapter, and what a tutorial would write.

`.venv/bin/python -m tests.bench.socket [--sockets N --messages M] [--quick]`. Each is one process; broadcasts are pushed by
another process through Redis, and the next one is pushed when every client has received the last. The comparison is of the
server's CPU, which does not depend on how fast the clients are. Rounds alternate (A B C A B C). socket.io comes from npm; where
it is not available, its column stays empty.
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import uvloop

from deploy.local import databases
from deploy.local.ports import free_ports
from services.common.bus.publisher import EventPublisher
from services.common.bus.redis import RedisClient
from tests.bench.baselines.socket_tutorial import CHANNEL
from tests.bench.contender import run_contender
from tests.bench.measurements import OURS, Measurement, Target, describe_machine, format_table
from tests.support.databases import run_server
from tests.support.npm import NpmUnavailable, install_packages
from tests.support.open_file_limit import raise_open_file_limit
from tests.support.process_stats import cpu_seconds, resident_memory
from tests.support.processes import run_service
from tests.support.websocket_load import WebSocketSwarm

PEERS = Path(__file__).with_name("peers")
PACKAGES = {
    "socket.io": "4.8.4",
    "@socket.io/redis-adapter": "8.3.0",
    "@socket.io/redis-emitter": "5.1.0",
    "redis": "5.12.1",
}
SOCKETIO, TUTORIAL = "socket.io", "tutorial"
WARM_UP = 200
"""Sockets that are opened and closed before idle ones are measured."""
SETTLE_SECONDS = 2.0
DATA = {"text": "a broadcast of the size of a chat line, neither the shortest nor a long one", "number": 12345}

ENGINE_IO_PATH = "/socket.io/?EIO=4&transport=websocket"

Start = Callable[[], contextlib.AbstractContextManager[tuple[str, int]]]
Broadcast = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Options:
    sockets: int
    messages: int
    idle: int
    rounds: int


class Contenders:
    """How each server is started, as (url, pid), and how another process pushes to all of its sockets."""

    def __init__(self, folder: Path, redis_url: str, node: Path | None) -> None:
        self._folder = folder
        self._redis_url = redis_url
        self._node = node
        self.starts: dict[str, Start] = {OURS: self._ours, TUTORIAL: self._tutorial}
        if node is not None:
            self.starts[SOCKETIO] = self._socketio

    @contextlib.contextmanager
    def _ours(self) -> Iterator[tuple[str, int]]:
        # All clients connect in one burst; the handshake rate limit is not measured.
        env = {"GRIDCAST_REDIS_URL": self._redis_url, "GRIDCAST_HANDSHAKE_RATE": "100000"}
        with run_service("services.socket", self._folder, env) as service:
            yield service.url, service.pid

    @contextlib.contextmanager
    def _tutorial(self) -> Iterator[tuple[str, int]]:
        application = "tests.bench.baselines.socket_tutorial:app"
        with self._run_other(
            TUTORIAL,
            lambda port: [sys.executable, "-m", "uvicorn", application, "--port", str(port), "--log-level", "warning"],
            {"GRIDCAST_REDIS_URL": self._redis_url},
        ) as started:
            yield started

    @contextlib.contextmanager
    def _socketio(self) -> Iterator[tuple[str, int]]:
        with self._run_other(
            SOCKETIO,
            lambda port: [node_path(), f"{self._node}/socketio_server.mjs", str(port), self._redis_url],
            {"NODE_ENV": "production"},
        ) as started:
            yield started

    @contextlib.contextmanager
    def _run_other(
        self, name: str, command: Callable[[int], list[str]], env: Mapping[str, str]
    ) -> Iterator[tuple[str, int]]:
        (port,) = free_ports(1)
        with run_contender(name, command(port), port, self._folder, env) as pid:
            yield f"http://127.0.0.1:{port}", pid

    @contextlib.asynccontextmanager
    async def broadcasters(self) -> AsyncIterator[dict[str, Broadcast]]:
        """For each contender a function that pushes one broadcast."""
        async with EventPublisher.from_url(self._redis_url, "/bench") as push, contextlib.AsyncExitStack() as stack:
            text = json.dumps({"type": "bench.tick", "data": DATA})
            found: dict[str, Broadcast] = {
                OURS: lambda: push.broadcast("bench.tick", DATA),
                TUTORIAL: lambda: push.redis.execute("PUBLISH", CHANNEL, text),
            }
            if self._node is not None:
                found[SOCKETIO] = await stack.enter_async_context(self._emitter())
            yield found

    @contextlib.asynccontextmanager
    async def _emitter(self) -> AsyncIterator[Broadcast]:
        process = await asyncio.create_subprocess_exec(
            node_path(),
            f"{self._node}/socketio_emit.mjs",
            self._redis_url,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        if process.stdin is None or process.stdout is None or await process.stdout.readline() != b"ready\n":
            raise RuntimeError("the socket.io emitter did not start")
        stdin = process.stdin
        line = json.dumps(DATA).encode() + b"\n"

        async def emit() -> None:
            stdin.write(line)
            await stdin.drain()

        try:
            yield emit
        finally:
            stdin.close()
            await process.wait()


def node_path() -> str:
    return shutil.which("node") or "node"


def make_swarm(who: str, url: str) -> WebSocketSwarm:
    return WebSocketSwarm(f"{url}{ENGINE_IO_PATH}", engine_io=True) if who == SOCKETIO else WebSocketSwarm(f"{url}/ws")


async def measure_broadcasts(contenders: Contenders, options: Options) -> Measurement:
    """All servers hold their sockets all the time; they get their messages in turn."""
    figures = Measurement("CPU per delivered broadcast", "us", (Target(0.85, SOCKETIO), Target(0.5, TUTORIAL)))
    with contextlib.ExitStack() as stack:
        pids: dict[str, int] = {}
        crowds: dict[str, WebSocketSwarm] = {}
        for who, start in contenders.starts.items():
            url, pids[who] = stack.enter_context(start())
            crowds[who] = make_swarm(who, url)
            await crowds[who].connect_clients(options.sockets)
        async with contenders.broadcasters() as shouts:
            for number in range(1 + options.rounds):
                for who, crowd in crowds.items():
                    before = cpu_seconds(pids[who])
                    for _ in range(options.messages if number else max(10, options.messages // 10)):
                        await shouts[who]()
                        await crowd.wait_until_all_received()
                    used = cpu_seconds(pids[who]) - before
                    if number:  # the first round warms up
                        figures.add(who, 1e6 * used / (options.messages * len(crowd)))
        for crowd in crowds.values():
            await crowd.disconnect_all()
    return figures


async def measure_idle(contenders: Contenders, options: Options, redis: RedisClient) -> list[Measurement]:
    """A new process in each round, so that its memory is that of these sockets alone."""
    memory = Measurement(f"memory per socket, {options.idle} idle", "KiB", (Target(30),))
    connect = Measurement("CPU per connect", "us", (Target(1.3, TUTORIAL),))
    for _ in range(options.rounds):
        for who, start in contenders.starts.items():
            await redis.execute("FLUSHALL")
            with start() as (url, pid):
                early = make_swarm(who, url)
                await early.connect_clients(WARM_UP)
                await early.disconnect_all()
                await asyncio.sleep(SETTLE_SECONDS / 2)
                crowd = make_swarm(who, url)
                used, held = cpu_seconds(pid), resident_memory(pid)
                await crowd.connect_clients(options.idle)
                connect.add(who, 1e6 * (cpu_seconds(pid) - used) / options.idle)
                await asyncio.sleep(SETTLE_SECONDS)
                memory.add(who, (resident_memory(pid) - held) / 1024 / options.idle)
                await crowd.disconnect_all()
            if crowd.rejected_handshakes:
                print(
                    f"{who} refused {crowd.rejected_handshakes} handshakes at first, which makes its connects look dearer"
                )
    return [connect, memory]


async def _measure(contenders: Contenders, options: Options, redis_url: str) -> list[Measurement]:
    redis = RedisClient.from_url(redis_url)
    try:
        return [await measure_broadcasts(contenders, options), *await measure_idle(contenders, options, redis)]
    finally:
        await redis.aclose()


def measure(options: Options) -> list[Measurement]:
    """Run all measurements."""
    raise_open_file_limit(2 * options.idle + 4 * options.sockets + 256)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        node: Path | None = None
        try:
            node = install_packages(
                folder / "node", PACKAGES, PEERS / "socketio_server.mjs", PEERS / "socketio_emit.mjs"
            )
        except NpmUnavailable as error:
            print(f"without socket.io: {error}")
        with run_server(folder / "redis", databases.redis_server) as redis:
            return uvloop.run(_measure(Contenders(folder, redis.url, node), options, redis.url))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sockets", type=int, default=1000, help="that hear each broadcast")
    parser.add_argument("--messages", type=int, default=200, help="broadcasts in one round")
    parser.add_argument("--idle", type=int, default=5000, help="sockets that only stay connected")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    given = parser.parse_args()
    options = Options(given.sockets, given.messages, given.idle, given.rounds)
    if given.quick:
        options = Options(200, 100, 500, 2)
    for line in describe_machine(("node", "--version")):
        print(line)
    print(", ".join(f"{name} {number}" for name, number in PACKAGES.items()))
    print(f"{options.sockets} sockets, {options.messages} messages, {options.rounds} rounds")
    for line in format_table(measure(options), (OURS, SOCKETIO, TUTORIAL)):
        print(line)


if __name__ == "__main__":
    main()
