"""Events of the JavaScript client on Node, through the gateway, by its core and by its entry for RxJS: restarts of the gateway
and of replicas, topics that several listeners share, a frozen server, a takeover, an operator's close.

Node and its packages come from the machine and from npm; where they are not available, these tests are skipped and say so.
"""

import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from gridcast.publish import Publisher
from tests.support.clock_events import ClockEvents
from tests.support.js_client import install_client
from tests.support.node_program import NodeProgram
from tests.support.npm import NpmPackages
from tests.support.socket_replica_pair import SocketReplicaPair, run_socket_replica_pair
from tests.support.tokens import AUTH_ENV, token

pytestmark = pytest.mark.anyio

PROGRAM = Path(__file__).parent / "js" / "events.mjs"
HEARTBEAT_MS = 400


@pytest.fixture(scope="module")
def program(npm: NpmPackages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_client(npm, tmp_path_factory.mktemp("events"), ["rxjs", "ws"], PROGRAM) / PROGRAM.name


@pytest.fixture
def pair(program: Path, tmp_path: Path) -> Iterator[SocketReplicaPair]:
    """Requested after `program`, so that nothing is started where Node is missing."""
    with run_socket_replica_pair(tmp_path) as started:
        yield started


@pytest.fixture(params=["core", "rxjs"])
def entry(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class EventsClient:
    """A running client and what it has heard."""

    def __init__(self, running: NodeProgram) -> None:
        self.program = running

    @property
    def sids(self) -> list[str]:
        """The sid of each connection."""
        return [state["sid"] for state in self.program.find("state") if state["state"] == "connected"]

    @property
    def ends(self) -> list[tuple[int, str]]:
        """Code and reason of the end of each connection, and of each refused attempt."""
        return [
            (s["code"], s["reason"])
            for s in self.program.find("state")
            if s["state"] in {"waiting", "closed"} and "code" in s
        ]

    def data(self, kind: str) -> list[Any]:
        """The data of the events of one type, in order."""
        return [event["data"] for event in self.program.find("event") if event["type"] == kind]

    def heard(self, name: str) -> list[Any]:
        """The data that one listener of a topic got."""
        return [said["data"] for said in self.program.output if said.get("name") == name]

    def replies(self, kind: str) -> list[str]:
        """The topics of the server's replies of one type."""
        return [frame["topic"] for frame in self.program.find("frame") if frame.get("type") == kind]

    async def wait_for_connection(self, number: int) -> None:
        await self.program.wait_until(lambda: len(self.sids) >= number, f"connection {number}")


@contextlib.asynccontextmanager
async def run_client(
    program: Path, pair: SocketReplicaPair, entry: str = "core", tokens: Sequence[str] = ()
) -> AsyncIterator[EventsClient]:
    """Run the client until it is connected."""
    given = [json.dumps(tokens)] if tokens else []
    async with NodeProgram.run(program, entry, pair.gateway.url, str(HEARTBEAT_MS), *given) as running:
        client = EventsClient(running)
        await client.wait_for_connection(1)
        yield client


async def test_no_event_is_lost_over_restarts(pair: SocketReplicaPair, program: Path, entry: str) -> None:
    """A replica shuts down (1012), the other one is killed (1006), the gateway restarts: the same sid, and each event once, in
    order, also those pushed while the client was away. A topic that is wanted in between is there afterwards.
    """
    async with run_client(program, pair, entry) as client, Publisher.from_url(pair.redis_url, "/clock") as push:
        sid = client.sids[0]
        clock = ClockEvents(push, sid)

        async def moved(connection: int) -> None:
            await clock.push_some()
            await client.wait_for_connection(connection)
            await clock.push_some()
            await client.program.wait_until(lambda: len(client.heard("hours")) == clock.count, "all that was pushed")

        client.program.send_command(listen="hours")
        await client.program.wait_until(lambda: client.replies("subscribed") == ["hours"], "the topic is subscribed to")
        await clock.push_some()
        pair.start(1)
        pair.terminate(0)
        await moved(2)
        assert client.ends[0][0] == 1012
        pair.start(0)
        pair.kill(1)
        await client.program.wait_until(lambda: 1006 in [code for code, _ in client.ends], "the connection is lost")
        client.program.send_command(listen="late")
        await moved(3)
        await push.publish("late", "clock.late", 1)
        await client.program.wait_until(lambda: client.heard("late") == [1], "the topic that was wanted in between")
        pair.restart_gateway()
        await moved(4)

        assert client.sids == [sid] * 4
        everything = list(range(clock.count))
        assert client.data("clock.all") == client.data("clock.mine") == client.data("clock.hours") == everything
        assert client.heard("hours") == everything
        assert client.program.find("gap") == ["a new session"], "at the first connection"


async def test_one_of_two_subscribers_leaves(pair: SocketReplicaPair, program: Path, entry: str) -> None:
    """The other hears on; the topic is left with the last of them. Two topics over one socket each get their own events."""
    async with run_client(program, pair, entry) as client, Publisher.from_url(pair.redis_url, "/news") as push:
        for name in ("first", "second"):
            client.program.send_command(listen="shared", name=name)
        client.program.send_command(listen="other")
        await client.program.wait_until(lambda: client.replies("subscribed") == ["shared", "other"], "subscriptions")
        await push.publish("shared", "news.said", 1)
        await client.program.wait_until(lambda: client.heard("first") == client.heard("second") == [1], "both get it")
        client.program.send_command(leave="first")
        pongs = client.program.find("frame").count({"pong": True})
        await client.program.wait_until(lambda: client.program.find("frame").count({"pong": True}) > pongs + 1, "pongs")
        await push.publish("shared", "news.said", 2)
        await push.publish("other", "news.said", 3)
        await client.program.wait_until(
            lambda: client.heard("second") == [1, 2] and client.heard("other") == [3], "the second"
        )
        assert client.heard("first") == [1]
        assert client.replies("unsubscribed") == []
        client.program.send_command(leave="second")
        await client.program.wait_until(lambda: client.replies("unsubscribed") == ["shared"], "the last has left")
        await push.publish("shared", "news.said", 4)
        await push.publish("other", "news.said", 5)
        await client.program.wait_until(lambda: client.heard("other") == [3, 5], "the other topic")
        await client.program.wait_until(lambda: client.data("news.said") == [1, 2, 3, 5], "each of them once")
        assert len(client.sids) == 1


async def test_topic_that_was_left_while_away_is_left_on_the_server(pair: SocketReplicaPair, program: Path) -> None:
    async with run_client(program, pair) as client:
        client.program.send_command(listen="gone")
        await client.program.wait_until(lambda: client.replies("subscribed") == ["gone"], "the topic is subscribed to")
        pair.kill(0)
        await client.program.wait_until(lambda: client.ends, "the connection is lost")
        client.program.send_command(leave="gone")
        pair.start(1)
        await client.program.wait_until(lambda: client.replies("unsubscribed") == ["gone"], "the topic is left")
        async with httpx.AsyncClient(base_url=pair.gateway.url) as http:
            assert (await http.get(f"/sockets/{client.sids[0]}")).json()["topics"] == []


async def test_refused_topic_fails_alone(pair: SocketReplicaPair, program: Path, entry: str) -> None:
    """More topics than a connection may have: the server's answer reaches the subscriber that asked."""
    async with run_client(program, pair, entry) as client:
        for number in range(101):
            client.program.send_command(listen=f"t{number}")
        await client.program.wait_until(lambda: client.program.find("refused"), "the refusal")
        assert client.program.find("refused") == ["t100"]
        assert client.replies("subscribed") == [f"t{number}" for number in range(100)]


async def test_session_is_kept_over_refused_reconnects(pair: SocketReplicaPair, program: Path) -> None:
    """Its replica is killed, and none is there for several attempts: the same sid, and what was pushed meanwhile."""
    async with run_client(program, pair) as client, Publisher.from_url(pair.redis_url, "/clock") as push:
        sid = client.sids[0]
        await push.send(sid, "clock.mine", 1)
        await client.program.wait_until(lambda: client.data("clock.mine") == [1], "the first event")
        pair.kill(0)
        await client.program.wait_until(lambda: len(client.ends) >= 4, "refused attempts")
        await push.send(sid, "clock.mine", 2)
        pair.start(1)
        await client.wait_for_connection(2)
        await client.program.wait_until(lambda: client.data("clock.mine") == [1, 2], "the event that was missed")
        assert client.sids == [sid, sid]
        assert client.program.find("gap") == ["a new session"]


async def test_frozen_server_is_noticed(pair: SocketReplicaPair, program: Path) -> None:
    async with run_client(program, pair) as client:
        # Idle for longer than the silence that is noticed.
        await client.program.wait_until(lambda: client.program.find("frame").count({"pong": True}) >= 4, "pongs")
        assert client.ends == [], "pongs are enough"
        pair.start(1)
        pair.freeze(0)
        await client.wait_for_connection(2)
        assert client.sids[0] == client.sids[1]
        assert client.ends[0] == (1006, "no answer")


async def test_gap_is_told_when_the_session_is_lost(pair: SocketReplicaPair, program: Path, entry: str) -> None:
    """An operator closes it: after a wait there is a new session, and the application reads its state again."""
    async with run_client(program, pair, entry) as client:
        client.program.send_command(listen="kept")
        await client.program.wait_until(lambda: client.replies("subscribed") == ["kept"], "the topic is subscribed to")
        async with httpx.AsyncClient(base_url=pair.gateway.url) as http:
            assert (await http.delete(f"/sockets/{client.sids[0]}")).status_code == 204
        await client.wait_for_connection(2)
        assert client.sids[0] != client.sids[1]
        await client.program.wait_until(lambda: len(client.program.find("gap")) == 2, "the gap")
        async with Publisher.from_url(pair.redis_url, "/news") as push:
            await push.publish("kept", "news.said", 1)
            await client.program.wait_until(lambda: client.heard("kept") == [1], "the topic in the new session")


async def test_superseded_client_stays_away(pair: SocketReplicaPair, program: Path) -> None:
    """Two connections of one session would take it from each other for ever."""
    async with run_client(program, pair) as client:
        first = client.program.find("frame")[0]
        url = f"{pair.websocket_url}?resume={first['resume']}&after={first['sequence']}"
        async with connect(url, proxy=None) as other:
            assert json.loads(await other.recv())["sid"] == first["sid"]
            await client.program.wait_until(lambda: client.program.find("state")[-1]["state"] == "closed", "the end")
            assert client.ends == [(1008, "session resumed elsewhere")]


async def test_closed_client_resumes_its_session(pair: SocketReplicaPair, program: Path, entry: str) -> None:
    """With RxJS the last subscriber closes, and the next one connects."""
    async with run_client(program, pair, entry) as client, Publisher.from_url(pair.redis_url, "/clock") as push:
        client.program.send_command(close=True)
        check = partial(is_away, pair, client.sids[0])
        await client.program.wait_until(check, "the server has noticed")
        await push.broadcast("clock.all", 1)
        client.program.send_command(connect=True)
        await client.program.wait_until(lambda: client.data("clock.all") == [1], "the event that was missed")
        assert client.sids[0] == client.sids[1]


@pytest.fixture
def closed_pair(program: Path, tmp_path: Path) -> Iterator[SocketReplicaPair]:
    """A pair that wants tokens."""
    with run_socket_replica_pair(tmp_path, AUTH_ENV) as started:
        yield started


def ending(seconds: float, scope: str = "listen", **changes: Any) -> str:
    """Return a token that expires in `seconds`; the server sends `socket.expiring` a minute before."""
    return token("alice", scope, exp=int(time.time() + seconds), **changes)


async def test_token_is_renewed_over_the_open_socket(closed_pair: SocketReplicaPair, program: Path, entry: str) -> None:
    """The callback is asked for another token, and the same connection goes on: also after a replica was killed."""
    expires = int(time.time()) + 300
    given = [ending(61.5), token("alice", "listen", exp=expires)]
    async with run_client(program, closed_pair, entry, given) as client:
        client.program.send_command(listen="news")
        await client.program.wait_until(lambda: client.program.find("rejected") == [False, True], "the callback")
        await client.program.wait_until(lambda: token_replies(client), "the server's answer")
        assert token_replies(client) == [expires]
        async with Publisher.from_url(closed_pair.redis_url, "/news") as push:
            await push.publish("news", "news.said", 1)
            await client.program.wait_until(lambda: client.heard("news") == [1], "an event after the renewal")
            assert (len(client.sids), client.ends) == (1, [])
            assert len(client.data("socket.expiring")) == 1, "the application sees the warning too"
            # A command after the renewal gets its own answer.
            client.program.send_command(listen="more")
            await client.program.wait_until(lambda: client.replies("subscribed") == ["news", "more"], "the next topic")
            closed_pair.start(1)
            closed_pair.kill(0)
            await client.wait_for_connection(2)
            await push.publish("more", "news.said", 2)
            await client.program.wait_until(lambda: client.heard("more") == [2], "an event after the reconnect")
        assert client.sids[0] == client.sids[1]


async def test_topic_that_the_new_token_does_not_cover_is_left(closed_pair: SocketReplicaPair, program: Path) -> None:
    """It is named as a gap, the other topic goes on, and the next handshake does not ask for it."""
    given = [ending(61.5, "listen:a listen:b"), ending(300, "listen:b")]
    async with run_client(program, closed_pair, "core", given) as client:
        for name in ("a", "b"):
            client.program.send_command(listen=name)
        await client.program.wait_until(lambda: token_replies(client), "the server's answer")
        assert client.replies("unsubscribed") == ["a"]
        await client.program.wait_until(lambda: len(client.program.find("gap")) == 2, "the gap")
        assert client.program.find("gap")[1] == "the token does not cover the topic a"
        closed_pair.start(1)
        closed_pair.terminate(0)
        await client.wait_for_connection(2)
        async with Publisher.from_url(closed_pair.redis_url, "/news") as push:
            await push.publish("b", "news.said", 1)
            await client.program.wait_until(lambda: client.heard("b") == [1], "the topic that it covers")
        assert [end for end in client.ends if end[0] != 1012] == []


async def test_refused_token_is_asked_for_again(closed_pair: SocketReplicaPair, program: Path) -> None:
    """A renewal with a token of somebody else ends the connection; the next one is made with the token that follows."""
    given = [ending(61.5), token("bob", "listen"), ending(300)]
    async with run_client(program, closed_pair, "core", given) as client:
        await client.program.wait_until(lambda: client.ends, "the end of the first connection")
        assert client.ends[0] == (1008, "token of another subject")


def token_replies(client: EventsClient) -> list[float]:
    """When the tokens end that the server has accepted over the open socket."""
    return [frame["expires"] for frame in client.program.find("frame") if frame.get("type") == "token"]


def is_away(pair: SocketReplicaPair, sid: str) -> bool:
    """Whether the socket of this sid is closed."""
    return bool(httpx.get(f"{pair.gateway.url}/sockets/{sid}").json()["state"] == "away")
