"""How a socket gets in: admission, a new sid or the old one, and what it has missed. It accepts nothing and sends nothing:
the caller does, once it holds an Entry.
"""

import base64
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from services.common.errors import NotFound, Unavailable
from services.common.events import Position
from services.common.origins import Origins
from services.common.web import Scope
from services.socket import handshake
from services.socket.attendance import Attendance
from services.socket.buckets import Bucket
from services.socket.delivery import Delivery
from services.socket.descriptors import room_for
from services.socket.directory import Claim, Directory, fingerprint
from services.socket.handshake import Wish
from services.socket.history import Entry as Replayed
from services.socket.history import History, Missed, Target
from services.socket.hub import GAP, Hub, Peer, Sink
from services.socket.settings import SocketSettings

PATHS = frozenset({"/", "/ws"})


@dataclass(frozen=True, slots=True)
class Entry:
    """A socket that may enter. It is in the hub, where it holds what comes. `lives` and `epoch`: the state of Redis in
    which its history was read.
    """

    peer: Peer
    secret: str
    recovered: bool
    missed: Sequence[Replayed]
    epoch: str
    lives: int


def new_sid() -> str:
    """32 random bytes in base32: never given twice, and nobody guesses one."""
    return base64.b32encode(secrets.token_bytes(32)).decode().rstrip("=")


def _place(claim: Claim, said: str) -> Position | None:
    """Where a client that returns stands, or None where that cannot be known or is nothing to go on from."""
    after = Position.parse(said or claim.noted)
    gap = Position.parse(claim.noted.removeprefix(GAP)) if claim.noted.startswith(GAP) else None
    if after is None or after.epoch != claim.epoch or after.number > claim.number:
        return None
    # It was told of a gap that ends there, and stands before it: it has not heard that.
    return None if gap is not None and gap.epoch == after.epoch and after.number < gap.number else after


class Entrance:
    """The door of one replica. `entering` counts who is in it."""

    def __init__(
        self,
        settings: SocketSettings,
        hub: Hub,
        directory: Directory,
        history: History,
        delivery: Delivery,
        attendance: Attendance,
    ) -> None:
        self._settings = settings
        self._hub = hub
        self._directory = directory
        self._history = history
        self._delivery = delivery
        self._attendance = attendance
        self._origins = Origins(settings.allowed_origins)
        self._admissions = Bucket(settings.admissions, 2 * settings.admissions, time.monotonic())
        self._room = room_for(settings.max_sockets)
        self._inside = 0
        self.entering = 0
        self.closed = False

    async def enter(self, scope: Scope, query: bytes, sink: Sink) -> Entry:
        """Let a socket in, or raise what its handshake is answered with."""
        self._admit(scope)
        wish = handshake.read(query, self._settings.max_topics)
        self._inside += 1
        self.entering += 1
        try:
            if wish.sid:
                entry = await self._resume(wish, sink)
                if entry is not None:
                    return entry
            return await self._begin(wish, sink)
        except BaseException:
            self._inside -= 1
            raise
        finally:
            self.entering -= 1

    def leave(self, peer: Peer) -> None:
        """A socket that had entered is gone."""
        self._inside -= 1
        self._attendance.leave(peer)

    def _admit(self, scope: Scope) -> None:
        if scope["path"] not in PATHS:
            raise NotFound("sockets connect to / and /ws")
        handshake.check_origin(handshake.headers_of(scope["headers"]), self._origins)
        if self.closed:
            raise Unavailable("this replica is going away", retry_after=1)
        if self._inside >= self._room:
            raise Unavailable("this replica has all the sockets that it can hold", retry_after=5)
        if not self._admissions.take(time.monotonic()):
            raise Unavailable("too many handshakes at once", retry_after=1)
        if not self._delivery.live:
            raise Unavailable("Redis is away")

    async def _begin(self, wish: Wish, sink: Sink) -> Entry:
        secret = secrets.token_urlsafe(24)
        peer = Peer(new_sid(), fingerprint(secret), sink, wish.meta)
        peer.topics = dict.fromkeys(wish.topics, 0)
        # In the hub before it is in the directory: nothing can be pushed to it that it does not hold.
        self._hub.connect(peer)
        lives = self._delivery.lives
        try:
            for topic in wish.topics:
                await self._delivery.follow(topic)
            claim = self._check(await self._directory.claim(peer.sid, "", peer.secret, wish.meta, wish.topics))
        except BaseException:
            self._attendance.leave(peer)
            raise
        peer.since = claim.since
        peer.topics.update(claim.topics)
        peer.position = claim.number
        peer.proved = f"{claim.epoch}-{claim.number}"
        return Entry(peer, secret, recovered=False, missed=(), epoch=claim.epoch, lives=lives)

    async def _resume(self, wish: Wish, sink: Sink) -> Entry | None:
        """The sid again, with what was missed. None where the secret opens nothing (any more)."""
        secret = secrets.token_urlsafe(24)
        mine = fingerprint(secret)
        try:
            claim = await self._directory.claim(wish.sid, fingerprint(wish.secret), mine, wish.meta, wish.topics)
        except BaseException:
            self._attendance.never_came(wish.sid, mine)
            raise
        if claim is None:
            return None
        peer = Peer(wish.sid, mine, sink, claim.meta, claim.since)
        peer.topics = dict(claim.topics)
        peer.confirmed = False
        self._attendance.returned(peer)
        before = self._hub.connect(peer)
        if before is not None:
            before.sink.close(1008, "resumed elsewhere")
        lives = self._delivery.lives
        after = _place(claim, wish.after)
        peer.position = claim.number if after is None else after.number
        peer.proved = claim.noted
        try:
            self._check(claim)
            for topic in claim.topics:
                await self._delivery.follow(topic)
            missed = await self.missed(peer)
        except BaseException:
            self._attendance.leave(peer)
            raise
        recovered = after is not None and not missed.lost
        if recovered:
            peer.proved = str(after)
        else:
            peer.tell(f"{claim.epoch}-{claim.number}")
        return Entry(peer, secret, recovered=recovered, missed=missed.entries, epoch=claim.epoch, lives=lives)

    def _check(self, claim: Claim | None) -> Claim:
        """The claim, if it was made in the memory of Redis that events arrive from."""
        if claim is None or claim.epoch != self._delivery.epoch or not self._delivery.live:
            raise Unavailable("Redis is away")
        return claim

    async def missed(self, peer: Peer) -> Missed:
        """What came for a peer after its position."""
        number = peer.position
        targets = [Target("all", "", number), Target("sid", peer.sid, number)]
        targets += [Target("topic", topic, max(number, since)) for topic, since in peer.topics.items()]
        return await self._history.after(self._delivery.epoch, targets)
