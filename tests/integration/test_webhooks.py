"""Webhooks of one process over real stores: signed, in time, each once, and undisturbed by receivers that misbehave (case 56)."""

import asyncio
import hashlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from services.common.media import MediaName, Poster
from services.common.settings import StoreSettings
from services.common.store.delivery_store import ReplaySelection, WebhookDelivery
from services.common.store.factory import MediaStore, open_store
from services.common.store.preconditions import NO_PRECONDITIONS
from services.common.store.timings import StoreTimings
from services.common.store.upload_store import (
    NewUpload,
    OutboxEvent,
)
from services.common.uploads.event_data import describe_event
from services.common.webhooks import http_sender
from services.common.webhooks.endpoints import Endpoint
from services.common.webhooks.http_sender import HTTPSender, Resolve, SendError
from services.common.webhooks.signing import make_secret
from services.upload.webhooks import delivery_worker
from services.upload.webhooks.retry_schedule import MAX_TRIES, Decision, TryOutcome, decide
from services.upload.webhooks.webhooks import Webhooks
from tests.support.numeric_hosts import NUMERIC_HOSTS
from tests.support.opened_stores import with_stores
from tests.support.store_adapters import finished_upload
from tests.support.waiting import eventually_async
from tests.support.webhook_receiver import (
    Received,
    Receiver,
    Respond,
    answering,
    closing,
    endless_body,
    make_certificate,
    run_receiver,
    silent,
    slow_head,
)

pytestmark = pytest.mark.anyio
both_stores = with_stores(("gridfs-motor",), ("files-sqlite",))
only_files = with_stores(("files-sqlite",))
SECRET = make_secret()


@pytest.fixture
async def store(stores: list[StoreSettings]) -> AsyncIterator[MediaStore]:
    opened = open_store(stores[0], StoreTimings(outbox_retry_after=0), relays_events=True)
    try:
        await opened.uploads.ensure_schema()
        yield opened
    finally:
        await opened.aclose()


@pytest.fixture
def immediate_retries(monkeypatch: pytest.MonkeyPatch) -> list[Decision]:
    """What the schedule decided; the waits are left out, as if `next_at` had been moved."""
    decisions: list[Decision] = []

    def decide_now(answer: TryOutcome, failures: int, draw: Callable[[], float]) -> Decision:
        decisions.append(decide(answer, failures, draw))
        return Decision(decisions[-1].verdict)

    monkeypatch.setattr(delivery_worker, "decide", decide_now)
    return decisions


@asynccontextmanager
async def running(store: MediaStore, *endpoints: Endpoint, resolve: Resolve | None = None) -> AsyncIterator[Webhooks]:
    webhooks = Webhooks(store.webhooks, endpoints, resolve)
    webhooks.start()
    try:
        await eventually_async(lambda: len(webhooks.registry.all) == len(endpoints))
        yield webhooks
    finally:
        await webhooks.aclose()


def to(receiver: Receiver, identifier: str = "e", **changes: Any) -> Endpoint:
    return Endpoint(
        **{"id": identifier, "url": receiver.url, "secrets": (SECRET,), "is_private_allowed": True, **changes}
    )


async def change(store: MediaStore, webhooks: Webhooks, filename: str = "n") -> OutboxEvent:
    upload = await store.uploads.create_upload(MediaName("f", filename), NewUpload(), NO_PRECONDITIONS)
    event = await store.uploads.commit(upload, finished_upload(b""), NO_PRECONDITIONS)
    await webhooks.relay(event.to_relay)
    return event


async def states(store: MediaStore, endpoint: str = "e") -> list[tuple[str, int, int | None]]:
    found: Sequence[WebhookDelivery] = await store.webhooks.list_deliveries(endpoint, None, 100)
    return [(each.state, each.failures, each.status) for each in found]


async def wait_for_state(store: MediaStore, expected: list[tuple[str, int, int | None]], endpoint: str = "e") -> None:
    async def reached() -> bool:
        return await states(store, endpoint) == expected

    await eventually_async(reached)


@both_stores
async def test_a_signed_event_arrives_within_a_second_of_its_commit(store: MediaStore) -> None:
    async with run_receiver() as receiver, running(store, to(receiver, secrets=(SECRET, make_secret()))) as webhooks:
        started_at = time.monotonic()
        created = await change(store, webhooks)
        await eventually_async(lambda: receiver.requests)
        assert time.monotonic() - started_at < 1
        replaced = await change(store, webhooks)
        deleted = await store.uploads.delete(MediaName("f", "n"))
        assert deleted is not None
        await webhooks.relay(deleted.to_relay)
        await wait_for_state(store, [("done", 0, 200)] * 3)
    by_id = {request.event_id: request for request in receiver.requests}
    assert len(receiver.requests) == len(by_id) == 3
    for event in (created, replaced, deleted):
        request = by_id[event.id]
        message = Webhook(SECRET).verify(request.body, request.headers)
        assert (request.target, request.headers["content-type"]) == ("/in?a=1", "application/json")
        assert (message["specversion"], message["id"], message["type"]) == ("1.0", event.id, event.type)
        assert message["data"] == json.loads(json.dumps(describe_event(event)))
        assert message["time"] == message["timestamp"]


@both_stores
async def test_moves_restores_and_posters_arrive(store: MediaStore) -> None:
    """In the order of the file's revisions, whatever its name is; a folder that the receivers may not know is not named."""
    name, beside, elsewhere = MediaName("f", "n"), MediaName("f", "m"), MediaName("g", "m")
    async with run_receiver() as receiver, running(store, to(receiver, ordered=True)) as webhooks:
        await change(store, webhooks)
        for old, new in ((name, beside), (beside, elsewhere)):
            moved = await store.uploads.move_file(old, new)
            assert moved is not None
            for event in moved:
                await webhooks.relay(event.to_relay)
        data = b"\x89PNG\r\n\x1a\n"
        poster = Poster(data, "image/png", hashlib.sha256(data).hexdigest())
        for described in (await store.uploads.set_poster(elsewhere, poster), await store.uploads.delete(elsewhere)):
            assert described is not None
            await webhooks.relay(described.to_relay)
        restored = await store.uploads.restore(elsewhere)
        await webhooks.relay(restored.to_relay)
        await eventually_async(lambda: len(receiver.requests) == 7)
    messages = sorted(
        (json.loads(request.body) for request in receiver.requests), key=lambda each: each["data"]["revision"]
    )
    assert [(each["type"], each["data"]["folder"], each["data"]["filename"]) for each in messages] == [
        ("file.created", "f", "n"),
        ("file.moved", "f", "m"),
        ("file.deleted", "f", "m"),
        ("file.moved", "g", "m"),
        ("file.described", "g", "m"),
        ("file.deleted", "g", "m"),
        ("file.restored", "g", "m"),
    ]
    assert len({each["data"]["id"] for each in messages}) == 1
    moves = [each["data"]["previous"] for each in messages if each["type"] == "file.moved"]
    assert moves == [{"folder": "f", "filename": "n", "revision": 2}, None]


@both_stores
async def test_endpoints_get_what_they_ask_for(store: MediaStore) -> None:
    async with run_receiver() as receiver:
        wanted = [
            to(receiver, "all"),
            to(receiver, "other-folder", folders=("g",)),
            to(receiver, "deletions", events=("file.deleted",)),
        ]
        async with running(store, *wanted) as webhooks:
            await change(store, webhooks)
            await wait_for_state(store, [("done", 0, 200)], "all")
        assert await states(store, "other-folder") == await states(store, "deletions") == []


MISBEHAVIOURS: dict[str, tuple[Respond, tuple[str, int, int | None]]] = {
    "500": (answering(500), ("waiting", 1, 500)),
    "429": (answering(429, fields="Retry-After: 120\r\n"), ("waiting", 1, 429)),
    "503 until a date": (answering(503, fields="Retry-After: Fri, 31 Dec 2100 23:59:59 GMT\r\n"), ("waiting", 1, 503)),
    "404": (answering(404), ("waiting", 1, 404)),
    "slow head": (slow_head, ("waiting", 1, None)),
    "silent": (silent, ("waiting", 1, None)),
    "endless body": (endless_body, ("done", 0, 200)),
    "closing": (closing, ("waiting", 1, None)),
    "garbage": (answering(200, fields="\x00\r\n"), ("waiting", 1, None)),
}


@pytest.mark.parametrize("kind", MISBEHAVIOURS)
@both_stores
async def test_a_receiver_that_misbehaves_disturbs_no_other(
    store: MediaStore, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_worker, "TRY_TIMEOUT_SECONDS", 0.5)
    respond, expected = MISBEHAVIOURS[kind]
    async with (
        run_receiver(respond) as bad,
        run_receiver() as good,
        running(store, to(bad, "bad"), to(good, "good")) as webhooks,
    ):
        event = await change(store, webhooks)
        await eventually_async(lambda: good.requests)
        await wait_for_state(store, [expected], "bad")
        await wait_for_state(store, [("done", 0, 200)], "good")
        assert [request.event_id for request in bad.requests] == [event.id]
        [delivery] = await store.webhooks.list_deliveries("bad", None, 9)
        if kind == "429":
            assert 100 < (delivery.next_at - delivery.created_at).total_seconds() < 140
        if kind == "503 until a date":
            assert 80_000 < (delivery.next_at - delivery.created_at).total_seconds() < 90_000


@both_stores
async def test_a_redirect_is_a_failure_and_is_not_followed(store: MediaStore) -> None:
    async with run_receiver() as target:
        moved = answering(302, fields=f"Location: {target.url}\r\nSet-Cookie: a=b\r\n")
        async with run_receiver(moved) as receiver, running(store, to(receiver)) as webhooks:
            await change(store, webhooks)
            await wait_for_state(store, [("waiting", 1, 302)])
            await store.webhooks.replay(ReplaySelection(id=(await store.webhooks.list_deliveries("e", None, 1))[0].id))
            webhooks.wake()
            await eventually_async(lambda: len(receiver.requests) == 2)
            assert "cookie" not in receiver.requests[1].headers
        assert not target.requests


@both_stores
async def test_410_ends_the_endpoint(store: MediaStore) -> None:
    async with run_receiver(answering(410)) as receiver, running(store, to(receiver)) as webhooks:
        await change(store, webhooks)
        await eventually_async(lambda: "e" in webhooks.registry.ended)
        [(state, _, status)] = await states(store)
        assert (state, status) == ("dead", 410)
        await change(store, webhooks)
        assert len(await states(store)) == 1, "no delivery for an endpoint that has ended"
        receiver.respond = answering()
        await store.webhooks.set_ended("e", ended=False)
        await webhooks.refresh()
        await store.webhooks.replay(ReplaySelection(state="dead"))
        webhooks.wake()
        await wait_for_state(store, [("done", 0, 200)])


@both_stores
async def test_ten_tries_with_the_same_id_and_bytes_then_a_dead_letter(
    store: MediaStore, immediate_retries: list[Decision]
) -> None:
    """A receiver that is down for good, then back: "send again" delivers the same id."""
    async with run_receiver(answering(500)) as receiver, running(store, to(receiver)) as webhooks:
        event = await change(store, webhooks)
        await wait_for_state(store, [("dead", MAX_TRIES, 500)])
        assert len(receiver.requests) == MAX_TRIES
        assert {(request.event_id, request.body) for request in receiver.requests} == {
            (event.id, receiver.requests[0].body)
        }
        assert [decision.verdict for decision in immediate_retries] == ["retry"] * (MAX_TRIES - 1) + ["dead"]
        assert sum(decision.delay for decision in immediate_retries) > 0.9 * 75 * 3600
        receiver.respond = answering(204)
        assert await store.webhooks.replay(ReplaySelection(endpoint_id="e", state="dead")) == 1
        webhooks.wake()
        await wait_for_state(store, [("done", 0, 204)])
        assert receiver.requests[-1].event_id == event.id
        assert receiver.requests[-1].body == receiver.requests[0].body


@only_files
async def test_in_order(store: MediaStore, immediate_retries: list[Decision]) -> None:
    failures = iter([True, False, True, True, False, False, False, False, False])

    async def sometimes(received: Received, writer: asyncio.StreamWriter) -> None:
        await answering(500 if next(failures, False) else 200)(received, writer)

    async with run_receiver(sometimes) as receiver, running(store, to(receiver, ordered=True)) as webhooks:
        events = [await change(store, webhooks) for _ in range(5)]
        await wait_for_state(store, [("done", failed, 200) for failed in (0, 0, 0, 2, 1)])
    firsts = list(dict.fromkeys(request.event_id for request in receiver.requests))
    assert firsts == [event.id for event in events]
    assert immediate_retries


@both_stores
async def test_a_healthy_endpoint_gets_each_event_once_from_two_processes(store: MediaStore) -> None:
    async with (
        run_receiver() as receiver,
        running(store, to(receiver)) as first,
        running(store, to(receiver)) as second,
    ):
        events = [await change(store, (first, second)[number % 2], f"n{number}") for number in range(40)]
        await wait_for_state(store, [("done", 0, 200)] * 40)
        assert sorted(request.event_id for request in receiver.requests) == sorted(event.id for event in events)


@both_stores
async def test_shutdown_is_bounded_and_loses_nothing(store: MediaStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_worker, "DRAIN_SECONDS", 0.2)
    monkeypatch.setattr(delivery_worker, "LEASE_SECONDS", 1.0)
    async with run_receiver(silent) as receiver:
        async with running(store, to(receiver)) as webhooks:
            event = await change(store, webhooks)
            await eventually_async(lambda: receiver.requests)
            started_at = time.monotonic()
            await webhooks.aclose()
            assert time.monotonic() - started_at < 2
        receiver.respond = answering()
        async with running(store, to(receiver)):
            await wait_for_state(store, [("done", 0, 200)])
        assert [request.event_id for request in receiver.requests] == [event.id] * 2


@both_stores
async def test_left_over_events_are_relayed_by_the_garbage_collector(store: MediaStore) -> None:
    """The process was killed between the commit and the relay."""
    async with run_receiver() as receiver, running(store, to(receiver)) as webhooks:
        upload = await store.uploads.create_upload(MediaName("", "n"), NewUpload(), NO_PRECONDITIONS)
        event = await store.uploads.commit(upload, finished_upload(b""), NO_PRECONDITIONS)
        for _ in range(2):
            await webhooks.relayer.relay_left_over(event.name_key)
        await wait_for_state(store, [("done", 0, 200)])
        assert [request.event_id for request in receiver.requests] == [event.id]


@only_files
async def test_the_api_reaches_no_forbidden_address(store: MediaStore) -> None:
    """Each spelling, by the real resolver, at a port where something listens."""
    resolver = http_sender.Resolver()
    async with run_receiver(host="") as receiver:
        for host in NUMERIC_HOSTS:
            name = f"[{host}]" if ":" in host else host
            url = f"http://{name}:{receiver.port}/"
            sender = HTTPSender(url, is_private_allowed=False, max_connections=1, resolve=resolver)
            with pytest.raises(SendError, match="resolve"):
                await sender.post({}, b"", timeout_seconds=5)
            await sender.aclose()
        assert receiver.connections == 0
    resolver.close()


@only_files
async def test_names_are_judged_after_each_resolution_and_the_address_is_pinned(store: MediaStore) -> None:
    answers: list[list[str]] = []

    async def resolve(host: str, port: int) -> list[str]:
        assert (host, port) == ("hooks.example", receiver.port)
        return answers.pop(0)

    async with run_receiver() as receiver:
        url = f"http://hooks.example:{receiver.port}/"

        async def send(*, is_private_allowed: bool) -> int:
            sender = HTTPSender(url, is_private_allowed=is_private_allowed, max_connections=1, resolve=resolve)
            try:
                return (await sender.post({}, b"{}", timeout_seconds=5)).status
            finally:
                await sender.aclose()

        for refused in (["127.0.0.1"], ["93.184.215.14", "127.0.0.1"], ["169.254.169.254"], ["::ffff:127.0.0.1"], []):
            answers[:] = [refused]
            with pytest.raises(SendError):
                await send(is_private_allowed=False)
        assert receiver.connections == 0
        # A name that resolves to something else a moment later: the address that was judged is used.
        answers[:] = [["127.0.0.1"], ["10.0.0.1"]]
        assert await send(is_private_allowed=True) == 200
        assert receiver.requests[0].headers["host"] == f"hooks.example:{receiver.port}"
        assert len(answers) == 1, "resolved once"


@only_files
async def test_environment_proxies_are_not_used(store: MediaStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async with run_receiver() as proxy, run_receiver() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        async with running(store, to(receiver)) as webhooks:
            await change(store, webhooks)
            await wait_for_state(store, [("done", 0, 200)])
        assert (len(receiver.requests), proxy.connections) == (1, 0)


@only_files
async def test_tls_is_verified_for_the_name_and_not_for_the_pinned_address(
    store: MediaStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown issuer, another name, no TLS at all: nothing is sent. A trusted certificate of the name: delivered."""
    trusted = ssl.create_default_context(cafile=make_certificate(tmp_path, "hooks.example"))

    async def resolve(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    async def send(name: str, port: int) -> int:
        url = f"https://{name}:{port}/"
        sender = HTTPSender(url, is_private_allowed=True, max_connections=1, resolve=resolve)
        try:
            return (await sender.post({}, b"{}", timeout_seconds=1)).status
        finally:
            await sender.aclose()

    async with run_receiver(certificate=tmp_path / "hooks.example.pem") as receiver, run_receiver() as plain:
        with pytest.raises(SendError, match="ConnectError"):
            await send("hooks.example", receiver.port)
        monkeypatch.setattr(http_sender, "_shared_tls_context", trusted)
        with pytest.raises(SendError, match="ConnectError"):
            await send("other.example", receiver.port)
        with pytest.raises(SendError):
            await send("hooks.example", plain.port)
        assert not receiver.requests
        assert not plain.requests
        assert await send("hooks.example", receiver.port) == 200
        assert receiver.requests[0].headers["host"] == f"hooks.example:{receiver.port}"
