"""RxJS on Node as a client of the socket service, through the gateway, with the recipe of docs/messages.md as it is printed,
compiled by strict TypeScript: the tutorial's ping, topics, a restart of replicas, a frozen replica, a takeover.

Node and its packages come from the machine and from npm; where they are not available, these tests are skipped and say so.
"""

import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from gridcast.publish import Publisher
from tests.support.clock_events import ClockEvents
from tests.support.node_program import NodeProgram
from tests.support.npm import NpmPackages
from tests.support.socket_replica_pair import SocketReplicaPair, run_socket_replica_pair

pytestmark = pytest.mark.anyio

PACKAGES = ["rxjs", "ws", "typescript"]
PROGRAM = Path(__file__).with_name("rxjs_client.mjs")
DOCUMENT = Path(__file__).parents[2] / "docs" / "messages.md"
# The constants that a reader changes, and what the test puts in their place.
CONSTANTS = {
    r"const base = 'ws://127\.0\.0\.1:8000';": "const base: string = (globalThis as any).base;",
    r"const heartbeat = 20_000;": "const heartbeat: number = (globalThis as any).heartbeat;",
    r"const readStateAgain = .*;": "const readStateAgain: () => void = (globalThis as any).readStateAgain;",
}
TSC = "--strict --skipDefaultLibCheck --noUnusedLocals --noUnusedParameters --target es2022 --module nodenext --lib es2022,dom"
HEARTBEAT_MS = 400
Output = dict[str, Any]


@pytest.fixture(scope="module")
def rxjs_program(npm: NpmPackages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = npm.require(tmp_path_factory.mktemp("rxjs"), PACKAGES, PROGRAM)
    recipe = DOCUMENT.read_text("utf-8").partition("### RxJS")[2].partition("```ts\n")[2].partition("```")[0]
    (folder / "printed.mts").write_text(recipe, "utf-8")
    for printed, changed in CONSTANTS.items():
        recipe, count = re.subn(printed, changed, recipe)
        assert count == 1, printed
    (folder / "recipe.mts").write_text(recipe, "utf-8")
    compile_programs(folder, "printed.mts", "recipe.mts")
    return folder / PROGRAM.name


def compile_programs(folder: Path, *names: str) -> None:
    """Compile NAME.mts to NAME.mjs; fail with what the compiler says."""
    compiler = folder / "node_modules" / "typescript" / "bin" / "tsc"
    node = shutil.which("node") or "node"
    run = subprocess.run(
        [node, str(compiler), *TSC.split(), *names], cwd=folder, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout


@pytest.fixture(scope="module")
def replica_pair(rxjs_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SocketReplicaPair]:
    """Requested after `program`, so that nothing is started where Node is missing."""
    with run_socket_replica_pair(tmp_path_factory.mktemp("pair")) as started:
        yield started


class RxjsClient(NodeProgram):
    """The program with the recipe, running."""

    @property
    def frames(self) -> list[Output]:
        """Frames of all its connections, in order."""
        return [said["frame"] for said in self.output if "frame" in said and "topic" not in said]

    @property
    def first_frames(self) -> list[Output]:
        """The first frame of each connection."""
        return [frame for frame in self.frames if "resume" in frame]

    @property
    def close_codes(self) -> list[int]:
        """The codes with which connections ended."""
        return [said["closed"] for said in self.output if "closed" in said]

    @property
    def reload_count(self) -> int:
        """How often it would have read its state again."""
        return len([said for said in self.output if "again" in said])

    def topic_data(self, topic: str) -> list[Any]:
        """The data on the stream of one topic."""
        return [said["frame"]["data"] for said in self.output if said.get("topic") == topic]

    def event_data(self, kind: str) -> list[Any]:
        """The data of the events of one type."""
        return [frame["data"] for frame in self.frames if frame.get("type") == kind]

    def has_more_frames_than(self, count: int) -> bool:
        return len(self.frames) > count


@contextlib.asynccontextmanager
async def run_rxjs_client(program: Path, address: str) -> AsyncIterator[RxjsClient]:
    """Run the program until it is connected and has its first frame."""
    async with RxjsClient.run(program, address, str(HEARTBEAT_MS)) as client:
        await client.wait_until(lambda: client.frames, "a first frame")
        yield client


async def test_ping_as_in_the_tutorial(replica_pair: SocketReplicaPair, rxjs_program: Path) -> None:
    async with run_rxjs_client(rxjs_program, replica_pair.websocket_url) as client:
        assert client.frames[0]["sid"]
        for said in ("ping", {"message": "ping"}, {"type": "ping"}):
            before = len(client.frames)
            client.send_command(next=said)
            await client.wait_until(partial(client.has_more_frames_than, before), f"an answer to {said!r}")
            assert client.frames[-1] == {"pong": True}
        assert client.close_codes == []


async def test_topics_over_one_socket(replica_pair: SocketReplicaPair, rxjs_program: Path) -> None:
    """Two streams over one socket: each gets its own topic, and nothing more after its end."""
    async with (
        run_rxjs_client(rxjs_program, replica_pair.websocket_url) as client,
        Publisher.from_url(replica_pair.redis_url, "/news") as push,
    ):
        for topic in ("sport", "weather"):
            client.send_command(listen=topic)
            await client.wait_until(partial(_is_confirmed, client, "subscribed", topic), f"{topic} is subscribed to")
        for number in range(3):
            await push.publish("sport", "news.said", number)
            await push.publish("weather", "news.said", 10 + number)
        await client.wait_until(
            lambda: len(client.topic_data("sport") + client.topic_data("weather")) == 6, "both topics"
        )
        assert (client.topic_data("sport"), client.topic_data("weather")) == ([0, 1, 2], [10, 11, 12])

        client.send_command(leave="sport")
        await client.wait_until(lambda: _is_confirmed(client, "unsubscribed", "sport"), "sport is left")
        await push.publish("sport", "news.said", 3)
        await push.publish("weather", "news.said", 13)
        await client.wait_until(lambda: len(client.topic_data("weather")) == 4, "the topic that stays")
        assert client.topic_data("sport") == [0, 1, 2]
        assert [said for said in client.output if "opened" in said] == [{"opened": 1}]


async def test_client_survives_a_restart_of_its_replica(replica_pair: SocketReplicaPair, rxjs_program: Path) -> None:
    """One replica shuts down (1012, RxJS completes and repeats), then the other is killed (1006, RxJS retries): the same sid, and
    every event once and in order, also those pushed while the client was offline. The stream of a topic continues, and so does one
    that was started without a connection.
    """
    async with (
        run_rxjs_client(rxjs_program, replica_pair.websocket_url) as client,
        Publisher.from_url(replica_pair.redis_url, "/clock") as push,
    ):
        sid = client.frames[0]["sid"]
        clock = ClockEvents(push, sid)

        async def moved(connections: int) -> None:
            await clock.push_some()
            await client.wait_until(lambda: len(client.first_frames) == connections, f"connection {connections}")
            await clock.push_some()
            await client.wait_until(lambda: len(client.topic_data("hours")) == clock.count, "all that was pushed")

        client.send_command(listen="hours")
        await client.wait_until(lambda: _is_confirmed(client, "subscribed", "hours"), "the topic is subscribed to")
        await clock.push_some()
        replica_pair.start(1)
        replica_pair.terminate(0)
        await moved(2)
        replica_pair.start(0)
        replica_pair.kill(1)
        await client.wait_until(lambda: 1006 in client.close_codes, "the connection is lost")
        client.send_command(listen="late")
        await moved(3)
        await push.publish("late", "clock.late", 1)
        await client.wait_until(lambda: client.topic_data("late") == [1], "the topic that was wanted in between")

        assert client.close_codes[0] == 1012
        assert 1006 in client.close_codes[1:]
        assert [frame["sid"] for frame in client.first_frames] == [sid] * 3
        assert [frame["recovered"] for frame in client.first_frames] == [False, True, True]
        assert client.event_data("clock.all") == client.event_data("clock.mine") == list(range(clock.count))
        assert client.topic_data("hours") == client.event_data("clock.hours") == list(range(clock.count))
        assert client.event_data("socket.resync") == []
        assert client.reload_count == 1, "at the very first connection"


def _is_confirmed(client: RxjsClient, kind: str, topic: str) -> bool:
    return any(frame.get("type") == kind and frame.get("topic") == topic for frame in client.frames)


async def test_subscribers_of_one_topic_share_it(replica_pair: SocketReplicaPair, rxjs_program: Path) -> None:
    """The topic is subscribed once, and left with the last of them."""
    async with (
        run_rxjs_client(rxjs_program, replica_pair.websocket_url) as client,
        Publisher.from_url(replica_pair.redis_url, "/news") as push,
    ):
        for listener in ("first", "second"):
            client.send_command(listen="shared", name=listener)
        await client.wait_until(lambda: _is_confirmed(client, "subscribed", "shared"), "the topic is subscribed")
        await push.publish("shared", "news.said", 1)
        await client.wait_until(lambda: client.topic_data("shared") == [1, 1], "both get it")
        client.send_command(leave="first")
        client.send_command(next={"type": "ping"})
        before = len(client.frames)
        await client.wait_until(partial(client.has_more_frames_than, before), "a pong")
        await push.publish("shared", "news.said", 2)
        await client.wait_until(lambda: client.topic_data("shared") == [1, 1, 2], "the other goes on")
        assert not _is_confirmed(client, "unsubscribed", "shared")
        client.send_command(leave="second")
        await client.wait_until(lambda: _is_confirmed(client, "unsubscribed", "shared"), "the last has left")
        assert len([frame for frame in client.frames if frame.get("type") == "subscribed"]) == 1


async def test_frozen_replica_is_noticed(rxjs_program: Path, tmp_path: Path) -> None:
    """It holds the connection and answers nothing: the client connects again, and gets what was pushed meanwhile."""
    with run_socket_replica_pair(tmp_path) as pair:
        async with (
            run_rxjs_client(rxjs_program, pair.websocket_url) as client,
            Publisher.from_url(pair.redis_url, "/clock") as push,
        ):
            sid = client.frames[0]["sid"]
            # Idle for longer than the silence that is noticed.
            await client.wait_until(lambda: client.frames.count({"pong": True}) >= 4, "pongs")
            assert client.close_codes == [], "pongs are enough"
            pair.start(1)
            pair.freeze(0)
            await push.send(sid, "clock.mine", 1)
            await client.wait_until(lambda: len(client.first_frames) == 2, "a second connection")
            assert client.first_frames[1]["sid"] == sid
            await client.wait_until(lambda: client.event_data("clock.mine") == [1], "the event")


async def test_superseded_client_does_not_come_back(replica_pair: SocketReplicaPair, rxjs_program: Path) -> None:
    """Two connections of one session would take it from each other for ever."""
    async with run_rxjs_client(rxjs_program, replica_pair.websocket_url) as client:
        first = client.first_frames[0]
        url = f"{replica_pair.websocket_url}?resume={first['resume']}&after={first['sequence']}"
        async with connect(url, proxy=None) as other:
            assert json.loads(await other.recv())["sid"] == first["sid"]
            await client.wait_until(lambda: client.close_codes == [1008], "it is closed")
            await client.wait_until(lambda: {"completed": True} in client.output, "the end of its frames")
            assert len(client.first_frames) == 1
