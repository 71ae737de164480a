"""How a socket gets in: admission, a new sid or the old one, and what it has missed. It accepts nothing and sends nothing:
the caller does, once it holds an Entry.
"""

import base64
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from services.common.aio.descriptor_limit import raise_descriptor_limit
from services.common.aio.token_bucket import TokenBucket
from services.common.asgi import Scope
from services.common.bus.events import StreamPosition
from services.common.errors import NotFound, ServiceUnavailable
from services.common.http.origins import OriginPolicy
from services.socket import handshake
from services.socket.broker import RedisBroker
from services.socket.disconnect import RESUMED_ELSEWHERE
from services.socket.handshake import ConnectRequest
from services.socket.history import History, HistoryQuery, Recovery
from services.socket.history import HistoryEntry as Replayed
from services.socket.hub import GAP_PREFIX, Hub, Sink, SocketClient
from services.socket.presence import PresenceManager
from services.socket.sessions import AcquiredSession, SessionStore, hash_secret
from services.socket.settings import SocketSettings

WEBSOCKET_PATHS = frozenset({"/", "/ws"})


@dataclass(frozen=True, slots=True)
class AcceptedClient:
    """A socket that may enter. It is in the hub, where it holds what comes. `lives` and `epoch`: the state of Redis in
    which its history was read.
    """

    client: SocketClient
    secret: str
    recovered: bool
    recovered_entries: Sequence[Replayed]
    epoch: str
    generation: int


def new_sid() -> str:
    """32 random bytes in base32: never given twice, and nobody guesses one."""
    return base64.b32encode(secrets.token_bytes(32)).decode().rstrip("=")


def _resume_position(session: AcquiredSession, requested: str) -> StreamPosition | None:
    """Where a client that returns stands, or None where that cannot be known or is nothing to go on from."""
    after = StreamPosition.try_parse(requested or session.stored_position)
    gap = (
        StreamPosition.try_parse(session.stored_position.removeprefix(GAP_PREFIX))
        if session.stored_position.startswith(GAP_PREFIX)
        else None
    )
    if after is None or after.epoch != session.epoch or after.offset > session.offset:
        return None
    # It was told of a gap that ends there, and stands before it: it has not heard that.
    return None if gap is not None and gap.epoch == after.epoch and after.offset < gap.offset else after


class Acceptor:
    """The door of one replica. `entering` counts who is in it."""

    def __init__(
        self,
        settings: SocketSettings,
        hub: Hub,
        sessions: SessionStore,
        history: History,
        broker: RedisBroker,
        presence: PresenceManager,
    ) -> None:
        self._settings = settings
        self._hub = hub
        self._sessions = sessions
        self._history = history
        self._broker = broker
        self._presence = presence
        self._origins = OriginPolicy(settings.allowed_origins)
        self._handshake_limiter = TokenBucket(settings.handshake_rate, 2 * settings.handshake_rate, time.monotonic())
        self._max_clients = raise_descriptor_limit(settings.max_connections)
        self._client_count = 0
        self.pending_handshakes = 0
        self.draining = False

    async def accept(self, scope: Scope, query: bytes, sink: Sink) -> AcceptedClient:
        """Let a socket in, or raise what its handshake is answered with."""
        self._check_admission(scope)
        wish = handshake.parse_connect_request(query, self._settings.max_topics_per_connection)
        self._client_count += 1
        self.pending_handshakes += 1
        try:
            if wish.sid:
                entry = await self._resume_session(wish, sink)
                if entry is not None:
                    return entry
            return await self._create_session(wish, sink)
        except BaseException:
            self._client_count -= 1
            raise
        finally:
            self.pending_handshakes -= 1

    def release(self, client: SocketClient) -> None:
        """A socket that had entered is gone."""
        self._client_count -= 1
        self._presence.mark_away(client)

    def _check_admission(self, scope: Scope) -> None:
        if scope["path"] not in WEBSOCKET_PATHS:
            raise NotFound("no WebSocket endpoint here: use / or /ws")
        handshake.check_origin(handshake.headers_by_name(scope["headers"]), self._origins)
        if self.draining:
            raise ServiceUnavailable("the service is shutting down", retry_after=1)
        if self._client_count >= self._max_clients:
            raise ServiceUnavailable("too many WebSocket connections", retry_after=5)
        if not self._handshake_limiter.try_acquire(time.monotonic()):
            raise ServiceUnavailable("handshake rate limit exceeded", retry_after=1)
        if not self._broker.live:
            raise ServiceUnavailable("Redis is unavailable")

    async def _create_session(self, request: ConnectRequest, sink: Sink) -> AcceptedClient:
        secret = secrets.token_urlsafe(24)
        peer = SocketClient(new_sid(), hash_secret(secret), sink, request.meta)
        peer.topics = dict.fromkeys(request.topics, 0)
        # In the hub before it is in the directory: nothing can be pushed to it that it does not hold.
        self._hub.add(peer)
        lives = self._broker.generation
        try:
            for topic in request.topics:
                await self._broker.subscribe_topic(topic)
            claim = self._require_current_epoch(
                await self._sessions.acquire(peer.sid, "", peer.secret_hash, request.meta, request.topics)
            )
        except BaseException:
            self._presence.mark_away(peer)
            raise
        peer.connected_at = claim.connected_at
        peer.topics.update(claim.topics)
        peer.position = claim.offset
        peer.confirmed_position = f"{claim.epoch}-{claim.offset}"
        return AcceptedClient(peer, secret, recovered=False, recovered_entries=(), epoch=claim.epoch, generation=lives)

    async def _resume_session(self, request: ConnectRequest, sink: Sink) -> AcceptedClient | None:
        """The sid again, with what was missed. None where the secret opens nothing (any more)."""
        secret = secrets.token_urlsafe(24)
        mine = hash_secret(secret)
        try:
            claim = await self._sessions.acquire(
                request.sid, hash_secret(request.secret), mine, request.meta, request.topics
            )
        except BaseException:
            self._presence.abandon_session(request.sid, mine)
            raise
        if claim is None:
            return None
        peer = SocketClient(request.sid, mine, sink, claim.meta, claim.connected_at)
        peer.topics = dict(claim.topics)
        peer.secret_confirmed = False
        self._presence.schedule_recheck(peer)
        before = self._hub.add(peer)
        if before is not None:
            before.disconnect(RESUMED_ELSEWHERE)
        lives = self._broker.generation
        after = _resume_position(claim, request.after_position)
        peer.position = claim.offset if after is None else after.offset
        peer.confirmed_position = claim.stored_position
        try:
            self._require_current_epoch(claim)
            for topic in claim.topics:
                await self._broker.subscribe_topic(topic)
            missed = await self.recover(peer)
        except BaseException:
            self._presence.mark_away(peer)
            raise
        recovered = after is not None and not missed.incomplete
        if recovered:
            peer.confirmed_position = str(after)
        else:
            peer.record_gap(f"{claim.epoch}-{claim.offset}")
        return AcceptedClient(
            peer, secret, recovered=recovered, recovered_entries=missed.entries, epoch=claim.epoch, generation=lives
        )

    def _require_current_epoch(self, session: AcquiredSession | None) -> AcquiredSession:
        """The claim, if it was made in the memory of Redis that events arrive from."""
        if session is None or session.epoch != self._broker.epoch or not self._broker.live:
            raise ServiceUnavailable("Redis is unavailable")
        return session

    async def recover(self, client: SocketClient) -> Recovery:
        """What came for a peer after its position."""
        number = client.position
        targets = [HistoryQuery("all", "", number), HistoryQuery("sid", client.sid, number)]
        targets += [HistoryQuery("topic", topic, max(number, since)) for topic, since in client.topics.items()]
        return await self._history.read_after(self._broker.epoch, targets)
