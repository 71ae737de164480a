"""Events that reach Redis past the rules, through the push script itself: refused there, or a `socket.resync` in their place."""

import json
from typing import Any
from uuid import uuid4

import pytest

from gridcast._bus.keys import SEQUENCE_KEY
from gridcast._bus.wakeup import PUBLISH_EVENT
from services.common.bus.redis import RedisClient
from tests.support.websocket_client import SocketReplicas, WebSocketClient, push_message

pytestmark = pytest.mark.anyio


def encode(data: str = "1", **members: Any) -> bytes:
    """An event with these members and `data` as it is."""
    event = {"specversion": "1.0", "id": "1", "source": "/a", "type": "t", **members}
    return json.dumps(event)[:-1].encode() + b',"data":' + data.encode() + b"}"


async def run_push_script(replicas: SocketReplicas, event: bytes, **changes: str) -> tuple[str, str]:
    """Push with the script alone. Returns the status and the sequence, or the reason of `invalid`."""
    args = {"kind": "topic", "name": "a", "source": "/a", "id": str(uuid4()), "last": "", "reply": "", **changes}
    names = (args["kind"], args["name"], event, args["source"], args["id"], args["last"], args["reply"])
    client = RedisClient.from_url(replicas.redis.url)
    try:
        status, sequence, _ = await client.eval(PUBLISH_EVENT, (SEQUENCE_KEY,), names)
    finally:
        await client.aclose()
    return status.decode(), sequence.decode()


UNREADABLE = {
    "nested 2000 deep": encode("[" * 2000 + "]" * 2000),
    "not a number": encode("NaN"),
    "not JSON": b'{"specversion":"1.0"',
    "no CloudEvent": b'{"hello":"world"}',
    "not UTF-8": encode().replace(b"/a", b"\xff"),
    "own sequence": encode(sequence="6f-1"),
}


@pytest.mark.parametrize("event", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_unreadable_event_is_a_resync_in_its_place(two_replicas: SocketReplicas, event: bytes) -> None:
    """On an open connection, and in each replay: before it and behind it nothing is lost."""
    client = await WebSocketClient.connect(two_replicas[0], topics="a")
    start = client.last_sequence
    await push_message(two_replicas[1], "topic:a", {"type": "t", "data": "before"})
    status, sequence = await run_push_script(two_replicas, event)
    assert status == "sent"
    await push_message(two_replicas[1], "topic:a", {"type": "t", "data": "behind"})

    async def receive(connection: WebSocketClient) -> None:
        assert (await connection.receive_event())["data"] == "before"
        resync = await connection.receive_event()
        assert (resync["type"], resync["sequence"]) == ("socket.resync", sequence)
        assert (await connection.receive_event())["data"] == "behind"

    await receive(client)
    client.abort()
    client.last_sequence = start
    back = await client.reconnect(two_replicas[1])
    await receive(back)
    back.abort()
    last = await back.reconnect(two_replicas[0])
    assert last.first_frame["recovered"] is True, "it has been said, and is not said again"
    await last.assert_nothing_pending()
    await last.close()


@pytest.mark.parametrize(
    ("event", "changes"),
    [
        (encode(), {"kind": "room"}),
        (encode(), {"name": "a\tb"}),
        (encode(), {"last": "/a t\n"}),
        (encode(), {"reply": "gridcast:node:a\r"}),
        (encode(), {"id": "\x00"}),
        (b" " + encode(), {}),
        (b"", {}),
        (encode('"' + "x" * 65536 + '"'), {}),
    ],
)
async def test_broken_arguments_are_refused_by_the_script(
    two_replicas: SocketReplicas, event: bytes, changes: dict[str, str]
) -> None:
    client = await WebSocketClient.connect(two_replicas[0], topics="a")
    status, reason = await run_push_script(two_replicas, event, **changes)
    assert status == "invalid"
    assert reason
    assert (await run_push_script(two_replicas, encode()))[0] == "sent"
    assert (await client.receive_event())["data"] == 1
    await client.assert_nothing_pending()
    await client.close()
