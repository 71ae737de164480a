"""Who is connected, shared by all replicas over Redis: claims a sid, keeps its record, lists and removes records.

It knows Redis and no socket. Every method raises Unavailable while Redis is away.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.common.errors import BadRequest
from services.common.events import Position
from services.common.push import SEQUENCE
from services.common.redis import Argument, Redis
from services.socket import scripts
from services.socket.together import Together

SIDS = "gridcast:sids"
BATCH = 200
"""Records in one call: some 1 ms of Redis."""
LOOKS = 50
"""Records that are read in one call: with 100 topics and all of `meta` each has 20 KB."""
CLAIMS = 64
"""Claims in one call, each with up to 100 topics: at most some ms of Redis."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a socket was given. `number` is the sequence's at that moment; `noted` is where its last connection stood, in the words
    of `Peer.proved`.
    """

    epoch: str
    number: int
    noted: str = ""
    meta: str = ""
    since: int = 0
    topics: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seat:
    """What the directory keeps of a connection that is here."""

    sid: str
    secret: str
    position: str
    since: int
    meta: str
    topics: dict[str, int]


@dataclass(frozen=True, slots=True)
class Presence:
    """One sid as everyone may see it. `replica` is empty while it is away; `left` is when it went."""

    sid: str
    online: bool
    replica: str
    since: int
    left: int | None
    topics: list[str]
    meta: Any


def fingerprint(secret: str) -> str:
    """What the directory keeps of a secret: who reads Redis cannot take a session over."""
    return hashlib.sha256(secret.encode()).hexdigest()


def record(sid: str) -> str:
    """The key of a sid's record."""
    return f"gridcast:sid:{sid}"


class Directory:
    """The records, as this replica (`node`) sees and keeps them."""

    def __init__(self, redis: Redis, node: str, max_topics: int) -> None:
        self._redis = redis
        self._max_topics = max_topics
        self.node = node
        self._alive = f"gridcast:node:{node}"
        self._claims = Together(self._claim, CLAIMS)

    async def aclose(self) -> None:
        """Let nobody in any more."""
        await self._claims.aclose()

    async def adopt(self, server: str) -> tuple[Position, int]:
        """After (re)connecting to the Redis process `server`: the place that holds now, and Redis's clock."""
        now, number, clock = await self._redis.run(scripts.ADOPT, (SEQUENCE, self._alive), (server,))
        return Position(now.decode(), int(number)), int(clock)

    async def beat(self) -> tuple[Position, int, bool]:
        """Renew this replica's life: the place that holds now, Redis's clock, and whether the replica was not taken for dead."""
        epoch, number, clock, known = await self._redis.run(scripts.BEAT, (SEQUENCE, self._alive))
        return Position(epoch.decode(), int(number)), int(clock), bool(known)

    async def claim(self, sid: str, presented: str, secret: str, meta: str, topics: Sequence[str]) -> Claim | None:
        """Take `sid` with the secret of its last connection, or a new one without. None where the secret opens nothing."""
        epoch, number, now, answer = await self._claims((sid, presented, secret, meta, len(topics), *topics))
        match answer:
            case 0:
                return None
            case 1:
                raise BadRequest(f"a socket hears at most {self._max_topics} topics")
            case [noted, kept, *rest]:
                pairs = {topic.decode(): int(start) for topic, start in zip(rest[::2], rest[1::2], strict=True)}
                return Claim(epoch.decode(), int(number), noted.decode(), kept.decode(), int(now), pairs)
        raise TypeError(f"not an answer to a claim: {answer!r}")

    async def _claim(self, wanted: Sequence[Sequence[Argument]]) -> list[tuple[bytes, bytes, bytes, Any]]:
        args = [part for one in wanted for part in one]
        answer = await self._redis.run(scripts.CLAIM, (SEQUENCE, SIDS), (self.node, self._max_topics, *args))
        epoch, number, now, answers = answer
        return [(epoch, number, now, one) for one in answers]

    async def confirm(self, proved: Sequence[tuple[str, str]]) -> None:
        """These clients have proved that they hold their new secrets (sid, secret)."""
        for start in range(0, len(proved), BATCH):
            await self._redis.run(scripts.CONFIRM, (), [part for one in proved[start : start + BATCH] for part in one])

    async def topic(self, sid: str, secret: str, topic: str, *, join: bool) -> tuple[str, int]:
        """Note that a sid joins or parts; epoch and number at that moment."""
        args = (secret, topic, "1" if join else "0")
        epoch, number = await self._redis.run(scripts.TOPIC, (SEQUENCE, record(sid)), args)
        return epoch.decode(), int(number)

    async def refresh(self, seats: Sequence[Seat]) -> tuple[list[str], list[str]]:
        """Keep the records of connections that are here, make those that Redis forgot. The sids that have moved away, and those
        that were closed for good.
        """
        moved: list[str] = []
        closed: list[str] = []
        for start in range(0, len(seats), BATCH):
            batch = seats[start : start + BATCH]
            args = [part for seat in batch for part in (seat.sid, seat.secret, seat.position)]
            missing, gone = await self._redis.run(scripts.REFRESH, (), (self.node, *args))
            moved += [sid.decode() for sid in gone]
            forgotten = {sid.decode() for sid in missing}
            if forgotten:
                lines = [_line(seat) for seat in batch if seat.sid in forgotten]
                refused = await self._redis.run(scripts.REGISTER, (SIDS,), (self.node, *lines))
                closed += [sid.decode() for sid in refused]
        return moved, closed

    async def leave(self, left: Sequence[tuple[str, str, str]]) -> None:
        """These connections (sid, secret, position) are gone. Their sids stay for the resume window."""
        for start in range(0, len(left), BATCH):
            await self._redis.run(scripts.LEAVE, (), [part for one in left[start : start + BATCH] for part in one])

    async def remove(self, sid: str) -> bool:
        """Forget a sid and have its socket closed. False where there is none."""
        return bool(await self._redis.run(scripts.REMOVE, (SEQUENCE, record(sid), SIDS), (sid,)))

    async def find(self, sid: str) -> Presence | None:
        """One record."""
        return next(iter(await self._look([sid])), None)

    async def page(self, after: str, limit: int) -> tuple[list[Presence], str | None]:
        """Records in the order of their sids, and the sid after which the next page begins."""
        start = f"({after}" if after else "-"
        sids = await self._redis.call("ZRANGE", SIDS, start, "+", "BYLEX", "LIMIT", 0, limit)
        names = [sid.decode() for sid in sids]
        return await self._look(names), names[-1] if len(names) == limit else None

    async def sweep(self, after: str, most: int) -> str:
        """Take who has ended from the list of all, looking at so many sids past `after`. Where the next sweep goes on."""
        following = await self._redis.run(scripts.SWEEP, (SIDS,), (after, most))
        return str(following.decode())

    async def acked(self, channel: str, sid: str, event_id: str) -> None:
        """Tell who waits on `channel` that the client has handled an event."""
        await self._redis.call("PUBLISH", channel, json.dumps({"type": "ack", "sid": sid, "id": event_id}))

    async def _look(self, sids: Iterable[str]) -> list[Presence]:
        wanted = list(sids)
        found: list[Presence] = []
        for start in range(0, len(wanted), LOOKS):
            rows = await self._redis.run(scripts.LOOK, (SIDS,), wanted[start : start + LOOKS])
            found += [_presence(*row) for row in rows]
        return found


def _line(seat: Seat) -> str:
    members = {"sid": seat.sid, "resume": seat.secret, "position": seat.position, "since": seat.since}
    return json.dumps({**members, "meta": seat.meta, "topics": seat.topics})


def _presence(sid: bytes, lives: int, fields: list[bytes]) -> Presence:
    members = {name.decode(): value.decode() for name, value in zip(fields[::2], fields[1::2], strict=True)}
    return Presence(
        sid=sid.decode(),
        online=bool(lives),
        replica=members.get("node", "") if lives else "",
        since=int(members.get("since", "0")),
        left=int(members["left"]) if "left" in members else None,
        topics=sorted(name[2:] for name in members if name.startswith("t:")),
        meta=json.loads(members["meta"]) if members.get("meta") else None,
    )
