"""Time-coded messages over HTTP: pushed at the live service, heard on the topic, read at the stream service."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gridcast._bus.keys import topic_channel
from gridcast._bus.wakeup import Wakeup
from services.common.bus.redis import RedisClient
from services.common.bus.subscription import Subscription
from services.common.store.live_messages import MAX_MESSAGE_DATA_BYTES
from tests.support.databases import ServerProcess
from tests.support.fragmented_mp4 import fragment, init
from tests.support.live_client import LiveClient, make_stream
from tests.support.processes import ServiceProcess
from tests.support.waiting import eventually_async

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def live_settings() -> dict[str, str]:
    return {"GRIDCAST_LIVE_MAX_MESSAGES": "5"}


@pytest.fixture
def begun(live: ServiceProcess) -> LiveClient:
    """A stream of three segments of two seconds."""
    client = make_stream(live)
    assert client.begin().status_code == 201
    sent = init() + b"".join(fragment(2.0 * number, 2) for number in range(4))
    assert client.patch(0, sent).status_code == 204
    return client


@pytest.fixture
async def heard(begun: LiveClient, redis_server: ServerProcess) -> AsyncIterator[list[dict[str, Any]]]:
    """The messages that were published on the topic of the stream."""
    events: list[dict[str, Any]] = []

    def hear(_channel: bytes, payload: bytes) -> None:
        event = json.loads(Wakeup.parse(payload).event)
        if event["type"] == "live.message":
            events.append(event)

    redis = RedisClient.from_url(redis_server.url)
    subscription = Subscription(redis, [topic_channel(f"live/{begun.id}")], hear, name="test")
    subscription.start()
    await eventually_async(lambda: subscription.subscribed)
    yield events
    await subscription.aclose()
    await redis.aclose()


def push(client: LiveClient, **message: Any) -> httpx.Response:
    content = {"type": "chat.said", **message}
    return httpx.post(f"{client.url}/live/{client.id}/messages", json=content, timeout=30)


def read(library: ServiceProcess, client: LiveClient, **query: Any) -> httpx.Response:
    return httpx.get(f"{library.url}/live/{client.id}/messages", params=query, timeout=30)


async def test_a_message_is_heard_and_found_where_it_happened(
    begun: LiveClient, library: ServiceProcess, heard: list[dict[str, Any]]
) -> None:
    data = {"text": "Hej \u00e5 \U0001f600", "n": [1, None, 2.5]}
    now = push(begun, data=data, id="now")
    assert now.status_code == 201, now.text
    assert now.json().items() >= {"message": "now", "type": "chat.said", "epoch": 0, "duplicate": False}.items()
    assert 6 <= now.json()["time"] <= 10.1, "what is captured now: at the end of what has come"
    seen = push(begun, data="seen", at=3.25).json()
    assert (seen["time"], len(seen["message"])) == (3.25, 32)
    await eventually_async(lambda: len(heard) == 2)
    described = {name: value for name, value in now.json().items() if name != "duplicate"}
    assert heard[0]["data"] == {"id": begun.id, **described, "data": data}
    assert (heard[0]["id"], heard[0]["source"], heard[0]["topic"]) == ("now", "/live", f"live/{begun.id}")

    answer = read(library, begun)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"
    seen_there = {name: value for name, value in seen.items() if name != "duplicate"}
    expected = [{**seen_there, "data": "seen"}, {**described, "data": data}]
    assert answer.json() == {"messages": expected, "next": None}
    first = read(library, begun, limit=1).json()
    assert first["messages"] == expected[:1]
    assert read(library, begun, limit=1, after=first["next"]).json()["messages"] == expected[1:]
    assert read(library, begun, **{"from": "3.25", "to": "3.251"}).json()["messages"] == expected[:1]

    again = push(begun, data="another", id="now")
    assert (again.status_code, again.json()) == (200, {**now.json(), "duplicate": True})
    begun.end()
    await eventually_async(lambda: read(library, begun).headers["cache-control"] == "public, max-age=60")
    assert read(library, begun).json()["messages"] == expected, "a replay shows them"
    assert push(begun).status_code == 410


def test_what_is_refused(begun: LiveClient, live: ServiceProcess, library: ServiceProcess) -> None:
    early = make_stream(live)
    assert push(early).status_code == 409
    assert httpx.post(f"{live.url}/live/{'0' * 32}/messages", json={"type": "a"}).status_code == 404
    for message in (
        {"type": "file.x"},
        {"type": "live.ended"},
        {"type": "a b"},
        {"id": "a b"},
        {"at": -1},
        {"more": 1},
    ):
        answer = push(begun, **message)
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json"), message
    deep = "[" * 499 + "]" * 499
    headers = {"content-type": "application/json"}
    content = f'{{"type":"a","data":{deep}}}'
    assert httpx.post(f"{live.url}/live/{begun.id}/messages", content=content, headers=headers).status_code == 400
    assert push(begun, data="x" * (MAX_MESSAGE_DATA_BYTES - 1)).status_code == 413
    assert read(library, begun).json() == {"messages": [], "next": None}, "nothing of that is kept"
    assert push(begun, data="x" * (MAX_MESSAGE_DATA_BYTES - 2)).status_code == 201
    assert [push(begun).status_code for _ in range(5)] == [201] * 4 + [429]
    assert len(read(library, begun).json()["messages"]) == 5


@pytest.mark.parametrize("query", ["from=-1", "to=x", "from=1&from=2", "after=1", "limit=0", "limit=201", "from=1e3"])
def test_a_query_that_cannot_be_read(begun: LiveClient, library: ServiceProcess, query: str) -> None:
    assert httpx.get(f"{library.url}/live/{begun.id}/messages?{query}").status_code == 400


def test_other_methods_and_streams(begun: LiveClient, live: ServiceProcess, library: ServiceProcess) -> None:
    head = httpx.head(f"{library.url}/live/{begun.id}/messages")
    assert (head.status_code, head.content) == (200, b"")
    assert httpx.get(f"{library.url}/live/{'0' * 32}/messages").status_code == 404
    assert httpx.post(f"{library.url}/live/{begun.id}/messages", json={}).status_code == 405
    assert httpx.get(f"{live.url}/live/{begun.id}/messages").status_code == 405
