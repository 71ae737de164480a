"""The page's client of events (gateway/page/events.js) on Node, through the gateway: it keeps its session over refused
reconnects, and notices a frozen server.

Node and its packages come from the machine and from npm; where they are not available, these tests are skipped and say so.
"""

import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gridcast.publish import Publisher
from tests.support.node_program import NodeProgram
from tests.support.npm import require_packages
from tests.support.socket_replica_pair import SocketReplicaPair, run_socket_replica_pair

pytestmark = pytest.mark.anyio

PACKAGES = {"ws": "8.21.3"}
PROGRAM = Path(__file__).with_name("events_client.mjs")
SOURCE = Path(__file__).parents[2] / "gateway" / "page" / "events.js"
HEARTBEAT = re.compile(r"const HEARTBEAT = 20_000;")


@pytest.fixture(scope="module")
def events_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = require_packages(tmp_path_factory.mktemp("events"), PACKAGES, PROGRAM)
    text, count = HEARTBEAT.subn("const HEARTBEAT = 400;", SOURCE.read_text("utf-8"))
    assert count == 1
    (folder / "events.mjs").write_text(text, "utf-8")
    return folder / PROGRAM.name


class PageClient(NodeProgram):
    """The page's client of events, running."""

    @property
    def sids(self) -> list[str]:
        """The sid of each connection."""
        return [said["sid"] for said in self.output if said.get("state", "").startswith("connected")]

    @property
    def refusals(self) -> int:
        """How often it was not connected."""
        return len([said for said in self.output if said.get("state", "").startswith("not connected")])

    @property
    def data(self) -> list[Any]:
        """The data of its events."""
        return [said["event"]["data"] for said in self.output if "event" in said]


@contextlib.asynccontextmanager
async def run_page_client(program: Path, pair: SocketReplicaPair) -> AsyncIterator[PageClient]:
    """Run the client until it is connected."""
    async with PageClient.run(program, f"127.0.0.1:{pair.gateway.port}") as client:
        await client.wait_until(lambda: client.sids, "the first connection")
        yield client


async def test_session_is_kept_over_refused_reconnects(events_program: Path, tmp_path: Path) -> None:
    """Its replica is killed, and none is there for several attempts: the same sid, and what was pushed meanwhile."""
    with run_socket_replica_pair(tmp_path) as pair:
        async with (
            run_page_client(events_program, pair) as client,
            Publisher.from_url(pair.redis_url, "/clock") as push,
        ):
            sid = client.sids[0]
            await push.send(sid, "clock.mine", 1)
            await client.wait_until(lambda: client.data == [1], "the first event")
            pair.kill(0)
            await client.wait_until(lambda: client.refusals >= 4, "four refused attempts")
            await push.send(sid, "clock.mine", 2)
            pair.start(1)
            await client.wait_until(lambda: len(client.sids) == 2, "a second connection")
            assert client.sids == [sid, sid]
            await client.wait_until(lambda: client.data == [1, 2], "what was pushed meanwhile")
            assert len([said for said in client.output if "fresh" in said]) == 1, "at the very first connection"


async def test_frozen_server_is_noticed(events_program: Path, tmp_path: Path) -> None:
    with run_socket_replica_pair(tmp_path) as pair:
        async with run_page_client(events_program, pair) as client:
            # Idle for longer than the silence that is noticed.
            await client.wait_until(lambda: client.output.count({"pong": True}) >= 4, "pongs")
            assert client.refusals == 0, "pongs are enough"
            pair.start(1)
            pair.freeze(0)
            await client.wait_until(lambda: len(client.sids) == 2, "a second connection")
            assert client.sids[0] == client.sids[1]


async def test_session_that_an_operator_closed_is_not_resumed(events_program: Path, tmp_path: Path) -> None:
    """The page begins a new one."""
    with run_socket_replica_pair(tmp_path) as pair:
        async with run_page_client(events_program, pair) as client:
            async with Publisher.from_url(pair.redis_url, "/clock") as push:
                await push.send(client.sids[0], "clock.mine", 1)
                await client.wait_until(lambda: client.data == [1], "the first event")
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{pair.gateway.port}") as http:
                assert (await http.delete(f"/sockets/{client.sids[0]}")).status_code == 204
            await client.wait_until(lambda: len(client.sids) == 2, "a second connection")
            assert client.sids[0] != client.sids[1]
