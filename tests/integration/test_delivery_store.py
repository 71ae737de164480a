"""Deliveries over every store: relayed once, claimed once, settled by the claimer alone, replayed, kept in order."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest

from services.common.errors import TooManyRequests
from services.common.media import MediaName, Poster
from services.common.settings import StoreSettings
from services.common.store.delivery_store import (
    DeliveryOutcome,
    NewDelivery,
    ReplaySelection,
    WebhookDelivery,
    WebhookStore,
)
from services.common.store.factory import MediaStore, open_store
from services.common.store.limits import MAX_OUTBOX_EVENTS, MAX_UNRELAYED_EVENTS
from services.common.store.preconditions import NO_PRECONDITIONS
from services.common.store.timings import StoreTimings
from services.common.store.upload_store import (
    NewUpload,
    OutboxEvent,
)
from tests.support.opened_stores import STORE_KINDS, with_stores
from tests.support.store_adapters import finished_upload
from tests.support.waiting import eventually_async

pytestmark = [pytest.mark.anyio, with_stores(*((kind,) for kind in STORE_KINDS))]
NAME = MediaName("f", "n")
LEASE = 30.0


@pytest.fixture
async def store(stores: list[StoreSettings]) -> AsyncIterator[MediaStore]:
    """A store that relays."""
    opened = open_store(stores[0], StoreTimings(outbox_retry_after=0), relays_events=True)
    try:
        await opened.uploads.ensure_schema()
        yield opened
    finally:
        await opened.aclose()


async def commit(store: MediaStore, data: bytes = b"", name: MediaName = NAME) -> OutboxEvent:
    upload = await store.uploads.create_upload(name, NewUpload(), NO_PRECONDITIONS)
    if data:
        await store.uploads.write_blocks(upload, 0, [data])
    return await store.uploads.commit(upload, finished_upload(data), NO_PRECONDITIONS)


def deliveries_of(events: tuple[OutboxEvent, ...], *endpoints: str) -> list[NewDelivery]:
    return [
        NewDelivery(
            event.id,
            endpoint,
            event.info.id,
            event.info.revision,
            event.type,
            f"{event.id} \u00e4".encode() + b"\x00\xff",
        )
        for event in events
        for endpoint in endpoints or ("e",)
    ]


async def relay(store: MediaStore, event: OutboxEvent, *endpoints: str) -> None:
    await store.webhooks.relay(event.to_relay, deliveries_of(event.to_relay, *endpoints))


async def claim(
    webhooks: WebhookStore, endpoint: str = "e", lease: float = LEASE, *, ordered: bool = False
) -> WebhookDelivery:
    delivery = await webhooks.claim(endpoint, lease, ordered=ordered)
    assert delivery is not None
    return delivery


async def wait_until_due(webhooks: WebhookStore, *, ordered: bool = False) -> WebhookDelivery:
    found: list[WebhookDelivery] = []

    async def is_claimed() -> bool:
        found.extend(each for each in [await webhooks.claim("e", LEASE, ordered=ordered)] if each is not None)
        return bool(found)

    await eventually_async(is_claimed)
    return found[0]


async def test_an_event_stays_until_it_is_published_and_relayed(store: MediaStore) -> None:
    for steps in ("pr", "rp"):
        name = MediaName("", steps)
        event = await commit(store, b"x", name)
        assert [each.id for each in event.to_relay] == [event.id]
        for step in steps:
            if step == "p":
                await store.uploads.ack_event(event)
            else:
                await relay(store, event)
            unrelayed = await store.webhooks.list_unrelayed(event.name_key)
            unpublished = await store.garbage.list_unpublished(event.name_key)
            assert [each.id for each in unrelayed] == ([event.id] if "r" not in steps[: steps.index(step) + 1] else [])
            assert [each.id for each in unpublished] == (
                [event.id] if "p" not in steps[: steps.index(step) + 1] else []
            )
        deleted = await store.uploads.delete(name)
        assert deleted is not None
        assert [each.type for each in deleted.to_relay] == ["file.deleted"], "nothing is left of the first event"


async def test_a_name_is_forgotten_after_its_last_event_was_relayed(store: MediaStore) -> None:
    event = await commit(store)
    await relay(store, event)
    deleted = await store.uploads.delete(NAME)
    assert deleted is not None
    await store.uploads.ack_event(deleted)
    await store.garbage.collect(event.name_key)
    assert [each.id for each in await store.webhooks.list_unrelayed(event.name_key)] == [deleted.id], (
        "not collected before"
    )
    await relay(store, deleted)
    await store.garbage.collect(event.name_key)
    assert not await store.garbage.list_unpublished(event.name_key)
    assert not await store.webhooks.list_unrelayed(event.name_key)


async def test_events_of_a_time_with_webhooks_are_forgotten_when_these_are_off(
    store: MediaStore, stores: list[StoreSettings]
) -> None:
    event = await commit(store)
    await store.uploads.ack_event(event)
    await store.garbage.collect(event.name_key)
    assert await store.webhooks.list_unrelayed(event.name_key)
    plain = open_store(stores[0], StoreTimings(outbox_retry_after=0))
    try:
        await plain.garbage.collect(event.name_key)
        assert not await store.webhooks.list_unrelayed(event.name_key)
        assert not (await commit(plain)).to_relay
    finally:
        await plain.aclose()


async def test_one_unrelayed_event_too_many_refuses_the_commit(store: MediaStore) -> None:
    """429 with Retry-After, also of a deletion; relaying makes room, publishing does not."""
    events = [await commit(store, str(number).encode()) for number in range(MAX_UNRELAYED_EVENTS)]
    await store.uploads.ack_event(events[-1])
    with pytest.raises(TooManyRequests) as refused:
        await commit(store, b"more")
    assert int(refused.value.headers["retry-after"]) > 0
    with pytest.raises(TooManyRequests):
        await store.uploads.delete(NAME)
    assert [event.id for event in await store.webhooks.list_unrelayed(events[0].name_key)] == [
        event.id for event in events
    ]
    info = await store.reader.find(NAME)
    assert info is not None
    assert info.revision == MAX_UNRELAYED_EVENTS, "nothing was changed"
    await relay(store, events[0])
    more = await commit(store, b"more")
    assert [event.id for event in more.to_relay] == [*(event.id for event in events[1:]), more.id]


async def test_moves_restores_and_posters_are_relayed_and_refused_as_commits_are(store: MediaStore) -> None:
    """At the name that the event belongs to; what was refused changes nothing, and is possible once there is room."""
    old, poster = MediaName("f", "old"), Poster(b"1", "image/png", hashlib.sha256(b"1").hexdigest())
    full = [await commit(store, b"x", old) for _ in range(MAX_UNRELAYED_EVENTS)]
    with pytest.raises(TooManyRequests):
        await store.uploads.set_poster(old, poster)
    with pytest.raises(TooManyRequests):
        await store.uploads.move_file(old, MediaName("g", "new"))
    found = await store.reader.find(old)
    assert found is not None
    assert (found.revision, found.poster_etag) == (MAX_UNRELAYED_EVENTS, None)
    assert await store.reader.find(MediaName("g", "new")) is None
    await relay(store, full[0])
    deleted = await store.uploads.delete(old)
    assert deleted is not None
    with pytest.raises(TooManyRequests):
        await store.uploads.restore(old)
    await commit(store, b"y", MediaName("g", "other"))
    with pytest.raises(TooManyRequests):
        await store.uploads.move_file(MediaName("g", "other"), old)
    assert await store.reader.find(old) is None
    assert await store.reader.find(MediaName("g", "other")) is not None

    await relay(store, deleted)
    restored = await store.uploads.restore(old)
    described = await store.uploads.set_poster(old, poster)
    assert described is not None
    assert [event.type for event in described.to_relay] == ["file.restored", "file.described"]
    await relay(store, described)
    moved = await store.uploads.move_file(old, MediaName("g", "new"))
    assert moved is not None
    assert [[event.type for event in each.to_relay] for each in moved] == [["file.moved"], ["file.deleted"]]
    assert {each.info.id for each in moved} == {restored.info.id}
    for event in moved:
        assert await store.webhooks.list_unrelayed(event.name_key)
        await relay(store, event)
        assert not await store.webhooks.list_unrelayed(event.name_key)


async def test_relayed_events_coalesce_while_redis_is_away_and_unrelayed_ones_do_not(store: MediaStore) -> None:
    relayed = []
    for number in range(MAX_OUTBOX_EVENTS + 6):
        event = await commit(store, str(number).encode())
        relayed += [each.id for each in event.to_relay]
        await relay(store, event)
    kept = [await commit(store, str(number).encode()) for number in range(10)]
    unpublished = await store.garbage.list_unpublished(event.name_key)
    assert unpublished[0].type == "socket.resync"
    assert len(unpublished) <= MAX_OUTBOX_EVENTS
    assert [each.id for each in unpublished[-10:]] == [each.id for each in kept]
    assert [each.id for each in await store.webhooks.list_unrelayed(event.name_key)] == [each.id for each in kept]
    found = await store.webhooks.list_deliveries(None, None, 1000)
    assert Counter(each.event_id for each in found) == Counter(relayed), "each once"


async def test_relays_at_the_same_time_make_each_delivery_once(store: MediaStore) -> None:
    first = await commit(store, b"1")
    second = await commit(store, b"2")
    await asyncio.gather(*(relay(store, event, "e", "g") for event in (second, first, second, first, second)))
    found = await store.webhooks.list_deliveries(None, None, 100)
    expected = {f"{event.id}.{endpoint}" for event in (first, second) for endpoint in "eg"}
    assert Counter(each.id for each in found) == Counter(expected)
    delivery = await claim(store.webhooks)
    assert delivery.body == f"{delivery.event_id} \u00e4".encode() + b"\x00\xff", "the exact bytes"
    assert await store.webhooks.settle(delivery, DeliveryOutcome("done", 200), ordered=False)
    await relay(store, second, "e", "g")
    done = await store.webhooks.list_deliveries("e", "done", 100)
    assert [(each.id, each.status) for each in done] == [(delivery.id, 200)], "relayed again: it stays done"


async def test_a_delivery_is_claimed_once_and_again_after_its_lease(store: MediaStore) -> None:
    await relay(store, await commit(store))
    claims = await asyncio.gather(*(store.webhooks.claim("e", 0.3, ordered=False) for _ in range(8)))
    [first] = [each for each in claims if each is not None]
    assert await store.webhooks.claim("other", LEASE, ordered=False) is None
    second = await wait_until_due(store.webhooks)
    assert (second.id, second.fencing_token) == (first.id, first.fencing_token + 1)
    assert not await store.webhooks.settle(first, DeliveryOutcome("dead"), ordered=False), "its claim is void"
    assert await store.webhooks.settle(second, DeliveryOutcome("done", 204), ordered=False)
    assert not await store.webhooks.settle(second, DeliveryOutcome("dead"), ordered=False), "settled"
    assert await store.webhooks.claim("e", LEASE, ordered=False) is None


async def test_a_failure_waits_for_its_next_try(store: MediaStore) -> None:
    await relay(store, await commit(store))
    delivery = await claim(store.webhooks)
    assert await store.webhooks.settle(delivery, DeliveryOutcome("waiting", 500, "status 500", 0.2), ordered=False)
    assert await store.webhooks.claim("e", LEASE, ordered=False) is None
    again = await wait_until_due(store.webhooks)
    assert (again.failures, again.status, again.error) == (1, 500, "status 500")
    await store.webhooks.settle(again, DeliveryOutcome("waiting", None, "no answer", 3600), ordered=False)
    assert await store.webhooks.claim("e", LEASE, ordered=False) is None
    [waiting] = await store.webhooks.summarize()
    assert (waiting.endpoint_id, waiting.waiting, waiting.dead) == ("e", 1, 0)
    assert 0.2 <= waiting.oldest < 60


async def test_dead_letters_and_replays(store: MediaStore) -> None:
    """One, a range, the dead: each with the same id, its tries before it."""
    events = [await commit(store, bytes([number]), MediaName("", str(number))) for number in range(6)]
    for event in events:
        await relay(store, event)
    outcomes: list[DeliveryOutcome] = [DeliveryOutcome("dead", 500, "status 500"), DeliveryOutcome("done", 200)] * 3
    for outcome in outcomes:
        await store.webhooks.settle(await claim(store.webhooks), outcome, ordered=False)
    [summary] = await store.webhooks.summarize()
    assert (summary.waiting, summary.dead, summary.oldest) == (0, 3, 0.0)
    dead = await store.webhooks.list_deliveries("e", "dead", 100)
    assert [each.failures for each in dead] == [1, 1, 1]
    assert list(dead) == sorted(dead, key=lambda each: each.id, reverse=True)
    page = await store.webhooks.list_deliveries("e", "dead", 2)
    rest = await store.webhooks.list_deliveries("e", "dead", 2, page[-1].id)
    assert [each.id for each in (*page, *rest)] == [each.id for each in dead]
    assert await store.webhooks.replay(ReplaySelection(id=dead[0].id)) == 1
    again = await claim(store.webhooks)
    assert (again.id, again.failures) == (dead[0].id, 0)
    assert await store.webhooks.replay(ReplaySelection(state="dead", endpoint_id="other")) == 0
    assert await store.webhooks.replay(ReplaySelection(state="dead")) == 2
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    assert await store.webhooks.replay(ReplaySelection(endpoint_id="e", since=now + hour)) == 0
    assert await store.webhooks.replay(ReplaySelection(endpoint_id="e", until=now - hour)) == 0
    assert await store.webhooks.replay(ReplaySelection(endpoint_id="e", since=now - hour, until=now + hour)) == 3
    assert await store.webhooks.replay(ReplaySelection(id="unknown")) == 0
    assert not await store.webhooks.list_deliveries(None, "done", 9)
    assert await store.webhooks.delete_expired() == 0


async def test_an_ended_endpoint(store: MediaStore) -> None:
    await relay(store, await commit(store), "e", "g")
    held = await claim(store.webhooks)
    assert await store.webhooks.bury("e", "410") == 1
    assert not await store.webhooks.settle(held, DeliveryOutcome("done"), ordered=False)
    assert [(each.endpoint_id, each.waiting, each.dead) for each in await store.webhooks.summarize()] == [
        ("e", 0, 1),
        ("g", 1, 0),
    ]
    await store.webhooks.set_ended("e", ended=True)
    assert await store.webhooks.add_endpoint("made", '{"secret":"\u00e4"}')
    assert not await store.webhooks.add_endpoint("made", "{}")
    await store.webhooks.set_ended("made", ended=True)
    await store.webhooks.set_ended("made", ended=False)
    await store.webhooks.set_ended("unknown", ended=False)
    found = [(each.id, each.definition, each.is_ended) for each in await store.webhooks.list_endpoints()]
    assert found == [("e", None, True), ("made", '{"secret":"\u00e4"}', False)]
    assert await store.webhooks.remove_endpoint("made")
    assert not await store.webhooks.remove_endpoint("made")


@pytest.mark.parametrize("fails", [False, True], ids=["healthy", "failing"])
async def test_in_order_one_delivery_of_a_file_after_another(store: MediaStore, fails: bool) -> None:
    """The head of one file blocks this file only; with it settled, the next is due at once and not when a lease ends."""
    other = MediaName("", "other")
    events = [await commit(store, bytes([number])) for number in range(3)]
    foreign = await commit(store, b"", other)
    for event in (*events, foreign):
        await relay(store, event)
    seen: list[str] = []
    first, second = await claim(store.webhooks, ordered=True), await claim(store.webhooks, ordered=True)
    assert {first.event_id, second.event_id} == {events[0].id, foreign.id}
    assert await store.webhooks.claim("e", LEASE, ordered=True) is None
    head = first if first.event_id == events[0].id else second
    if fails:
        await store.webhooks.settle(head, DeliveryOutcome("waiting", 500, "", 0.2), ordered=True)
        head = await wait_until_due(store.webhooks, ordered=True)
        assert head.event_id == events[0].id
    settled: Callable[[], DeliveryOutcome] = lambda: DeliveryOutcome("dead" if fails else "done", 500)  # noqa: E731
    await store.webhooks.settle(head, settled(), ordered=True)
    for _ in range(2):
        delivery = await wait_until_due(store.webhooks, ordered=True)
        seen.append(delivery.event_id)
        await store.webhooks.settle(delivery, settled(), ordered=True)
    assert seen == [events[1].id, events[2].id]
