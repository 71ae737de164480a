"""The sessions of all replicas in Redis: acquires, refreshes, lists and deletes them.

Every method of SessionStore raises ServiceUnavailable while Redis is unavailable. A record expires `RECORD_TTL_SECONDS` after its
last refresh or, once its connection has ended, after the resume window.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gridcast._bus.events import StreamPosition
from gridcast._bus.keys import SEQUENCE_KEY, SESSIONS_KEY, node_key, session_key
from gridcast._bus.redis import RedisArgument, write_refusal
from services.common.aio.batcher import Batcher
from services.common.bus.redis import RedisClient
from services.common.errors import BadRequest
from services.socket import scripts

NODE_TTL_SECONDS = 15
"""A replica whose heartbeat has been missing for this long is dead; its sids must not be `online` for more than 20 s."""
SETTLING_SECONDS = 5
"""Seconds after a loss of Redis's data, or after NODE_TTL_SECONDS without a heartbeat, in which an unknown sid is answered with
`settling`. The push script has the same figures.
"""
RESUME_WINDOW_SECONDS = 120
"""A session can be resumed for this long after its connection has ended. Histories are kept twice as long, so that a loss which is
noticed only after two missed pings (40 s) is covered.
"""
RECORD_TTL_SECONDS = 150
"""Lifetime of a connected session's record. It is refreshed every 30 s, so that the sids of a killed replica can be resumed for at
least the resume window.
"""
CLOSED_MARK_TTL_SECONDS = 600
"""Lifetime of the mark of a closed session: longer than a replica can be cut off from Redis without being restarted."""
RECORDS_PER_CALL = 200
"""Records in one call: about 1 ms of Redis."""
READS_PER_CALL = 50
"""Records read in one call: with 100 topics and the largest `meta` a record has 20 KB."""
ACQUIRES_PER_CALL = 64
"""Sessions acquired in one call, each with up to 100 topics: at most a few ms of Redis."""


@dataclass(frozen=True, slots=True)
class AcquiredSession:
    """A session that a connection has acquired. `epoch` and `offset` are the stream's at that moment.

    `claim` is the number of this acquisition: of two connections the one with the higher claim holds the session.

    `stored_position` is how far the client had got with its last connection, in the format of `SocketClient.confirmed_position`.
    """

    epoch: str
    offset: int
    stored_position: str = ""
    meta: str = ""
    connected_at: int = 0
    claim: int = 0
    topics: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """What Redis keeps of a session that is connected here."""

    sid: str
    secret_hash: str
    claim: int
    position: str
    connected_at: int
    meta: str
    topics: dict[str, int]


@dataclass(frozen=True, slots=True)
class Presence:
    """The public state of one sid. `node` is empty while it is away; times are Unix times in seconds."""

    sid: str
    online: bool
    node: str
    connected_at: int
    disconnected_at: int | None
    topics: list[str]
    meta: Any

    def as_away(self) -> "Presence":
        """The same for a sid that no replica holds."""
        return replace(self, online=False, node="")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The reply to a heartbeat: the stream's position, Redis's Unix time in seconds, whether the replica's key had not expired, and
    why Redis refuses writes, or an empty string.
    """

    position: StreamPosition
    clock: int
    known: bool
    refusal: str


def parse_meta(text: str) -> Any:
    """The value of a client's `meta`, which its handshake has checked; None where it gave none."""
    return json.loads(text) if text else None


def hash_secret(secret: str) -> str:
    """The SHA-256 of a resume secret. Redis keeps only this, so that a reader of Redis cannot resume a session."""
    return hashlib.sha256(secret.encode()).hexdigest()


class SessionStore:
    """The sessions in Redis, as the replica `node` reads and writes them."""

    def __init__(self, redis: RedisClient, node: str, max_topics: int) -> None:
        self._redis = redis
        self._max_topics = max_topics
        self.node = node
        self._node_key = node_key(node)
        self._acquire_batcher = Batcher(self._acquire_batch, ACQUIRES_PER_CALL)

    async def aclose(self) -> None:
        """Stop acquiring sessions."""
        await self._acquire_batcher.aclose()

    async def register_node(self, run_id: str, *, again: bool) -> tuple[StreamPosition, int]:
        """Register this replica after it has connected to the Redis process `run_id`; `again` if it was registered before.

        Returns the stream's position and Redis's Unix time in seconds. Nothing is written, and no write refused, where Redis has
        kept its data.
        """
        epoch, number, clock = await self._redis.eval(
            scripts.REGISTER_NODE,
            (SEQUENCE_KEY, self._node_key),
            (run_id, NODE_TTL_SECONDS, SETTLING_SECONDS, int(again)),
        )
        return StreamPosition(epoch.decode(), int(number)), int(clock)

    async def heartbeat(self) -> Heartbeat:
        """Renew the key of this replica."""
        epoch, number, clock, known, error = await self._redis.eval(
            scripts.HEARTBEAT, (SEQUENCE_KEY, self._node_key), (NODE_TTL_SECONDS, SETTLING_SECONDS)
        )
        refusal = (write_refusal(error.decode()) or "Redis refuses writes") if error else ""
        return Heartbeat(StreamPosition(epoch.decode(), int(number)), int(clock), bool(known), refusal)

    async def acquire(
        self, sid: str, presented_hash: str, new_hash: str, meta: str, topics: Sequence[str]
    ) -> AcquiredSession | None:
        """Resume `sid` with the secret of its last connection, or create it if `presented_hash` is empty.

        Returns None if the secret is not valid. Raises BadRequest for too many topics. Batches calls made while one is in flight.
        """
        epoch, number, now, reply = await self._acquire_batcher(
            (sid, presented_hash, new_hash, meta, len(topics), *topics)
        )
        match reply:
            case 0:
                return None
            case 1:
                raise BadRequest(f"too many topics: at most {self._max_topics} per connection")
            case [position, stored_meta, claim, *rest]:
                pairs = {topic.decode(): int(since) for topic, since in zip(rest[::2], rest[1::2], strict=True)}
                return AcquiredSession(
                    epoch.decode(), int(number), position.decode(), stored_meta.decode(), int(now), int(claim), pairs
                )
        raise TypeError(f"unexpected reply of the acquire_sessions script: {reply!r}")

    async def _acquire_batch(
        self, requests: Sequence[Sequence[RedisArgument]]
    ) -> list[tuple[bytes, bytes, bytes, Any]]:
        args = [arg for request in requests for arg in request]
        epoch, number, now, replies = await self._redis.eval(
            scripts.ACQUIRE_SESSIONS,
            (SEQUENCE_KEY, SESSIONS_KEY),
            (self.node, self._max_topics, RECORD_TTL_SECONDS, *args),
        )
        return [(epoch, number, now, reply) for reply in replies]

    async def confirm_secrets(self, confirmations: Sequence[tuple[str, str]]) -> None:
        """Revoke the previous secrets of these sessions (sid, hash of the new secret): their clients hold the new ones."""
        for start in range(0, len(confirmations), RECORDS_PER_CALL):
            batch = confirmations[start : start + RECORDS_PER_CALL]
            await self._redis.eval(scripts.CONFIRM_SECRETS, (), [arg for confirmation in batch for arg in confirmation])

    async def set_topic(self, sid: str, secret_hash: str, topic: str, *, subscribed: bool) -> tuple[str, int]:
        """Store that a session subscribes to or unsubscribes from a topic. Returns the stream's epoch and number."""
        args = (secret_hash, topic, "1" if subscribed else "0")
        epoch, number = await self._redis.eval(scripts.SET_TOPIC, (SEQUENCE_KEY, session_key(sid)), args)
        return epoch.decode(), int(number)

    async def refresh(self, records: Sequence[SessionRecord]) -> tuple[list[str], list[str]]:
        """Refresh the records of sessions that are connected here, and restore those that Redis has lost.

        Returns the sids that another connection has resumed, and the sids that an operator has closed.
        """
        moved: list[str] = []
        closed: list[str] = []
        for start in range(0, len(records), RECORDS_PER_CALL):
            batch = records[start : start + RECORDS_PER_CALL]
            args = [arg for record in batch for arg in (record.sid, record.secret_hash, record.position, record.claim)]
            missing_sids, moved_sids = await self._redis.eval(
                scripts.REFRESH_SESSIONS, (), (self.node, RECORD_TTL_SECONDS, *args)
            )
            moved += [sid.decode() for sid in moved_sids]
            missing = {sid.decode() for sid in missing_sids}
            if missing:
                encoded = [_encode_record(record) for record in batch if record.sid in missing]
                closed_sids = await self._redis.eval(
                    scripts.RESTORE_SESSIONS, (SESSIONS_KEY,), (self.node, RECORD_TTL_SECONDS, *encoded)
                )
                closed += [sid.decode() for sid in closed_sids]
        return moved, closed

    async def mark_away(self, disconnects: Sequence[tuple[str, str, str]]) -> None:
        """Mark sessions (sid, secret hash, position) as away: they can be resumed until the resume window ends.

        An empty position leaves the stored one.
        """
        for start in range(0, len(disconnects), RECORDS_PER_CALL):
            args = [arg for disconnect in disconnects[start : start + RECORDS_PER_CALL] for arg in disconnect]
            await self._redis.eval(scripts.MARK_AWAY, (), (RESUME_WINDOW_SECONDS, *args))

    async def discard(self, sessions: Sequence[tuple[str, str]]) -> None:
        """Delete sessions (sid, secret hash) that no client is going to resume."""
        for start in range(0, len(sessions), RECORDS_PER_CALL):
            args = [arg for session in sessions[start : start + RECORDS_PER_CALL] for arg in session]
            await self._redis.eval(scripts.DISCARD_SESSIONS, (SEQUENCE_KEY, SESSIONS_KEY), args)

    async def delete(self, sid: str) -> bool:
        """Delete a session for good and have its connection closed. Returns False if there is none."""
        keys = (SEQUENCE_KEY, session_key(sid), SESSIONS_KEY)
        return bool(await self._redis.eval(scripts.DELETE_SESSION, keys, (sid, CLOSED_MARK_TTL_SECONDS)))

    async def find(self, sid: str) -> Presence | None:
        """The presence of one sid, or None if there is none."""
        return next(iter(await self.find_many([sid])), None)

    async def list_sids(self, after: str, limit: int) -> list[str]:
        """Up to `limit` sids that are greater than `after`, in ascending order."""
        start = f"({after}" if after else "-"
        reply = await self._redis.execute("ZRANGE", SESSIONS_KEY, start, "+", "BYLEX", "LIMIT", 0, limit)
        return [sid.decode() for sid in reply]

    async def prune_expired(self, after: str, limit: int) -> str:
        """Remove expired sids from the list of all, examining `limit` of them past `after`. Returns where the next call starts."""
        cursor = await self._redis.eval(scripts.PRUNE_SESSIONS, (SESSIONS_KEY,), (after, limit))
        return str(cursor.decode())

    async def publish_ack(self, channel: str, sid: str, event_id: str) -> None:
        """Publish a client's ack of an event on the channel of the replica that waits for it."""
        await self._redis.execute("PUBLISH", channel, json.dumps({"type": "ack", "sid": sid, "id": event_id}))

    async def find_many(self, sids: Iterable[str]) -> list[Presence]:
        """The presences of these sids, without those that have none."""
        requested = list(sids)
        found: list[Presence] = []
        for start in range(0, len(requested), READS_PER_CALL):
            batch = requested[start : start + READS_PER_CALL]
            rows = await self._redis.eval(scripts.GET_SESSIONS, (), batch)
            found += [_parse_presence(*row) for row in rows]
        return found


def _encode_record(record: SessionRecord) -> str:
    members = {
        "sid": record.sid,
        "resume": record.secret_hash,
        "claim": record.claim,
        "position": record.position,
        "since": record.connected_at,
    }
    return json.dumps({**members, "meta": record.meta, "topics": record.topics})


def _parse_presence(sid: bytes, node_alive: int, fields: list[bytes]) -> Presence:
    members = {name.decode(): value.decode() for name, value in zip(fields[::2], fields[1::2], strict=True)}
    return Presence(
        sid=sid.decode(),
        online=bool(node_alive),
        node=members.get("node", "") if node_alive else "",
        connected_at=int(members.get("since", "0")),
        disconnected_at=int(members["left"]) if "left" in members else None,
        topics=sorted(name[2:] for name in members if name.startswith("t:")),
        meta=parse_meta(members.get("meta", "")),
    )
