"""The order in which one process publishes the events of a name."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from services.common.bus.publisher import EventPublisher
from services.common.errors import ServiceUnavailable
from services.common.media import MediaInfo
from services.common.store.upload_store import OutboxEvent
from services.common.uploads import outbox
from services.common.uploads.outbox import OutboxPublisher

pytestmark = pytest.mark.anyio
INFO = MediaInfo("m", "1", "f", "n", 5, "video/webm", "00", datetime(2026, 11, 20, tzinfo=UTC))


def make_event(revision: int, *earlier: OutboxEvent, type: str = "file.replaced") -> OutboxEvent:  # noqa: A002
    return OutboxEvent(f"event-{revision}", type, replace(INFO, revision=revision), time.monotonic(), earlier)


class RecordingBus(EventPublisher):
    """Records what is published. `failing` ids are refused; `answering` holds every call back while it is not set."""

    def __init__(self) -> None:
        self.published: list[str] = []
        self.acknowledged: list[str] = []
        self.failing: set[str] = set()
        self.answering = asyncio.Event()
        self.answering.set()

    async def publish_invalidation(self, folder: str, filename: str) -> None:
        await self.answering.wait()

    async def broadcast(
        self,
        type: str,  # noqa: A002
        data: Any,
        *,
        id: str | None = None,  # noqa: A002
        conflation_key: bool | str = False,
    ) -> Any:
        await self.answering.wait()
        if id in self.failing:
            raise ServiceUnavailable("no Redis")
        self.published.append(id or "")

    async def ack_event(self, event: OutboxEvent) -> None:
        self.acknowledged.append(event.id)


async def test_earlier_events_first_and_one_acknowledgement() -> None:
    bus = RecordingBus()
    publisher = OutboxPublisher(bus, bus)
    assert await publisher.publish(make_event(3, make_event(1), make_event(2)))
    await publisher.aclose()
    assert (bus.published, bus.acknowledged) == (["event-1", "event-2", "event-3"], ["event-3"])


async def test_nothing_is_published_past_a_failure() -> None:
    bus = RecordingBus()
    bus.failing = {"event-2"}
    publisher = OutboxPublisher(bus, bus)
    assert not await publisher.publish(make_event(3, make_event(1), make_event(2)))
    await publisher.aclose()
    assert (bus.published, bus.acknowledged) == (["event-1"], ["event-1"])


async def test_concurrent_requests_publish_each_event_once() -> None:
    bus = RecordingBus()
    publisher = OutboxPublisher(bus, bus)
    bus.answering.clear()
    first, second = make_event(1), make_event(2, make_event(1))
    third = make_event(3, make_event(1), make_event(2))
    tasks = [asyncio.create_task(publisher.publish(event)) for event in (third, first, second)]
    await asyncio.sleep(0)
    bus.answering.set()
    assert await asyncio.gather(*tasks) == [True] * 3
    await publisher.aclose()
    assert bus.published == ["event-1", "event-2", "event-3"]
    assert sorted(bus.acknowledged) == ["event-1", "event-2", "event-3"]


async def test_what_was_read_too_long_ago_is_left_to_the_garbage_collector() -> None:
    bus = RecordingBus()
    publisher = OutboxPublisher(bus, bus)
    old = replace(make_event(1), read_at=time.monotonic() - outbox.MAX_READ_AGE_SECONDS - 1)
    assert not await publisher.publish(old)
    assert await publisher.publish(make_event(2, type="socket.resync"))
    await publisher.aclose()
    assert (bus.published, bus.acknowledged) == (["event-2"], ["event-2"])


async def test_no_request_waits_longer_than_the_timeout_for_the_turn_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox, "PUBLISH_TIMEOUT_SECONDS", 0.1)
    bus = RecordingBus()
    publisher = OutboxPublisher(bus, bus)
    bus.answering.clear()
    async with asyncio.timeout(5):
        results = await asyncio.gather(*(publisher.publish(make_event(number)) for number in range(1, 20)))
    assert not any(results)
    assert bus.published == []
    bus.answering.set()
    assert await publisher.publish(make_event(20))


async def test_events_are_relayed_beside_their_publication_and_acknowledged_after_both() -> None:
    """In both orders; what is relayed are the events that have no deliveries yet, whichever are unpublished."""
    bus = RecordingBus()
    relayed: list[list[str]] = []
    may_relay = asyncio.Event()

    async def relay(events: Sequence[OutboxEvent]) -> None:
        await may_relay.wait()
        relayed.append([event.id for event in events])

    publisher = OutboxPublisher(bus, bus, relay)
    event = make_event(2, make_event(1))
    assert await publisher.publish(replace(event, to_relay=(event,)))
    assert (bus.published, bus.acknowledged, relayed) == (["event-1", "event-2"], [], []), "the response does not wait"
    may_relay.set()
    await publisher.aclose()
    assert (bus.acknowledged, relayed) == (["event-2"], [["event-2"]])
    assert await publisher.publish(make_event(3))
    await publisher.aclose()
    assert len(relayed) == 1, "one that is not to be relayed"


@pytest.mark.parametrize("error", [ServiceUnavailable("no store"), RuntimeError("a defect")], ids=repr)
async def test_neither_redis_nor_the_relay_stops_the_other(error: Exception) -> None:
    bus = RecordingBus()
    bus.failing = {"event-1"}
    relayed: list[str] = []

    async def relay(events: Sequence[OutboxEvent]) -> None:
        relayed.extend(event.id for event in events)
        raise error

    publisher = OutboxPublisher(bus, bus, relay)
    first, second = make_event(1), make_event(2, type="socket.resync")
    assert not await publisher.publish(replace(first, to_relay=(first,)))
    assert await publisher.publish(replace(second, to_relay=(second,)))
    await publisher.aclose()
    assert (bus.published, bus.acknowledged, relayed) == (["event-2"], ["event-2"], ["event-1", "event-2"])
