"""Pushes an event to one socket, to a topic or to everyone, from any process.

One push is one script in Redis, which docs/messages.md prints, so that other languages can run it too.
It knows Redis and the envelope; it does not know who holds a socket, nor that there is a socket service at all.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self
from uuid import uuid4

from services.common.bus import events
from services.common.bus.redis import LuaScript, RedisClient
from services.common.errors import ServiceUnavailable
from services.common.telemetry import metrics

PublishStatus = Literal["sent", "queued", "dropped", "unknown"]
INVALIDATION_CHANNEL = "gridcast:invalidate"
SEQUENCE_KEY = "gridcast:sequence"

PUBLISH_EVENT = LuaScript("""\
-- One push. KEYS[1]: gridcast:sequence
-- ARGV: kind (sid, topic, all), name (empty for all), event (a JSON object without `sequence`), source, id,
--       last (empty, or a key: this event is not kept, and the next one with that key may replace it),
--       reply (empty, or a channel that is told of the client's ack)
-- Returns {status, sequence, 1 where this id was pushed before}.
local kind, name, event, source, id, last, reply = unpack(ARGV)
local time = redis.call('TIME')
local state = redis.call('HMGET', KEYS[1], 'epoch', 'settles')
local epoch = state[1]
if not epoch then
  epoch = string.format('%x%05x', time[1], time[2])
  state[2] = tostring(time[1] + 5)
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'number', 0, 'settles', state[2])
end
local channel, status = 'gridcast:all', 'sent'
if kind == 'topic' then
  channel = 'gridcast:topic:' .. name
elseif kind == 'sid' then
  local node = redis.call('HGET', 'gridcast:sid:' .. name, 'node')
  if not node then
    if tonumber(state[2] or 0) > tonumber(time[1]) then return {'settling', '', 0} end
    return {'unknown', '', 0}
  end
  channel = node ~= '' and 'gridcast:node:' .. node
  if not channel or redis.call('EXISTS', channel) == 0 then status = last == '' and 'queued' or 'dropped' end
end
local once = 'gridcast:once:' .. kind .. ':' .. name .. ' ' .. source .. ' ' .. id
if last == '' then
  local before = redis.call('GET', once)
  if before then return {status, before, 1} end
end
local number = redis.call('HINCRBY', KEYS[1], 'number', 1)
local sequence = epoch .. '-' .. number
if last == '' then
  local history = 'gridcast:history:' .. epoch .. ':' .. kind .. ':' .. name
  local latest = redis.call('XREVRANGE', history, '+', '-', 'COUNT', 1)[1]
  local previous = latest and string.match(latest[1], '^%d+') or '0'
  redis.call('XADD', history, 'MAXLEN', '~', 256, number .. '-0', 'previous', previous, 'reply', reply, 'event', event)
  redis.call('EXPIRE', history, 240)
  redis.call('SET', once, sequence, 'EX', 240)
end
if channel then
  local head = table.concat({sequence, kind, name, last, reply}, '\\t')
  local heard = redis.call('PUBLISH', channel, head .. '\\n' .. event)
  if kind == 'sid' and heard == 0 then status = last == '' and 'queued' or 'dropped' end
end
return {status, sequence, 0}
""")


@dataclass(frozen=True, slots=True)
class PublishResult:
    """What became of a push.

    `sent`: to a sid, the replica that holds it was told; to a topic or to all, whoever listens was told.
    `queued`: the socket is away; the event is kept until it returns or its resume window ends.
    `dropped`: the socket is away and a last value is not kept.
    `unknown`: there is no such sid, nothing was pushed.
    """

    status: PublishStatus
    id: str
    sequence: str | None
    duplicate: bool = False


class Publisher:
    """Sends events. Every method raises Unavailable while Redis is away and BadRequest for what is against the rules.

    An event with the same source, id and target is pushed once in four minutes: a caller who does not know what became
    of a push repeats it with the same `id`.

    `last_value` is for states of which only the newest matters (progress). Such an event is not kept for replay, and in
    the queue of a slow client it takes the place of an older one of the same source and type; give a key instead of
    True where several run side by side (one for each upload).
    """

    def __init__(self, redis: RedisClient, source: str) -> None:
        self.redis = redis
        self.source = events.validate_source(source)

    @classmethod
    def from_url(cls, url: str, source: str) -> Self:
        """A Push with its own client, which connects when first used. `source` names the service: `/upload`."""
        return cls(RedisClient.from_url(url), source)

    async def send(
        self,
        sid: str,
        type: str,  # noqa: A002  # CloudEvents' own words, here and below
        data: Any,
        *,
        id: str | None = None,  # noqa: A002
        conflation_key: bool | str = False,
        ack_channel: str = "",
    ) -> PublishResult:
        """To one socket. `reply` names a channel that is told of the client's ack."""
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
        """To every socket that has subscribed to `topic`."""
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
        """To every socket."""
        event = self._build_event(type, data, id)
        return await self._publish(("all", ""), event, self._build_conflation_key(event, conflation_key))

    async def publish_invalidation(self, folder: str, filename: str) -> None:
        """Tell the replicas that serve readers that what they know of one file is old."""
        await self.redis.execute("PUBLISH", INVALIDATION_CHANNEL, json.dumps([folder, filename]))

    async def ping(self) -> None:
        """Return where Redis answers."""
        await self.redis.ping()

    async def aclose(self) -> None:
        """Close the client."""
        await self.redis.aclose()

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
            source=self.source,
            type=events.validate_event_type(event_type),
            time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            data=data,
            topic=topic,
        )

    def _build_conflation_key(self, event: events.CloudEvent, key: bool | str) -> str:  # noqa: FBT001  # True is the key of who has but one
        if not key:
            return ""
        return f"{self.source} {event.type} {events.validate_event_id(key) if isinstance(key, str) else ''}"

    async def _publish(
        self, target: tuple[str, str], event: events.CloudEvent, conflation_key: str, ack_channel: str = ""
    ) -> PublishResult:
        args = (*target, events.encode_event(event), self.source, event.id, conflation_key, ack_channel)
        status, sequence, duplicate = await self.redis.eval(PUBLISH_EVENT, (SEQUENCE_KEY,), args)
        metrics.PUSHES.labels(status.decode()).inc()
        if status == b"settling":
            raise ServiceUnavailable("Redis has just restarted and its sessions are not registered yet")
        return PublishResult(status.decode(), event.id, sequence.decode() or None, bool(duplicate))
