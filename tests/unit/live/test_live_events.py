"""Publications of the live service: in order, again until Redis takes them, and never in the way of a publisher."""

from typing import Any

import pytest

from services.common.errors import ServiceUnavailable
from services.live.live_events import LiveEvents
from tests.support.waiting import eventually_async

pytestmark = pytest.mark.anyio


class ScriptedPublisher:
    """A publisher whose first calls of each kind fail."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.published: list[tuple[str, str, str]] = []
        self.sent: list[Any] = []
        self.commands: list[tuple[Any, ...]] = []
        self.redis = self

    async def publish(self, topic: str, type: str, data: Any, *, id: str) -> None:  # noqa: A002
        if self.failures:
            self.failures -= 1
            raise ServiceUnavailable("Redis is away")
        self.published.append((topic, type, id))
        assert data["id"] == "s"

    async def send(self, sid: str, type: str, data: Any, *, conflation_key: str) -> None:  # noqa: A002
        del type, conflation_key
        self.sent.append((sid, data["bytes"]))

    async def execute(self, *command: Any) -> bytes | None:
        self.commands.append(command)
        if command[0] == "GET" and self.failures:
            raise ServiceUnavailable("Redis is away")
        return b"7" if command[0] == "GET" else None


async def test_events_are_published_again_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 25: late, not lost."""
    monkeypatch.setattr("services.live.live_events.EVENT_RETRY_SECONDS", 0.01)
    publisher: Any = ScriptedPublisher(3)
    events = LiveEvents(publisher)
    for kind in ("live.started", "live.interrupted", "live.ended"):
        events.publish("s", kind, {})
    await events.aclose()
    assert [(topic, kind) for topic, kind, _ in publisher.published] == [
        ("live/s", "live.started"),
        ("live/s", "live.interrupted"),
        ("live/s", "live.ended"),
    ]
    assert len({event_id for *_, event_id in publisher.published}) == 3


async def test_a_publisher_hears_what_is_durable_once_a_second() -> None:
    publisher: Any = ScriptedPublisher(0)
    events = LiveEvents(publisher)
    for count in range(50):
        events.tell_publisher("sid", "s", count, 0)
    events.tell_publisher(None, "s", 1, 0)
    events.tell_publisher("other", "s", 9, 0)
    events.wake_readers("s", 3, "live")
    await eventually_async(lambda: publisher.commands)  # behind the others
    await events.aclose()
    assert publisher.sent == [("sid", 0), ("other", 9)]
    assert publisher.commands[0][:2] == ("PUBLISH", "gridcast:live")


async def test_viewers_are_not_known_without_redis() -> None:
    publisher: Any = ScriptedPublisher(1)
    events = LiveEvents(publisher)
    assert await events.count_viewers("s") is None
    publisher.failures = 0
    assert await events.count_viewers("s") == 7
    await events.aclose()
