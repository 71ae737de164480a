"""Two replicas on one Redis: pushes from either to sockets on both, delivery results, acks, and rejected requests."""

import asyncio
import gzip
import json
from typing import Any

import pytest

from services.common.bus.publisher import EventPublisher
from tests.support.waiting import eventually_async
from tests.support.websocket_client import (
    SocketReplicas,
    WebSocketClient,
    http_client,
    push_message,
)

pytestmark = pytest.mark.anyio
EVENT = {"type": "chat.said", "data": {"text": "hello"}}
UNKNOWN_SID = "A" * 51 + "Q"


@pytest.mark.parametrize("path", ["/", "/ws"])
async def test_the_first_frame_and_the_pong(two_replicas: SocketReplicas, path: str) -> None:
    client = await WebSocketClient.connect(two_replicas[0], path)
    assert set(client.first_frame) == {"sid", "resume", "sequence", "recovered"}
    assert len(client.sid) == 52
    assert client.resume_secret.startswith(f"{client.sid}.")
    assert client.first_frame["recovered"] is False
    for said in (
        '"ping"',
        "ping",
        "{}",
        "",
        json.dumps({"type": "ping"}),
        json.dumps({"message": "x"}),
        "{",
        "[" * 10_000,
    ):
        await client.send(said)
        assert await client.receive_frame() == {"pong": True}
    await client.connection.send(b"\x00\xff")
    assert await client.receive_frame() == {"pong": True}
    await client.close()


async def test_one_all_and_a_topic_from_any_replica(two_replicas: SocketReplicas) -> None:
    clients = [
        await WebSocketClient.connect(service)
        for service in (two_replicas[0], two_replicas[1], two_replicas[0], two_replicas[1])
    ]
    for service in two_replicas.services:
        for client in clients:
            answer = await push_message(service, client.sid, EVENT)
            assert (answer.status_code, answer.json()["status"]) == (200, "sent")
            event = await client.receive_event()
            assert event["data"] == {"text": "hello"}
            assert event["id"] == answer.json()["id"]
            assert event["sequence"] == answer.json()["sequence"]
            assert (event["source"], event["type"], event["specversion"]) == ("/socket", "chat.said", "1.0")
        await push_message(service, "all", {"type": "to.all", "data": 1})
        assert [(await client.receive_event())["type"] for client in clients] == ["to.all"] * 4
        for client in clients[:3]:
            confirmed = await client.subscribe("news:1")
            assert (confirmed["type"], confirmed["topic"]) == ("subscribed", "news:1")
        await push_message(service, "topic:news:1", {"type": "to.topic", "data": 2})
        for client in clients[:3]:
            assert (await client.receive_event())["topic"] == "news:1"
        for client in clients[:3]:
            assert await client.send_command({"type": "unsubscribe", "topic": "news:1"}) == {
                "type": "unsubscribed",
                "topic": "news:1",
            }
        await push_message(service, "topic:news:1", {"type": "to.topic", "data": 3})
    for client in clients:
        await client.assert_nothing_pending()
        await client.close()


async def test_a_push_with_a_content_coding_is_refused(two_replicas: SocketReplicas) -> None:
    """Judged before the body is parsed; a gzip body is no JSON, which would be 400."""
    packed = gzip.compress(json.dumps(EVENT).encode())
    async with http_client(two_replicas[0]) as http:
        for path in ("/sockets/messages", f"/sockets/{UNKNOWN_SID}/messages"):
            for content, coding in ((packed, "gzip"), (json.dumps(EVENT).encode(), "br")):
                fields = {"content-type": "application/json", "content-encoding": coding}
                refused = await http.post(path, content=content, headers=fields)
                assert (refused.status_code, refused.headers["accept-encoding"]) == (415, "identity")
        fields["content-encoding"] = "identity"
        accepted = await http.post("/sockets/messages", content=json.dumps(EVENT), headers=fields)
        assert accepted.status_code == 200


async def test_topics_in_the_query(two_replicas: SocketReplicas) -> None:
    client = await WebSocketClient.connect(two_replicas[0], topics="a,b/c")
    for topic in ("a", "b/c", "d"):
        await push_message(two_replicas[1], f"topic:{topic}", {"type": "t", "data": topic})
    assert [(await client.receive_event())["data"] for _ in range(2)] == ["a", "b/c"]
    await client.assert_nothing_pending()
    await client.close()


async def test_a_separate_process_pushes_with_a_few_lines(two_replicas: SocketReplicas) -> None:
    one, other = await WebSocketClient.connect(two_replicas[0]), await WebSocketClient.connect(two_replicas[1])
    async with EventPublisher.from_url(two_replicas.redis.url, "/billing") as billing:
        assert (await billing.send(one.sid, "invoice.paid", {"n": 1})).status == "sent"
        await billing.broadcast("shop.open", None)
    assert [(await one.receive_event())["type"] for _ in range(2)] == ["invoice.paid", "shop.open"]
    assert (await other.receive_event())["source"] == "/billing"
    await one.close()
    await other.close()


@pytest.mark.parametrize(
    "meta",
    ['{"name":"Ann","a":[1,2.5,null,true]}', '"\\ud83d\\ude00 \\u0000"', "[" * 32 + "]" * 32, "1" * 900, '{"":{}}'],
)
async def test_client_metadata_is_visible_to_others(two_replicas: SocketReplicas, meta: str) -> None:
    client = await WebSocketClient.connect(two_replicas[0], meta=meta)
    async with http_client(two_replicas[1]) as asking:
        assert (await asking.get(f"/sockets/{client.sid}")).json()["meta"] == json.loads(meta)
        seen = (await asking.get("/sockets?limit=1000")).json()["sockets"]
    assert next(one["meta"] for one in seen if one["sid"] == client.sid) == json.loads(meta)
    await client.close()


async def test_the_same_id_is_pushed_once(two_replicas: SocketReplicas) -> None:
    client = await WebSocketClient.connect(two_replicas[0])
    first = await push_message(two_replicas[0], client.sid, {**EVENT, "id": "order-1"})
    again = await push_message(two_replicas[1], client.sid, {**EVENT, "id": "order-1"})
    assert (first.json()["duplicate"], again.json()["duplicate"]) == (False, True)
    assert first.json()["sequence"] == again.json()["sequence"]
    assert (await client.receive_event())["id"] == "order-1"
    await client.assert_nothing_pending()
    other = await WebSocketClient.connect(two_replicas[0])
    assert (await push_message(two_replicas[1], other.sid, {**EVENT, "id": "order-1"})).json()["duplicate"] is False
    await client.close()
    await other.close()


async def test_push_is_delivered_when_the_client_acks(two_replicas: SocketReplicas) -> None:
    for service in two_replicas.services:
        client = await WebSocketClient.connect(two_replicas[0])
        sending = asyncio.create_task(push_message(service, client.sid, EVENT, wait=5))
        event = await client.receive_event()
        assert not sending.done()
        await client.send({"type": "ack", "id": event["id"]})
        answer = await sending
        assert answer.json()["status"] == "delivered"
        await client.close()


async def test_repeated_push_keeps_waiting_after_the_first_caller_disconnects(two_replicas: SocketReplicas) -> None:
    client = await WebSocketClient.connect(two_replicas[0])
    said = {**EVENT, "id": "impatient"}
    first = asyncio.create_task(push_message(two_replicas[1], client.sid, said, wait=1))
    event = await client.receive_event()
    second = asyncio.create_task(push_message(two_replicas[1], client.sid, said, wait=10))
    assert (await first).json()["status"] == "sent"
    await client.send({"type": "ack", "id": event["id"]})
    answer = (await second).json()
    assert (answer["status"], answer["duplicate"]) == ("delivered", True)
    await client.assert_nothing_pending()
    await client.close()


async def test_push_without_an_ack_is_not_delivered(two_replicas: SocketReplicas) -> None:
    client = await WebSocketClient.connect(two_replicas[0])
    sending = asyncio.create_task(push_message(two_replicas[1], client.sid, EVENT, wait=0.3))
    await client.send({"type": "ack", "id": "of-something-else"})
    assert (await sending).json()["status"] == "sent"
    assert (await push_message(two_replicas[1], client.sid, EVENT)).json()["status"] == "sent"
    await client.close()


async def test_ack_after_a_resume_on_another_replica(two_replicas: SocketReplicas) -> None:
    client = await WebSocketClient.connect(two_replicas[0])
    client.abort()
    await eventually_async(lambda: is_offline(two_replicas, client.sid))
    sending = asyncio.create_task(push_message(two_replicas[0], client.sid, EVENT, wait=8))
    back = await client.reconnect(two_replicas[1])
    event = await back.receive_event()
    await back.send({"type": "ack", "id": event["id"]})
    assert (await sending).json()["status"] == "delivered"
    await back.close()


async def is_offline(two: SocketReplicas, sid: str) -> bool:
    async with http_client(two[0]) as client:
        return bool((await client.get(f"/sockets/{sid}")).json()["state"] == "away")


async def test_push_to_an_offline_client_is_queued(two_replicas: SocketReplicas) -> None:
    client = await WebSocketClient.connect(two_replicas[0])
    await client.close()
    await eventually_async(lambda: is_offline(two_replicas, client.sid))
    assert (await push_message(two_replicas[1], client.sid, EVENT)).json()["status"] == "queued"
    async with EventPublisher.from_url(two_replicas.redis.url, "/x") as other:
        assert (await other.send(client.sid, "a", 1, conflation_key=True)).status == "dropped"
        assert (await other.send(client.sid, "a", 1)).status == "queued"


@pytest.mark.parametrize("sid", [UNKNOWN_SID, "x", "a" * 52, "..%2f", "%00", "sid:*"])
async def test_unknown_sids_are_reported(two_replicas: SocketReplicas, sid: str) -> None:
    answer = await push_message(two_replicas[0], sid, EVENT)
    assert answer.status_code == 404
    async with http_client(two_replicas[0]) as client:
        assert (await client.get(f"/sockets/{sid}")).status_code == 404
        assert (await client.delete(f"/sockets/{sid}")).status_code == 404


@pytest.mark.parametrize(
    ("said", "query", "status"),
    [
        ({}, {}, 400),
        ({"type": ""}, {}, 400),
        ({"type": "a b"}, {}, 400),
        ({"type": 1}, {}, 400),
        ({"type": "a", "more": 1}, {}, 400),
        ({"type": "file.created"}, {}, 400),
        ({"type": "socket.resync"}, {}, 400),
        ({"type": "a", "id": ""}, {}, 400),
        ({"type": "a", "id": "a b"}, {}, 400),
        ({"type": "a", "id": "x" * 129}, {}, 400),
        ({"type": "a"}, {"topic": "a b"}, 400),
        ({"type": "a"}, {"topic": "*"}, 400),
        ({"type": "a"}, {"topic": ""}, 400),
        ({"type": "a", "data": "x" * 65536}, {}, 413),
    ],
)
async def test_invalid_pushes_are_rejected(
    two_replicas: SocketReplicas, said: dict[str, Any], query: dict[str, str], status: int
) -> None:
    async with http_client(two_replicas[0]) as client:
        answer = await client.post("/sockets/messages", json=said, params=query)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"


async def test_oversized_push_body_is_rejected(two_replicas: SocketReplicas) -> None:
    assert (await push_message(two_replicas[0], "all", {"type": "a", "data": "x" * 300_000})).status_code == 413


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"1", b'{"type":"a","data":"\\ud800"}', b"[" * 100_000])
async def test_invalid_push_bodies_are_rejected(two_replicas: SocketReplicas, body: bytes) -> None:
    async with http_client(two_replicas[0]) as client:
        answer = await client.post("/sockets/messages", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400, answer.text


async def test_waits_have_a_limit(two_replicas: SocketReplicas) -> None:
    for wait in ("-1", "31", "nan", "inf", "x"):
        assert (await push_message(two_replicas[0], UNKNOWN_SID, EVENT, wait=wait)).status_code == 400


async def test_invalid_event_never_reaches_a_client(two_replicas: SocketReplicas) -> None:
    """RxJS fails on a frame that is not JSON, whichever program wrote it into Redis."""
    client = await WebSocketClient.connect(two_replicas[0])
    async with EventPublisher.from_url(two_replicas.redis.url, "/x") as other:
        for payload in (
            "",
            "x",
            "{",
            "{}",
            "[]",
            '{"type":"close"}',
            '{"type":"ack","sid":[],"id":1}',
            '{"type":' + "[" * 100_000,
            "6f-1\tall\t\t\t\nnot json",
            "\t\t\t\t\n{}",
            b"\xff",
        ):
            await other.redis.execute("PUBLISH", "gridcast:all", payload)
        await other.broadcast("well", 1)
    assert (await client.receive_event())["type"] == "well"
    assert "unhandled exception in a subscription callback" not in two_replicas[0].log
    await client.assert_nothing_pending()
    await client.close()


async def test_invalid_commands_get_an_error(two_replicas: SocketReplicas) -> None:
    client = await WebSocketClient.connect(two_replicas[0])
    for said in (
        {"type": "publish", "topic": "a"},
        {"type": "subscribe"},
        {"type": "subscribe", "topic": "*"},
        {"type": "subscribe", "topic": "x" * 30_000},
        {"type": "ack"},
    ):
        answer = await client.send_command(said)
        assert answer["type"] == "error"
        assert answer["detail"]
    await client.assert_nothing_pending()
    await client.close()


async def test_the_subprotocol_is_named_only_where_it_was_offered(two_replicas: SocketReplicas) -> None:
    from websockets.asyncio.client import connect  # noqa: PLC0415

    url = f"ws://127.0.0.1:{two_replicas[0].port}/"
    async with connect(url, proxy=None, subprotocols=["other", "cloudevents.json"]) as connection:  # type: ignore[list-item]
        assert connection.subprotocol == "cloudevents.json"
    async with connect(url, proxy=None) as connection:
        assert connection.subprotocol is None


async def test_the_document_of_the_http_side(two_replicas: SocketReplicas) -> None:
    async with http_client(two_replicas[0]) as client:
        document = (await client.get("/openapi.json")).json()
    assert set(document["paths"]) >= {"/sockets", "/sockets/{sid}", "/sockets/messages", "/sockets/{sid}/messages"}


async def test_resume_secret_is_not_logged(two_replicas: SocketReplicas) -> None:
    client = await WebSocketClient.connect(two_replicas[0])
    secret = client.resume_secret.partition(".")[2]
    await client.close()
    back = await client.reconnect(two_replicas[0])
    await back.close()
    assert client.sid in two_replicas[0].log
    for service in two_replicas.services:
        assert secret not in service.log
        assert "resume=" not in service.log
        assert "Traceback" not in service.log, service.log[service.log.index("Traceback") - 600 :][:3000]
