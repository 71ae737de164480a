"""Redis behind Sentinel: a failover starts a new epoch, and services and publishers reconnect to the new master."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import binaries
from deploy.local.ports import free_ports
from gridcast.publish import Publisher
from tests.support.processes import ServiceProcess, run_service
from tests.support.redis_commands import send_redis_commands
from tests.support.waiting import eventually, eventually_async
from tests.support.websocket_client import WebSocketClient

pytestmark = pytest.mark.anyio


class SentinelSetup:
    """A master, its replica and one Sentinel."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.master, self.replica, self.watcher = free_ports(3)
        self.processes = {self.master: self._run(self.master)}
        eventually(lambda: "+PONG" in send_redis_commands(self.master, "PING"))
        self._run(self.replica, "--replicaof", "127.0.0.1", str(self.master))
        eventually(lambda: "state=online" in send_redis_commands(self.master, "INFO replication"), 20)
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {self.watcher}\nsentinel monitor media 127.0.0.1 {self.master} 1\n"
            "sentinel down-after-milliseconds media 500\nsentinel failover-timeout media 3000\n",
            "utf-8",
        )
        self._run(self.watcher, config=str(config))
        eventually(lambda: "slaves=1" in send_redis_commands(self.watcher, "INFO sentinel"), 20)
        self.url = f"redis+sentinel://127.0.0.1:{self.watcher}/media/0"

    def _run(self, port: int, *options: str, config: str = "") -> subprocess.Popen[bytes]:
        start = [config, "--sentinel"] if config else ["--port", str(port), "--save", "", *options]
        command = [str(binaries.find_redis_server()), *start]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=self._folder)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process


@pytest.fixture
def sentinel_setup(tmp_path: Path) -> Iterator[SentinelSetup]:
    with contextlib.ExitStack() as stack:
        yield SentinelSetup(tmp_path, stack)


@pytest.fixture
def service(tmp_path: Path, sentinel_setup: SentinelSetup) -> Iterator[ServiceProcess]:
    with run_service("services.socket", tmp_path, {"GRIDCAST_REDIS_URL": sentinel_setup.url}) as made:
        yield made


async def test_push_survives_a_sentinel_failover(sentinel_setup: SentinelSetup, service: ServiceProcess) -> None:
    client = await WebSocketClient.connect(service, topics="a")
    async with Publisher.from_url(sentinel_setup.url, "/test") as push:
        assert (await push.send(client.sid, "t", 1)).status == "sent"
        before = (await client.receive_event())["sequence"].partition("-")[0]
        sentinel_setup.processes[sentinel_setup.master].kill()
        began = time.monotonic()
        resync = await client.receive_event("socket.resync", timeout_seconds=30)
        assert not resync["sequence"].startswith(before)
        assert time.monotonic() - began < 20

        async def pushed() -> bool:
            with contextlib.suppress(Exception):
                return (await push.send(client.sid, "t", 2)).status == "sent"
            return False

        await eventually_async(pushed)
        assert (await client.receive_event())["data"] == 2
        await push.publish("a", "t", 3)
        assert (await client.receive_event())["data"] == 3
    back = await client.reconnect(service)
    assert (back.sid, back.first_frame["recovered"]) == (client.sid, True)
    await back.assert_nothing_pending()
    await back.close()
