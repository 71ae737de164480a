"""Rights of WebSockets: the handshake, topics, renewal, the end of a token, and events about files that a client may not read."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from services.common.bus.publisher import EventPublisher
from tests.support.databases import ServerProcess
from tests.support.processes import ServiceProcess, run_service
from tests.support.redis_commands import send_redis_commands
from tests.support.tokens import AUTH_ENV, authorized, bearer, token
from tests.support.waiting import eventually_async
from tests.support.websocket_client import WebSocketClient

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory, redis_server: ServerProcess) -> Iterator[ServiceProcess]:
    # As the upload service writes it each second.
    send_redis_commands(redis_server.port, "SET gridcast:revocations []")
    env = {**AUTH_ENV, "GRIDCAST_REDIS_URL": redis_server.url}
    with run_service("services.socket", tmp_path_factory.mktemp("auth"), env) as process:
        yield process


@asynccontextmanager
async def publishing(redis_url: str) -> AsyncIterator[EventPublisher]:
    async with EventPublisher.from_url(redis_url, "/upload") as publisher:
        yield publisher


async def connect(
    replica: ServiceProcess, scope: str = "listen", subject: str = "alice", **query: Any
) -> WebSocketClient:
    return await WebSocketClient.connect(replica, headers=authorized(scope, subject), **query)


async def refusal(replica: ServiceProcess, **options: Any) -> int:
    """The status with which a handshake is refused."""
    try:
        client = await WebSocketClient.connect(replica, **options)
    except InvalidStatus as error:
        return error.response.status_code
    client.abort()
    return 101


async def is_accepted(replica: ServiceProcess) -> bool:
    return await refusal(replica, headers=authorized("listen")) == 101


async def test_handshakes(replica: ServiceProcess) -> None:
    good, jwt = authorized("listen"), token("alice", "listen")
    page = {"Origin": "https://attacker.example"}
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, 401),
        ({"access_token": jwt, "token": jwt}, 401),
        ({"headers": bearer(token("alice", "listen", exp=int(time.time()) - 11))}, 401),
        ({"headers": bearer(token("alice", "listen", aud="other"))}, 401),
        ({"headers": {"authorization": "Basic YTpi"}}, 401),
        ({"headers": authorized("read write push")}, 403),
        ({"headers": authorized("listen:room/1"), "topics": "room/2"}, 403),
        ({"headers": authorized("listen:room/1"), "topics": "room/1"}, 101),
        ({"headers": authorized("listen"), "topics": "@user/bob"}, 403),
        ({"headers": {**good, **page}}, 403),
        ({"subprotocols": [f"bearer.{jwt}"]}, 400),
        ({"subprotocols": ["cloudevents.json", f"bearer.{jwt}"], "headers": good}, 400),
        ({"subprotocols": ["cloudevents.json", f"bearer.{jwt}", f"bearer.{jwt}"]}, 400),
        ({"subprotocols": ["cloudevents.json", "bearer.x"]}, 401),
        ({"subprotocols": ["cloudevents.json", f"bearer.{jwt}"]}, 101),
        ({"headers": good}, 101),
    ]
    assert [await refusal(replica, **options) for options, _ in cases] == [status for _, status in cases]


async def test_only_the_real_subprotocol_is_selected(replica: ServiceProcess) -> None:
    client = await WebSocketClient.connect(replica, subprotocols=["cloudevents.json", f"bearer.{token('a', 'listen')}"])
    assert client.connection.subprotocol == "cloudevents.json"
    client.abort()


async def test_topics_by_command(replica: ServiceProcess) -> None:
    client = await connect(replica, "listen:room/*")
    assert (await client.subscribe("room/1"))["type"] == "subscribed"
    for topic in ("hall", "@user/bob"):
        reply = await client.subscribe(topic)
        assert reply["type"] == "error"
        assert f"listen:{topic}" in reply["detail"]
    await client.assert_nothing_pending()
    client.abort()


async def test_a_person_is_reached_on_every_socket(replica: ServiceProcess) -> None:
    first, second, other = await connect(replica), await connect(replica), await connect(replica, subject="bob")
    async with httpx.AsyncClient(base_url=replica.url) as http:
        sent = await http.post(
            "/sockets/messages?topic=@user/alice", json={"type": "hello"}, headers=authorized("push", "service")
        )
        refused = await http.post(
            "/sockets/messages?topic=@user/alice", json={"type": "hello"}, headers=authorized("push:*")
        )
    assert (sent.status_code, refused.status_code) == (200, 403)
    for client in (first, second):
        assert (await client.receive_event())["topic"] == "@user/alice"
    await other.assert_nothing_pending()
    for client in (first, second, other):
        client.abort()


async def test_pushes_and_presence(replica: ServiceProcess) -> None:
    alice = await connect(replica)
    own, foreign, push = authorized("listen"), authorized("listen", "bob"), authorized("push", "service")
    body = {"type": "hello"}
    async with httpx.AsyncClient(base_url=replica.url) as http:
        path = f"/sockets/{alice.sid}"
        statuses = [
            (await http.post(f"{path}/messages", json=body, headers=own)).status_code,
            (await http.post(f"{path}/messages", json=body, headers=push)).status_code,
            (await http.post(f"{path}/messages", json=body, headers=foreign)).status_code,
            (await http.post(f"{path}/messages", json=body)).status_code,
            (await http.get(path, headers=own)).status_code,
            (await http.get(path, headers=foreign)).status_code,
            (await http.get("/sockets", headers=own)).status_code,
            (await http.get("/sockets", headers=authorized("sockets"))).status_code,
            (await http.post("/sockets/messages", json=body, headers=authorized("push:room/*"))).status_code,
            (
                await http.post("/sockets/messages?topic=room/1", json=body, headers=authorized("push:room/*"))
            ).status_code,
            (await http.post("/sockets/messages?topic=hall", json=body, headers=authorized("push:room/*"))).status_code,
            (await http.delete(path, headers=foreign)).status_code,
            (await http.delete(path, headers=own)).status_code,
        ]
        reserved = await http.post("/sockets/messages", json={"type": "file.created"}, headers=authorized("admin"))
    assert statuses == [200, 200, 403, 401, 200, 403, 403, 200, 403, 200, 403, 403, 204]
    assert reserved.status_code == 400
    assert await alice.wait_for_close_code() == 1008


FILE = {"folder": "team-a", "filename": "x.txt"}


async def test_events_about_files_reach_their_readers_only(
    replica: ServiceProcess, redis_server: ServerProcess
) -> None:
    reader = await connect(replica, "listen read:team-a")
    below = await connect(replica, "listen read:team-a/*", "bob")
    stranger = await connect(replica, "listen read:team-b", "carol")
    everything = await connect(replica, "listen read", "dave")
    async with publishing(redis_server.url) as publisher:
        await publisher.broadcast("file.created", FILE)
        await publisher.broadcast("file.deleted", {"filename": "without a folder"})
        await publisher.broadcast("file.created", {**FILE, "folder": "team-b"})
        await publisher.broadcast("note", {"folder": "team-a"})

    async def received(client: WebSocketClient) -> list[str]:
        while (event := await client.receive_event())["type"] != "note":
            pass
        assert event
        return [f"{one['type']} {one['data'].get('folder', '')}".strip() for one in client.events][:-1]

    assert await received(reader) == ["file.created team-a"]
    assert await received(below) == ["file.created team-a"]
    assert await received(stranger) == ["file.created team-b"]
    assert await received(everything) == ["file.created team-a", "file.deleted", "file.created team-b"]
    for client in (reader, below, stranger, everything):
        client.abort()


async def test_a_resume_replays_what_may_be_read_and_shows_no_gap(
    replica: ServiceProcess, redis_server: ServerProcess
) -> None:
    client = await connect(replica, "listen read:team-b")
    async with publishing(redis_server.url) as publisher:
        await publisher.broadcast("note", {})
        await client.receive_event("note")
        client.abort()
        await publisher.broadcast("file.created", FILE)
        await publisher.broadcast("file.created", {**FILE, "folder": "team-b"})
        await publisher.broadcast("end", {})
    again = await client.reconnect(replica, headers=authorized("listen read:team-b"))
    assert again.first_frame["recovered"] is True
    await again.receive_event("end")
    assert [(event["type"], event["data"].get("folder")) for event in again.events] == [
        ("file.created", "team-b"),
        ("end", None),
    ]
    again.abort()


async def test_a_session_is_resumed_by_its_subject_only(replica: ServiceProcess) -> None:
    client = await connect(replica, topics="room/1")
    client.abort()
    stolen = await client.reconnect(replica, headers=authorized("listen", "bob"))
    assert stolen.sid != client.sid
    assert stolen.first_frame["recovered"] is False
    own = await client.reconnect(replica, headers=authorized("listen"))
    assert own.sid == client.sid
    for one in (stolen, own):
        one.abort()


async def test_a_resume_with_fewer_rights_leaves_topics(replica: ServiceProcess, redis_server: ServerProcess) -> None:
    client = await connect(replica, topics="room/1,hall/1")
    client.abort()
    again = await client.reconnect(replica, headers=authorized("listen:hall/*"))
    async with httpx.AsyncClient(base_url=replica.url) as http:
        found = (await http.get(f"/sockets/{again.sid}", headers=authorized("listen"))).json()
    assert found["topics"] == ["@user/alice", "hall/1"]
    async with publishing(redis_server.url) as publisher:
        await publisher.publish("room/1", "hidden", {})
        await publisher.publish("hall/1", "seen", {})
    assert (await again.receive_event())["type"] == "seen"
    again.abort()


async def test_a_token_is_renewed(replica: ServiceProcess, redis_server: ServerProcess) -> None:
    end = int(time.time()) + 30
    client = await WebSocketClient.connect(
        replica, headers=bearer(token("alice", "listen read:team-a", exp=end)), topics="room/1,hall/1"
    )
    warning = await client.receive_event("socket.expiring")
    assert warning["data"]["expires"].startswith(time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(end)))
    bad = await client.send_command({"type": "token", "token": token("alice", "listen", aud="other")})
    assert bad["type"] == "error"
    later = end + 600
    renewed = token("alice", "listen:hall/* read:team-b", exp=later)
    assert await client.send_command({"type": "token", "token": renewed}) == {"type": "unsubscribed", "topic": "room/1"}
    assert await client.receive_frame() == {"type": "token", "expires": later}
    async with publishing(redis_server.url) as publisher:
        await publisher.broadcast("file.created", FILE)
        await publisher.broadcast("file.created", {**FILE, "folder": "team-b"})
    assert (await client.receive_event())["data"]["folder"] == "team-b"
    await client.send({"type": "token", "token": token("bob", "listen")})
    assert await client.wait_for_close_code() == 1008
    assert client.connection.close_reason == "token of another subject"


async def test_a_connection_ends_with_its_token(replica: ServiceProcess) -> None:
    end = int(time.time()) - 6
    client = await WebSocketClient.connect(replica, headers=bearer(token("alice", "listen", exp=end)))
    assert await client.wait_for_close_code() == 1008
    assert client.connection.close_reason == "token expired"
    assert 10 <= time.time() - end <= 13
    assert [event["type"] for event in client.events] == ["socket.expiring"]


@pytest.mark.parametrize(
    "command", [{"type": "token"}, {"type": "token", "token": 7}, {"type": "token", "token": "\u00e9"}]
)
async def test_malformed_renewals(replica: ServiceProcess, command: dict[str, Any]) -> None:
    client = await connect(replica)
    assert (await client.send_command(command))["type"] == "error"
    client.abort()


async def test_the_topic_of_a_subject_comes_on_top_of_the_limit(replica: ServiceProcess) -> None:
    client = await connect(replica, topics=",".join(f"t{number}" for number in range(100)))
    reply = await client.subscribe("one-more")
    assert "too many topics" in reply["detail"]
    client.abort()
    assert (
        await refusal(replica, headers=authorized("listen"), topics=",".join(f"t{number}" for number in range(101)))
        == 400
    )


def test_the_connections_of_a_subject_are_limited(tmp_path: Path, redis_server: ServerProcess) -> None:
    async def check(process: ServiceProcess) -> None:
        held = [await connect(process) for _ in range(2)]
        assert await refusal(process, headers=authorized("listen")) == 429
        assert await refusal(process, headers=authorized("listen", "bob")) == 101
        await held.pop().close()
        await eventually_async(lambda: is_accepted(process), 5)
        held.pop().abort()

    env = {**AUTH_ENV, "GRIDCAST_REDIS_URL": redis_server.url, "GRIDCAST_MAX_CONNECTIONS_PER_SUBJECT": "2"}
    with run_service("services.socket", tmp_path, env) as process:
        asyncio.run(check(process))


def test_open_mode_needs_no_token(tmp_path: Path, redis_server: ServerProcess) -> None:
    async def check(process: ServiceProcess) -> None:
        client = await WebSocketClient.connect(process, topics="@user/bob")
        assert "authentication is off" in (await client.send_command({"type": "token", "token": "x"}))["detail"]
        client.abort()

    with run_service("services.socket", tmp_path, {"GRIDCAST_REDIS_URL": redis_server.url}) as process:
        asyncio.run(check(process))
