"""Two replicas on one Redis: pushes from either to sockets on both, receipts, acks, and the HTTP side's refusals."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from services.common.bus.publisher import Publisher
from tests.support.websocket_client import Client, Replicas, http, push, replicas, soon

pytestmark = pytest.mark.anyio
HELLO = {"type": "chat.said", "data": {"text": "hello"}}
NOBODY = "A" * 51 + "Q"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    with replicas(tmp_path_factory.mktemp("sockets")) as pair:
        yield pair


@pytest.mark.parametrize("path", ["/", "/ws"])
async def test_the_first_frame_and_the_pong(two: Replicas, path: str) -> None:
    client = await Client.open(two[0], path)
    assert set(client.first) == {"sid", "resume", "sequence", "recovered"}
    assert len(client.sid) == 52
    assert client.resume.startswith(f"{client.sid}.")
    assert client.first["recovered"] is False
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
        await client.say(said)
        assert await client.frame() == {"pong": True}
    await client.connection.send(b"\x00\xff")
    assert await client.frame() == {"pong": True}
    await client.close()


async def test_one_all_and_a_topic_from_any_replica(two: Replicas) -> None:
    clients = [await Client.open(service) for service in (two[0], two[1], two[0], two[1])]
    for service in two.services:
        for client in clients:
            answer = await push(service, client.sid, HELLO)
            assert (answer.status_code, answer.json()["status"]) == (200, "sent")
            event = await client.event()
            assert event["data"] == {"text": "hello"}
            assert event["id"] == answer.json()["id"]
            assert event["sequence"] == answer.json()["sequence"]
            assert (event["source"], event["type"], event["specversion"]) == ("/socket", "chat.said", "1.0")
        await push(service, "all", {"type": "to.all", "data": 1})
        assert [(await client.event())["type"] for client in clients] == ["to.all"] * 4
        for client in clients[:3]:
            answer = await client.subscribe("news:1")
            assert (answer["type"], answer["topic"]) == ("subscribed", "news:1")
        await push(service, "topic:news:1", {"type": "to.topic", "data": 2})
        for client in clients[:3]:
            assert (await client.event())["topic"] == "news:1"
        for client in clients[:3]:
            assert await client.ask({"type": "unsubscribe", "topic": "news:1"}) == {
                "type": "unsubscribed",
                "topic": "news:1",
            }
        await push(service, "topic:news:1", {"type": "to.topic", "data": 3})
    for client in clients:
        await client.nothing()
        await client.close()


async def test_topics_in_the_address(two: Replicas) -> None:
    client = await Client.open(two[0], topics="a,b/c")
    for topic in ("a", "b/c", "d"):
        await push(two[1], f"topic:{topic}", {"type": "t", "data": topic})
    assert [(await client.event())["data"] for _ in range(2)] == ["a", "b/c"]
    await client.nothing()
    await client.close()


async def test_a_separate_process_pushes_with_a_few_lines(two: Replicas) -> None:
    one, other = await Client.open(two[0]), await Client.open(two[1])
    async with Publisher.from_url(two.redis.url, "/billing") as billing:
        assert (await billing.send(one.sid, "invoice.paid", {"n": 1})).status == "sent"
        await billing.broadcast("shop.open", None)
    assert [(await one.event())["type"] for _ in range(2)] == ["invoice.paid", "shop.open"]
    assert (await other.event())["source"] == "/billing"
    await one.close()
    await other.close()


@pytest.mark.parametrize(
    "meta",
    ['{"name":"Ann","a":[1,2.5,null,true]}', '"\\ud83d\\ude00 \\u0000"', "[" * 32 + "]" * 32, "1" * 900, '{"":{}}'],
)
async def test_what_a_client_says_of_itself_is_seen_by_others(two: Replicas, meta: str) -> None:
    client = await Client.open(two[0], meta=meta)
    async with http(two[1]) as asking:
        assert (await asking.get(f"/sockets/{client.sid}")).json()["meta"] == json.loads(meta)
        seen = (await asking.get("/sockets?limit=1000")).json()["sockets"]
    assert next(one["meta"] for one in seen if one["sid"] == client.sid) == json.loads(meta)
    await client.close()


async def test_the_same_id_is_pushed_once(two: Replicas) -> None:
    client = await Client.open(two[0])
    first = await push(two[0], client.sid, {**HELLO, "id": "order-1"})
    again = await push(two[1], client.sid, {**HELLO, "id": "order-1"})
    assert (first.json()["duplicate"], again.json()["duplicate"]) == (False, True)
    assert first.json()["sequence"] == again.json()["sequence"]
    assert (await client.event())["id"] == "order-1"
    await client.nothing()
    other = await Client.open(two[0])
    assert (await push(two[1], other.sid, {**HELLO, "id": "order-1"})).json()["duplicate"] is False
    await client.close()
    await other.close()


async def test_delivered_with_the_clients_ack(two: Replicas) -> None:
    for service in two.services:
        client = await Client.open(two[0])
        sending = asyncio.create_task(push(service, client.sid, HELLO, wait=5))
        event = await client.event()
        assert not sending.done()
        await client.say({"type": "ack", "id": event["id"]})
        answer = await sending
        assert answer.json()["status"] == "delivered"
        await client.close()


async def test_who_asks_again_waits_on_when_the_first_has_given_up(two: Replicas) -> None:
    client = await Client.open(two[0])
    said = {**HELLO, "id": "impatient"}
    first = asyncio.create_task(push(two[1], client.sid, said, wait=1))
    event = await client.event()
    second = asyncio.create_task(push(two[1], client.sid, said, wait=10))
    assert (await first).json()["status"] == "sent"
    await client.say({"type": "ack", "id": event["id"]})
    answer = (await second).json()
    assert (answer["status"], answer["duplicate"]) == ("delivered", True)
    await client.nothing()
    await client.close()


async def test_no_ack_is_no_delivery(two: Replicas) -> None:
    client = await Client.open(two[0])
    sending = asyncio.create_task(push(two[1], client.sid, HELLO, wait=0.3))
    await client.say({"type": "ack", "id": "of-something-else"})
    assert (await sending).json()["status"] == "sent"
    assert (await push(two[1], client.sid, HELLO)).json()["status"] == "sent"
    await client.close()


async def test_an_ack_after_a_return_to_another_replica(two: Replicas) -> None:
    client = await Client.open(two[0])
    client.cut()
    await soon(lambda: away(two, client.sid))
    sending = asyncio.create_task(push(two[0], client.sid, HELLO, wait=8))
    back = await client.again(two[1])
    event = await back.event()
    await back.say({"type": "ack", "id": event["id"]})
    assert (await sending).json()["status"] == "delivered"
    await back.close()


async def away(two: Replicas, sid: str) -> bool:
    async with http(two[0]) as client:
        return bool((await client.get(f"/sockets/{sid}")).json()["state"] == "away")


async def test_queued_while_away(two: Replicas) -> None:
    client = await Client.open(two[0])
    await client.close()
    await soon(lambda: away(two, client.sid))
    assert (await push(two[1], client.sid, HELLO)).json()["status"] == "queued"
    async with Publisher.from_url(two.redis.url, "/x") as other:
        assert (await other.send(client.sid, "a", 1, conflation_key=True)).status == "dropped"
        assert (await other.send(client.sid, "a", 1)).status == "queued"


@pytest.mark.parametrize("sid", [NOBODY, "x", "a" * 52, "..%2f", "%00", "sid:*"])
async def test_unknown_sids(two: Replicas, sid: str) -> None:
    answer = await push(two[0], sid, HELLO)
    assert answer.status_code == 404
    async with http(two[0]) as client:
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
async def test_pushes_that_are_refused(two: Replicas, said: dict[str, Any], query: dict[str, str], status: int) -> None:
    async with http(two[0]) as client:
        answer = await client.post("/sockets/messages", json=said, params=query)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_body_past_all_limits(two: Replicas) -> None:
    assert (await push(two[0], "all", {"type": "a", "data": "x" * 300_000})).status_code == 413


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"1", b'{"type":"a","data":"\\ud800"}', b"[" * 100_000])
async def test_bodies_that_are_no_message(two: Replicas, body: bytes) -> None:
    async with http(two[0]) as client:
        answer = await client.post("/sockets/messages", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400, answer.text


async def test_waits_have_a_limit(two: Replicas) -> None:
    for wait in ("-1", "31", "nan", "inf", "x"):
        assert (await push(two[0], NOBODY, HELLO, wait=wait)).status_code == 400


async def test_what_is_no_event_never_reaches_a_client(two: Replicas) -> None:
    """RxJS fails on a frame that is not JSON, whoever put it into Redis."""
    client = await Client.open(two[0])
    async with Publisher.from_url(two.redis.url, "/x") as other:
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
    assert (await client.event())["type"] == "well"
    assert "unhandled exception in a subscription callback" not in two[0].log
    await client.nothing()
    await client.close()


async def test_commands_that_are_refused(two: Replicas) -> None:
    client = await Client.open(two[0])
    for said in (
        {"type": "publish", "topic": "a"},
        {"type": "subscribe"},
        {"type": "subscribe", "topic": "*"},
        {"type": "subscribe", "topic": "x" * 30_000},
        {"type": "ack"},
    ):
        answer = await client.ask(said)
        assert answer["type"] == "error"
        assert answer["detail"]
    await client.nothing()
    await client.close()


async def test_the_subprotocol_is_named_only_where_it_was_offered(two: Replicas) -> None:
    from websockets.asyncio.client import connect  # noqa: PLC0415

    url = f"ws://127.0.0.1:{two[0].port}/"
    async with connect(url, proxy=None, subprotocols=["other", "cloudevents.json"]) as connection:  # type: ignore[list-item]
        assert connection.subprotocol == "cloudevents.json"
    async with connect(url, proxy=None) as connection:
        assert connection.subprotocol is None


async def test_the_document_of_the_http_side(two: Replicas) -> None:
    async with http(two[0]) as client:
        document = (await client.get("/openapi.json")).json()
    assert set(document["paths"]) >= {"/sockets", "/sockets/{sid}", "/sockets/messages", "/sockets/{sid}/messages"}


async def test_no_secret_in_the_log(two: Replicas) -> None:
    client = await Client.open(two[0])
    secret = client.resume.partition(".")[2]
    await client.close()
    back = await client.again(two[0])
    await back.close()
    assert client.sid in two[0].log
    for service in two.services:
        assert secret not in service.log
        assert "resume=" not in service.log
        assert "Traceback" not in service.log, service.log[service.log.index("Traceback") - 600 :][:3000]
