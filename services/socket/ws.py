"""A WebSocket from its handshake to its end: admission, sid, replay, commands. It writes through the hub's peers and asks
the directory; it knows no Redis key.
"""

import asyncio
import base64
import json
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from services.common.errors import BadRequest, GridcastError, Internal, NotFound, Unavailable
from services.common.events import Position
from services.common.web import Receive, Scope, Send, send_problem
from services.socket import commands, handshake
from services.socket.buckets import Bucket
from services.socket.delivery import Delivery
from services.socket.directory import Claim, Directory, fingerprint
from services.socket.frames import Connection, text_frame
from services.socket.handshake import Wish
from services.socket.history import Entry as Replayed
from services.socket.history import History, Missed, Target
from services.socket.hub import Hub, Peer
from services.socket.settings import SocketSettings

PATHS = frozenset({"/", "/ws"})
PONG = text_frame(b'{"pong":true}')

_log = logging.getLogger("gridcast.socket")


@dataclass(frozen=True, slots=True)
class Entry:
    """A socket that may enter: its first frame, what it has missed, and the state of Redis that this was read in."""

    peer: Peer
    epoch: str
    first: bytes
    missed: Sequence[Replayed]
    lives: int


def new_sid() -> str:
    """32 random bytes in base32: never given twice, and nobody guesses one."""
    return base64.b32encode(secrets.token_bytes(32)).decode().rstrip("=")


class Sockets:
    """The WebSocket side of the service, as an ASGI application."""

    def __init__(
        self, settings: SocketSettings, hub: Hub, directory: Directory, history: History, delivery: Delivery
    ) -> None:
        self._settings = settings
        self._hub = hub
        self._directory = directory
        self._history = history
        self._delivery = delivery
        self._origins = frozenset(
            origin.strip().lower() for origin in settings.allowed_origins.split(",") if origin.strip()
        )
        self._admissions = Bucket(settings.admissions, 2 * settings.admissions, time.monotonic())
        self._entering = 0
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI, for scopes of type `websocket`."""
        connection: Connection = scope["extensions"]["gridcast"]
        await receive()
        self._entering += 1
        try:
            entry = await self._enter(scope, connection)
        except GridcastError as error:
            await _refuse(send, error)
            return
        except Exception:  # noqa: BLE001  # whatever it is, the client gets an answer and the log the rest
            _log.exception("unexpected fault")
            await _refuse(send, Internal())
            return
        finally:
            self._entering -= 1
        began = time.monotonic()
        code = 1006
        try:
            offered = handshake.SUBPROTOCOL in scope["subprotocols"]
            await send({"type": "websocket.accept", "subprotocol": handshake.SUBPROTOCOL if offered else None})
            await self._begin(entry, connection)
            code = await self._converse(entry.peer, connection, receive)
        except Unavailable:
            connection.close(1012, "try again")
            code = 1012
        except OSError:
            pass  # gone before it was accepted
        except Exception:  # noqa: BLE001  # whatever it is, the client gets an answer and the log the rest
            _log.exception("unexpected fault")
            connection.close(1011, "the server failed")
            code = 1011
        finally:
            self._delivery.leave(entry.peer)
            fields = {"sid": entry.peer.sid, "code": code, "seconds": round(time.monotonic() - began, 3)}
            _log.info("socket closed", extra={"fields": fields})

    # Entering.

    def _admit(self, scope: Scope) -> None:
        if scope["path"] not in PATHS:
            raise NotFound("sockets connect to / and /ws")
        handshake.check_origin(handshake.headers_of(scope["headers"]), self._origins)
        if self.draining:
            raise Unavailable("this replica is going away", retry_after=1)
        if len(self._hub) + self._entering > self._settings.max_sockets:
            raise Unavailable("this replica has all the sockets that it can hold", retry_after=5)
        if not self._admissions.take(time.monotonic()):
            raise Unavailable("too many handshakes at once", retry_after=1)
        if not self._delivery.live:
            raise Unavailable("Redis is away")

    async def _enter(self, scope: Scope, connection: Connection) -> Entry:
        """Admit, claim a sid, read what was missed. The peer is in the hub and holds what comes until `_begin`."""
        self._admit(scope)
        wish = handshake.read(connection.query, self._settings.max_topics)
        secret = secrets.token_urlsafe(24)
        if wish.sid:
            entry = await self._resume(wish, secret, connection)
            if entry is not None:
                return entry
        peer = Peer(new_sid(), fingerprint(secret), connection, wish.meta)
        peer.topics = dict.fromkeys(wish.topics, 0)
        # In the hub before it is in the directory: nothing can be pushed to it that it does not hold.
        self._hub.connect(peer)
        lives = self._delivery.lives
        try:
            for topic in wish.topics:
                await self._delivery.follow(topic)
            claim = await self._directory.claim(peer.sid, "", peer.secret, wish.meta, wish.topics)
            if claim is None:
                raise Unavailable("Redis is away")
            self._check(claim)
        except GridcastError:
            self._delivery.leave(peer)
            raise
        peer.since = claim.since
        peer.topics.update(claim.topics)
        peer.position = claim.number
        peer.proved = f"{claim.epoch}-{claim.number}"
        return Entry(peer, claim.epoch, _first(peer, secret, claim.epoch, recovered=False), [], lives)

    async def _resume(self, wish: Wish, secret: str, connection: Connection) -> Entry | None:
        presented, mine = fingerprint(wish.secret), fingerprint(secret)
        claim = await self._directory.claim(wish.sid, presented, mine, wish.meta, wish.topics)
        if claim is None:
            return None
        peer = Peer(wish.sid, mine, connection, claim.meta, claim.since)
        peer.topics = dict(claim.topics)
        peer.confirmed = False
        before = self._hub.connect(peer)
        if before is not None:
            before.sink.close(1008, "resumed elsewhere")
        lives = self._delivery.lives
        after = Position.parse(wish.after) if wish.after else claim.noted
        known = after is not None and after.epoch == claim.epoch and after.number <= claim.number
        peer.position = after.number if after is not None and known else claim.number
        peer.proved = str((after if known else claim.noted) or Position(claim.epoch, claim.number))
        try:
            self._check(claim)
            for topic in claim.topics:
                await self._delivery.follow(topic)
            missed = await self._missed(peer)
        except GridcastError:
            self._delivery.leave(peer)
            raise
        first = _first(peer, secret, claim.epoch, recovered=known and not missed.lost)
        return Entry(peer, claim.epoch, first, missed.entries, lives)

    def _check(self, claim: Claim) -> None:
        if claim.epoch != self._delivery.epoch or not self._delivery.live:
            raise Unavailable("Redis is away")

    async def _missed(self, peer: Peer) -> Missed:
        number = peer.position
        targets = [Target("all", "", number), Target("sid", peer.sid, number)]
        targets += [Target("topic", topic, max(number, since)) for topic, since in peer.topics.items()]
        return await self._history.after(self._delivery.epoch, targets)

    async def _begin(self, entry: Entry, connection: Connection) -> None:
        """The first frame, what was missed at the client's pace, then what came meanwhile."""
        peer, lives = entry.peer, entry.lives
        connection.write(entry.first)
        await self._replay(peer, connection, entry.missed)
        # Redis came back while this socket was entering: those that were there have been caught up, this one was not.
        while lives != self._delivery.lives:
            lives = self._delivery.lives
            if self._delivery.epoch != entry.epoch:
                raise Unavailable("Redis has begun anew")
            missed = await self._missed(peer)
            if missed.lost:
                self._delivery.resync(peer, "some events are lost")
            await self._replay(peer, connection, missed.entries)
        peer.release()
        connection.on_ping = lambda: self._pinged(peer)
        connection.on_pong = lambda: self._ponged(peer)
        if not peer.confirmed:
            connection.ping_now()

    async def _replay(self, peer: Peer, connection: Connection, entries: Sequence[Replayed]) -> None:
        for entry in entries:
            try:
                message = self._delivery.replayed(entry)
            except ValueError:
                continue
            await connection.drained()
            peer.replay(message)

    def _pinged(self, peer: Peer) -> None:
        peer.pinged = f"{self._delivery.epoch}-{peer.position}"

    def _ponged(self, peer: Peer) -> None:
        if peer.pinged:
            peer.proved = peer.pinged
        if not peer.confirmed:
            peer.confirmed = True
            self._delivery.confirm(peer)

    # Conversing.

    async def _converse(self, peer: Peer, connection: Connection, receive: Receive) -> int:
        rate = self._settings.message_rate
        clock = asyncio.get_running_loop().time
        allowance = Bucket(rate, 2 * rate, clock())
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return int(message.get("code") or 1005)
            if not allowance.take(clock()):
                connection.close(1008, "too many messages")
                continue
            command = commands.parse(message.get("text"))
            if isinstance(command, commands.Ping):
                connection.write(PONG)
                continue
            try:
                await self._follow(peer, connection, command)
            except GridcastError as error:
                connection.write(_said({"type": "error", "detail": error.detail}))

    async def _follow(self, peer: Peer, connection: Connection, command: commands.Command) -> None:
        match command:
            case commands.Subscribe(topic):
                sequence = await self._subscribe(peer, topic)
                connection.write(_said({"type": "subscribed", "topic": topic, "sequence": sequence}))
            case commands.Unsubscribe(topic):
                self._hub.part(peer, topic)
                await self._directory.topic(peer.sid, peer.secret, topic, join=False)
                connection.write(_said({"type": "unsubscribed", "topic": topic}))
            case commands.Ack(identifier):
                channel = peer.awaited.pop(identifier, None)
                if channel is not None:
                    await self._directory.acked(channel, peer.sid, identifier)
            case commands.Wrong(detail):
                raise BadRequest(detail)

    async def _subscribe(self, peer: Peer, topic: str) -> str:
        """In the hub first, so that nothing is missed between Redis's confirmation and the number that is told."""
        known = peer.topics.get(topic)
        if known is None and len(peer.topics) >= self._settings.max_topics:
            raise BadRequest(f"a socket hears at most {self._settings.max_topics} topics")
        if known is not None:
            return f"{self._delivery.epoch}-{known}"
        self._hub.join(peer, topic, peer.position)
        try:
            await self._delivery.follow(topic)
            epoch, number = await self._directory.topic(peer.sid, peer.secret, topic, join=True)
        except GridcastError:
            self._hub.part(peer, topic)
            raise
        peer.topics[topic] = number
        return f"{epoch}-{number}"

    # Leaving.

    async def drain(self, seconds: float) -> None:
        """Say 1012 to every socket, a few at a time, so that the other replicas are not stormed."""
        self.draining = True
        pause = 0.05
        peers = list(self._hub.peers.values())
        steps = max(1, int(0.8 * seconds / pause))
        step = max(5, -(-len(peers) // steps))
        for start in range(0, len(peers), step):
            for peer in peers[start : start + step]:
                peer.sink.close(1012, "the service restarts")
            await asyncio.sleep(pause)
        for peer in self._hub.peers.values():
            peer.sink.close(1012, "the service restarts")


def _first(peer: Peer, secret: str, epoch: str, *, recovered: bool) -> bytes:
    sequence = f"{epoch}-{peer.position}"
    return _said({"sid": peer.sid, "resume": f"{peer.sid}.{secret}", "sequence": sequence, "recovered": recovered})


def _said(members: dict[str, object]) -> bytes:
    return text_frame(
        json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    )


async def _refuse(send: Send, error: GridcastError) -> None:
    """Answer the handshake as an HTTP request (the `websocket.http.response` extension of ASGI)."""

    async def as_handshake(message: dict[str, object]) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    await send_problem(as_handshake, error)  # type: ignore[arg-type]
