"""Publishes events to one connected client, to a topic or to all, from any Python process that reaches Redis.

    async with Publisher.from_url("redis://localhost:6379/0", "/billing") as publisher:
        await publisher.broadcast("invoice.paid", {"number": 7})

One publication is one Lua script in Redis, which docs/messages.md prints for other languages.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Protocol, Self
from uuid import uuid4

from gridcast._bus import events
from gridcast._bus.keys import SEQUENCE_KEY
from gridcast._bus.lua_script import LuaScript
from gridcast._bus.redis import RedisPool
from gridcast._bus.wakeup import PUBLISH_EVENT
from gridcast.errors import (
    EventTooLarge,
    InvalidEvent,
    PublishError,
    RedisRefusesWrites,
    RedisUnavailable,
    SessionsNotReady,
)

__all__ = [
    "EventTooLarge",
    "InvalidEvent",
    "PublishError",
    "PublishResult",
    "PublishStatus",
    "Publisher",
    "RedisRefusesWrites",
    "RedisUnavailable",
    "SessionsNotReady",
]

PublishStatus = Literal["sent", "queued", "dropped", "unknown"]


@dataclass(frozen=True, slots=True)
class PublishResult:
    """What is known after a publication.

    `sent`: to a sid, the replica that holds its connection received the event; to a topic or to all, every subscribed replica did.
    `queued`: the client is disconnected; the event is stored until it resumes or its resume window ends.
    `dropped`: the client is disconnected, and an event with a conflation key is not stored.
    `unknown`: there is no such sid; nothing was published.

    `sequence` is the event's position, None for `unknown`. `duplicate` is true if the same source published the same id to the same
    target before, within the last four minutes.
    """

    status: PublishStatus
    id: str
    sequence: str | None
    duplicate: bool = False


class _Redis(Protocol):
    """What a publisher needs of a Redis client, so that its signatures name no class of one."""

    async def ping(self) -> None: ...

    async def aclose(self) -> None: ...

    async def eval(self, script: LuaScript, keys: Sequence[str], args: Sequence[str | bytes | int | float]) -> Any: ...


class Publisher:
    """Publishes events of one source. Methods raise InvalidEvent for an event that breaks a rule, EventTooLarge above 64 KiB, and
    RedisUnavailable while Redis is unavailable.

    An event with the same source, id and target is published once in four minutes: after RedisUnavailable, repeat the call with the
    same `id`.

    `conflation_key` is for states of which only the newest matters (progress). Such an event is not stored for recovery, and in the
    send queue of a slow client it replaces an older one with the same source, type and key. True is the empty key; pass a string
    where several such states exist at once (one for each upload).
    """

    def __init__(self, redis: _Redis, source: str) -> None:
        self._redis = redis
        self._source = events.validate_source(source)

    @classmethod
    def from_url(cls, url: str, source: str) -> Self:
        """A publisher with its own connection pool, which connects on first use.

        `url` is redis://, rediss://, redis+sentinel:// or rediss+sentinel://host:port,host:port/NAME/DB; `source` names the calling
        service (`/billing`). Raises ValueError for any other url or source.
        """
        return cls(RedisPool.from_url(url), source)

    async def send(
        self,
        sid: str,
        type: str,  # noqa: A002  # the attribute's name in CloudEvents, here and below
        data: Any,
        *,
        id: str | None = None,  # noqa: A002
        conflation_key: bool | str = False,
        ack_channel: str = "",
    ) -> PublishResult:
        """Publish to one client. Its ack is published on the Redis channel `ack_channel`, if one is given."""
        event = self._build_event(type, data, id)
        if not events.is_valid_sid(sid):
            return PublishResult("unknown", event.id, None)
        return await self._publish(("sid", sid), event, self._build_conflation_key(event, conflation_key), ack_channel)

    async def publish(
        self,
        topic: str,
        type: str,  # noqa: A002
        data: Any,
        *,
        id: str | None = None,  # noqa: A002
        conflation_key: bool | str = False,
    ) -> PublishResult:
        """Publish to every client that is subscribed to `topic`."""
        event = self._build_event(type, data, id, events.validate_topic(topic))
        return await self._publish(("topic", topic), event, self._build_conflation_key(event, conflation_key))

    async def broadcast(
        self,
        type: str,  # noqa: A002
        data: Any,
        *,
        id: str | None = None,  # noqa: A002
        conflation_key: bool | str = False,
    ) -> PublishResult:
        """Publish to every client."""
        event = self._build_event(type, data, id)
        return await self._publish(("all", ""), event, self._build_conflation_key(event, conflation_key))

    async def ping(self) -> None:
        """Return once Redis has responded."""
        await self._redis.ping()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._redis.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _build_event(
        self, event_type: str, data: Any, event_id: str | None, topic: str | None = None
    ) -> events.CloudEvent:
        return events.CloudEvent(
            id=str(uuid4()) if event_id is None else events.validate_event_id(event_id),
            source=self._source,
            type=events.validate_event_type(event_type),
            time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            data=data,
            topic=topic,
        )

    def _build_conflation_key(self, event: events.CloudEvent, key: bool | str) -> str:  # noqa: FBT001  # True is the empty key
        if not key:
            return ""
        return f"{self._source} {event.type} {events.validate_event_id(key) if isinstance(key, str) else ''}"

    async def _publish(
        self, target: tuple[str, str], event: events.CloudEvent, conflation_key: str, ack_channel: str = ""
    ) -> PublishResult:
        args = (*target, events.encode_event(event), self._source, event.id, conflation_key, ack_channel)
        status, sequence, duplicate = await self._redis.eval(PUBLISH_EVENT, (SEQUENCE_KEY,), args)
        if status == b"invalid":
            raise InvalidEvent(sequence.decode())
        if status == b"settling":
            raise SessionsNotReady("the sessions are not registered in Redis yet")
        return PublishResult(status.decode(), event.id, sequence.decode() or None, bool(duplicate))
