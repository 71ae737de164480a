"""Who is connected, shared by all replicas over Redis: claims a sid, keeps its record, lists and removes records.

It knows Redis and no socket. Every method raises Unavailable while Redis is away.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gridcast._bus.events import StreamPosition
from gridcast._bus.keys import SEQUENCE_KEY, SESSIONS_KEY, node_key, session_key
from gridcast._bus.redis import RedisArgument
from services.common.aio.batcher import Batcher
from services.common.bus.redis import RedisClient
from services.common.errors import BadRequest
from services.socket import scripts

RECORDS_PER_CALL = 200
"""Records in one call: some 1 ms of Redis."""
READS_PER_CALL = 50
"""Records that are read in one call: with 100 topics and all of `meta` each has 20 KB."""
ACQUIRES_PER_CALL = 64
"""Claims in one call, each with up to 100 topics: at most some ms of Redis."""


@dataclass(frozen=True, slots=True)
class AcquiredSession:
    """What a socket was given. `number` is the sequence's at that moment; `noted` is where its last connection stood, in the words
    of `Peer.proved`.
    """

    epoch: str
    offset: int
    stored_position: str = ""
    meta: str = ""
    connected_at: int = 0
    topics: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """What the directory keeps of a connection that is here."""

    sid: str
    secret_hash: str
    position: str
    connected_at: int
    meta: str
    topics: dict[str, int]


@dataclass(frozen=True, slots=True)
class Presence:
    """One sid as everyone may see it. `replica` is empty while it is away; `left` is when it went."""

    sid: str
    online: bool
    node: str
    connected_at: int
    disconnected_at: int | None
    topics: list[str]
    meta: Any


def hash_secret(secret: str) -> str:
    """What the directory keeps of a secret: who reads Redis cannot take a session over."""
    return hashlib.sha256(secret.encode()).hexdigest()


class SessionStore:
    """The records, as this replica (`node`) sees and keeps them."""

    def __init__(self, redis: RedisClient, node: str, max_topics: int) -> None:
        self._redis = redis
        self._max_topics = max_topics
        self.node = node
        self._node_key = node_key(node)
        self._acquire_batcher = Batcher(self._acquire_batch, ACQUIRES_PER_CALL)

    async def aclose(self) -> None:
        """Let nobody in any more."""
        await self._acquire_batcher.aclose()

    async def register_node(self, run_id: str) -> tuple[StreamPosition, int]:
        """After (re)connecting to the Redis process `server`: the place that holds now, and Redis's clock."""
        now, number, clock = await self._redis.eval(scripts.REGISTER_NODE, (SEQUENCE_KEY, self._node_key), (run_id,))
        return StreamPosition(now.decode(), int(number)), int(clock)

    async def heartbeat(self) -> tuple[StreamPosition, int, bool]:
        """Renew this replica's life: the place that holds now, Redis's clock, and whether the replica was not taken for dead."""
        epoch, number, clock, known = await self._redis.eval(scripts.HEARTBEAT, (SEQUENCE_KEY, self._node_key))
        return StreamPosition(epoch.decode(), int(number)), int(clock), bool(known)

    async def acquire(
        self, sid: str, presented_hash: str, new_hash: str, meta: str, topics: Sequence[str]
    ) -> AcquiredSession | None:
        """Take `sid` with the secret of its last connection, or a new one without. None where the secret opens nothing."""
        epoch, number, now, answer = await self._acquire_batcher(
            (sid, presented_hash, new_hash, meta, len(topics), *topics)
        )
        match answer:
            case 0:
                return None
            case 1:
                raise BadRequest(f"too many topics: at most {self._max_topics} per connection")
            case [noted, kept, *rest]:
                pairs = {topic.decode(): int(start) for topic, start in zip(rest[::2], rest[1::2], strict=True)}
                return AcquiredSession(epoch.decode(), int(number), noted.decode(), kept.decode(), int(now), pairs)
        raise TypeError(f"unexpected reply of the acquire_session script: {answer!r}")

    async def _acquire_batch(
        self, requests: Sequence[Sequence[RedisArgument]]
    ) -> list[tuple[bytes, bytes, bytes, Any]]:
        args = [part for one in requests for part in one]
        answer = await self._redis.eval(
            scripts.ACQUIRE_SESSIONS, (SEQUENCE_KEY, SESSIONS_KEY), (self.node, self._max_topics, *args)
        )
        epoch, number, now, answers = answer
        return [(epoch, number, now, one) for one in answers]

    async def confirm_secrets(self, confirmations: Sequence[tuple[str, str]]) -> None:
        """These clients have proved that they hold their new secrets (sid, secret)."""
        for start in range(0, len(confirmations), RECORDS_PER_CALL):
            await self._redis.eval(
                scripts.CONFIRM_SECRETS,
                (),
                [part for one in confirmations[start : start + RECORDS_PER_CALL] for part in one],
            )

    async def set_topic(self, sid: str, secret_hash: str, topic: str, *, subscribed: bool) -> tuple[str, int]:
        """Note that a sid joins or parts; epoch and number at that moment."""
        args = (secret_hash, topic, "1" if subscribed else "0")
        epoch, number = await self._redis.eval(scripts.SET_TOPIC, (SEQUENCE_KEY, session_key(sid)), args)
        return epoch.decode(), int(number)

    async def refresh(self, records: Sequence[SessionRecord]) -> tuple[list[str], list[str]]:
        """Keep the records of connections that are here, make those that Redis forgot. The sids that have moved away, and those
        that were closed for good.
        """
        moved: list[str] = []
        closed: list[str] = []
        for start in range(0, len(records), RECORDS_PER_CALL):
            batch = records[start : start + RECORDS_PER_CALL]
            args = [part for seat in batch for part in (seat.sid, seat.secret_hash, seat.position)]
            missing, gone = await self._redis.eval(scripts.REFRESH_SESSIONS, (), (self.node, *args))
            moved += [sid.decode() for sid in gone]
            forgotten = {sid.decode() for sid in missing}
            if forgotten:
                lines = [_encode_record(seat) for seat in batch if seat.sid in forgotten]
                refused = await self._redis.eval(scripts.RESTORE_SESSIONS, (SESSIONS_KEY,), (self.node, *lines))
                closed += [sid.decode() for sid in refused]
        return moved, closed

    async def mark_away(self, disconnects: Sequence[tuple[str, str, str]]) -> None:
        """These connections (sid, secret, position) are gone. Their sids stay for the resume window."""
        for start in range(0, len(disconnects), RECORDS_PER_CALL):
            await self._redis.eval(
                scripts.MARK_AWAY, (), [part for one in disconnects[start : start + RECORDS_PER_CALL] for part in one]
            )

    async def delete(self, sid: str) -> bool:
        """Forget a sid and have its socket closed. False where there is none."""
        return bool(
            await self._redis.eval(scripts.DELETE_SESSION, (SEQUENCE_KEY, session_key(sid), SESSIONS_KEY), (sid,))
        )

    async def find(self, sid: str) -> Presence | None:
        """One record."""
        return next(iter(await self._get_many([sid])), None)

    async def list_page(self, after: str, limit: int) -> tuple[list[Presence], str | None]:
        """Records in the order of their sids, and the sid after which the next page begins."""
        start = f"({after}" if after else "-"
        sids = await self._redis.execute("ZRANGE", SESSIONS_KEY, start, "+", "BYLEX", "LIMIT", 0, limit)
        names = [sid.decode() for sid in sids]
        return await self._get_many(names), names[-1] if len(names) == limit else None

    async def prune_expired(self, after: str, limit: int) -> str:
        """Take who has ended from the list of all, looking at so many sids past `after`. Where the next sweep goes on."""
        following = await self._redis.eval(scripts.PRUNE_SESSIONS, (SESSIONS_KEY,), (after, limit))
        return str(following.decode())

    async def publish_ack(self, channel: str, sid: str, event_id: str) -> None:
        """Tell who waits on `channel` that the client has handled an event."""
        await self._redis.execute("PUBLISH", channel, json.dumps({"type": "ack", "sid": sid, "id": event_id}))

    async def _get_many(self, sids: Iterable[str]) -> list[Presence]:
        wanted = list(sids)
        found: list[Presence] = []
        for start in range(0, len(wanted), READS_PER_CALL):
            rows = await self._redis.eval(scripts.GET_SESSIONS, (SESSIONS_KEY,), wanted[start : start + READS_PER_CALL])
            found += [_parse_presence(*row) for row in rows]
        return found


def _encode_record(record: SessionRecord) -> str:
    members = {
        "sid": record.sid,
        "resume": record.secret_hash,
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
        meta=json.loads(members["meta"]) if members.get("meta") else None,
    )
