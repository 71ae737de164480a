"""The client of the `websockets` library with its defaults, through the gateway: the tutorial's ping, liveness, topics, and its
endless `async for` over connections while replicas are stopped and started.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as connect_in_sync

from gridcast.publish import Publisher
from tests.support.socket_replica_pair import SocketReplicaPair, run_socket_replica_pair

TIMEOUT = 10.0


@pytest.fixture(scope="module")
def replica_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SocketReplicaPair]:
    with run_socket_replica_pair(tmp_path_factory.mktemp("pair")) as started:
        yield started


def test_ping_without_an_event_loop(replica_pair: SocketReplicaPair) -> None:
    with connect_in_sync(replica_pair.websocket_url) as connection:
        assert set(json.loads(connection.recv(TIMEOUT))) == {"sid", "resume", "sequence", "recovered"}
        for said in ('"ping"', "ping", b"\x00"):
            connection.send(said)
            assert json.loads(connection.recv(TIMEOUT)) == {"pong": True}
        assert connection.ping(b"are you there").wait(TIMEOUT)
    assert connection.close_code == 1000


@pytest.mark.anyio
async def test_defaults_topics_and_liveness(replica_pair: SocketReplicaPair) -> None:
    """It offers compression, which is declined, and the subprotocol, which is accepted."""
    address = f"{replica_pair.websocket_url}?{urlencode({'topics': 'sport', 'meta': json.dumps({'name': 'Ada'})})}"
    async with connect(address, subprotocols=["cloudevents.json"]) as connection:  # type: ignore[list-item]
        await _receive_json(connection)
        assert connection.subprotocol == "cloudevents.json"
        assert connection.response is not None
        assert "sec-websocket-extensions" not in connection.response.headers
        assert await asyncio.wait_for(await connection.ping(), TIMEOUT) < TIMEOUT
        await connection.send(json.dumps({"type": "subscribe", "topic": "weather"}))
        assert (await _receive_json(connection))["type"] == "subscribed"
        async with Publisher.from_url(replica_pair.redis_url, "/news") as push:
            for topic in ("sport", "chess", "weather"):
                await push.publish(topic, "news.said", {"of": topic})
        said = [await _receive_json(connection) for _ in range(2)]
        assert [(event["topic"], event["data"]) for event in said] == [
            ("sport", {"of": "sport"}),
            ("weather", {"of": "weather"}),
        ]


@pytest.mark.anyio
async def test_reconnecting_iterator_opens_a_new_session_each_time(replica_pair: SocketReplicaPair) -> None:
    """It reconnects after 1012 and after a kill. Its URL stays the same, so each connection is a new session."""
    seen: list[tuple[str, int | None]] = []
    async with asyncio.timeout(4 * TIMEOUT):
        async for connection in connect(replica_pair.websocket_url):
            sid = (await _receive_json(connection))["sid"]
            if len(seen) == 2:
                await connection.close()
                break
            place = len(seen) % 2
            replica_pair.start(1 - place)
            if seen:
                replica_pair.kill(place)
            else:
                replica_pair.terminate(place)
            try:
                await _receive_json(connection)
            except ConnectionClosed as closed:
                seen.append((sid, closed.rcvd.code if closed.rcvd else None))
    assert [code for _, code in seen] == [1012, None]
    assert len({sid for sid, _ in seen} | {sid}) == 3


async def _receive_json(connection: ClientConnection) -> Any:
    async with asyncio.timeout(TIMEOUT):
        return json.loads(await connection.recv())
