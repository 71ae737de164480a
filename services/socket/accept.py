"""Accepts clients: checks a handshake, acquires a session, and recovers the events that a resumed client has missed.

It sends nothing: the caller answers the handshake once it has an AcceptedClient.
"""

import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

from gridcast._bus.events import StreamPosition
from services.common.aio.token_bucket import TokenBucket
from services.common.asgi import Scope
from services.common.auth.identity import Identity
from services.common.errors import NotFound, ServiceUnavailable, TooManyRequests
from services.common.http.hosts import HostPolicy
from services.common.http.origins import OriginPolicy
from services.socket import handshake
from services.socket.broker import RedisBroker
from services.socket.disconnect import RESUMED_ELSEWHERE
from services.socket.handshake import ConnectRequest
from services.socket.history import History, HistoryPage, HistoryQuery
from services.socket.hub import GAP_PREFIX, Hub, Sink, SocketClient
from services.socket.presence import PresenceManager
from services.socket.sessions import AcquiredSession, SessionStore
from services.socket.settings import SocketSettings
from services.socket.socket_auth import (
    SocketAuth,
    allowed_topics,
    hash_resume_secret,
    require_topics,
    topics_of_subject,
)

WEBSOCKET_PATHS = frozenset({"/", "/ws"})


@dataclass(frozen=True, slots=True)
class AcceptedClient:
    """A client whose handshake can be accepted. It is in the hub, where its events are buffered.

    `secret` is its new resume secret. `first_page` and `next_pages` are the events that a resumed client has missed; None for a new
    one. `epoch` and `generation` are those of the broker when its history was read.
    """

    client: SocketClient
    secret: str
    recovered: bool
    epoch: str
    generation: int
    first_page: HistoryPage | None = None
    next_pages: AsyncIterator[HistoryPage] | None = None


def _resume_position(session: AcquiredSession, requested: str) -> StreamPosition | None:
    """The position from which a resumed client is recovered, or None if events may be lost.

    `requested` is the client's `after`; without it the stored position counts.
    """
    after = StreamPosition.try_parse(requested or session.stored_position)
    gap = (
        StreamPosition.try_parse(session.stored_position.removeprefix(GAP_PREFIX))
        if session.stored_position.startswith(GAP_PREFIX)
        else None
    )
    if after is None or after.epoch != session.epoch or after.offset > session.offset:
        return None
    # A gap that ends later was announced to the client, and the frame did not reach it.
    return None if gap is not None and gap.epoch == after.epoch and after.offset < gap.offset else after


class Acceptor:
    """Accepts the clients of one replica, at most `max_clients` at a time. While `draining` is True it refuses all.

    `pending_handshakes` counts the handshakes in progress.
    """

    def __init__(
        self,
        settings: SocketSettings,
        hub: Hub,
        sessions: SessionStore,
        history: History,
        broker: RedisBroker,
        presence: PresenceManager,
        max_clients: int,
        auth: SocketAuth,
    ) -> None:
        self._auth = auth
        self._settings = settings
        self._hub = hub
        self._sessions = sessions
        self._history = history
        self._broker = broker
        self._presence = presence
        self._hosts = HostPolicy(settings.allowed_hosts)
        self._origins = OriginPolicy(settings.allowed_origins)
        self._handshake_limiter = TokenBucket(settings.handshake_rate, 2 * settings.handshake_rate, time.monotonic())
        self._max_clients = max_clients
        self._client_count = 0
        self._count_by_subject: Counter[str] = Counter()
        self.pending_handshakes = 0
        self.draining = False

    async def accept(self, scope: Scope, query: bytes, sink: Sink) -> AcceptedClient:
        """Accept a client, or raise the GridcastError that answers its handshake."""
        self._check_admission(scope)
        identity = await self._auth.identify(scope)
        request = handshake.parse_connect_request(query, self._settings.max_topics_per_connection)
        require_topics(identity, request.topics)
        request = request.with_topics(topics_of_subject(identity))
        subject = "" if identity is None else identity.subject
        self._count_in(subject)
        self.pending_handshakes += 1
        try:
            if request.sid:
                resumed = await self._resume_session(request, sink, identity)
                if resumed is not None:
                    return resumed
            return await self._create_session(request, sink, identity)
        except BaseException:
            self._count_out(subject)
            raise
        finally:
            self.pending_handshakes -= 1

    def release(self, client: SocketClient) -> None:
        """Remove an accepted client whose connection has ended."""
        self._count_out("" if client.identity is None else client.identity.subject)
        self._presence.mark_away(client)

    def _count_in(self, subject: str) -> None:
        """Count a connection. Raises TooManyRequests where its subject has too many."""
        limit = self._settings.max_connections_per_subject
        if subject and limit and self._count_by_subject[subject] >= limit:
            raise TooManyRequests("too many WebSocket connections of this subject", {"retry-after": "5"})
        self._client_count += 1
        if subject:
            self._count_by_subject[subject] += 1

    def _count_out(self, subject: str) -> None:
        self._client_count -= 1
        if subject:
            self._count_by_subject[subject] -= 1
            if not self._count_by_subject[subject]:
                del self._count_by_subject[subject]

    def _check_admission(self, scope: Scope) -> None:
        if scope["path"] not in WEBSOCKET_PATHS:
            raise NotFound("no WebSocket endpoint here: use / or /ws")
        self._hosts.check(scope["headers"])
        handshake.check_origin(scope["headers"], self._origins)
        if self.draining:
            raise ServiceUnavailable("the service is shutting down", retry_after=1)
        if self._client_count >= self._max_clients:
            raise ServiceUnavailable("too many WebSocket connections", retry_after=5)
        if not self._handshake_limiter.try_acquire(time.monotonic()):
            raise ServiceUnavailable("handshake rate limit exceeded", retry_after=1)
        if not self._broker.live:
            raise ServiceUnavailable(self._broker.refusal or "Redis is unavailable")

    async def _create_session(self, request: ConnectRequest, sink: Sink, identity: Identity | None) -> AcceptedClient:
        secret = secrets.token_urlsafe(24)
        secret_hash = hash_resume_secret(secret, identity)
        client = SocketClient(self._auth.new_sid(identity), secret_hash, sink, request.meta, identity=identity)
        client.topics = dict.fromkeys(request.topics, 0)
        # In the hub before it is in Redis: no event can be pushed to it that it does not buffer.
        self._hub.add(client)
        generation = self._broker.generation
        try:
            for topic in request.topics:
                await self._broker.subscribe_topic(topic)
            session = self._require_current_epoch(
                await self._sessions.acquire(client.sid, "", client.secret_hash, request.meta, request.topics)
            )
        except BaseException:
            self._presence.mark_away(client)
            raise
        client.connected_at = session.connected_at
        client.claim = session.claim
        client.topics.update(session.topics)
        client.position = session.offset
        client.confirmed_position = f"{session.epoch}-{session.offset}"
        return AcceptedClient(client, secret, recovered=False, epoch=session.epoch, generation=generation)

    async def _resume_session(
        self, request: ConnectRequest, sink: Sink, identity: Identity | None
    ) -> AcceptedClient | None:
        """Resume the requested session and recover its missed events. Returns None if the secret is not valid."""
        secret = secrets.token_urlsafe(24)
        secret_hash = hash_resume_secret(secret, identity)
        presented_hash = hash_resume_secret(request.secret, identity)
        try:
            session = await self._sessions.acquire(
                request.sid, presented_hash, secret_hash, request.meta, request.topics
            )
        except BaseException:
            self._presence.abandon_session(request.sid, secret_hash)
            raise
        if session is None:
            return None
        client = SocketClient(request.sid, secret_hash, sink, session.meta, session.connected_at, identity)
        client.topics = allowed_topics(identity, session.topics)
        client.claim = session.claim
        client.secret_confirmed = False
        client.welcomed = True
        current = self._hub.find(client.sid)
        if current is not None and current.claim > client.claim:
            raise ServiceUnavailable("the session was resumed by another connection", retry_after=1)
        self._presence.schedule_recheck(client)
        previous = self._hub.add(client)
        if previous is not None:
            previous.disconnect(RESUMED_ELSEWHERE)
        generation = self._broker.generation
        after = _resume_position(session, request.after_position)
        client.position = session.offset if after is None else after.offset
        client.confirmed_position = session.stored_position
        try:
            self._require_current_epoch(session)
            for topic in session.topics.keys() - client.topics.keys():  # the token has fewer rights than the one before
                await self._sessions.set_topic(client.sid, secret_hash, topic, subscribed=False)
            for topic in tuple(client.topics):
                await self._broker.subscribe_topic(topic)
            pages = self.read_missed(client)
            first_page = await anext(pages)
        except BaseException:
            self._presence.mark_away(client)
            raise
        recovered = after is not None and not first_page.incomplete
        if recovered:
            client.confirmed_position = str(after)
        else:
            client.record_gap(f"{session.epoch}-{session.offset}")
        return AcceptedClient(
            client,
            secret,
            recovered=recovered,
            epoch=session.epoch,
            generation=generation,
            first_page=first_page,
            next_pages=pages,
        )

    def _require_current_epoch(self, session: AcquiredSession | None) -> AcquiredSession:
        """Return the session, or raise ServiceUnavailable if it is not of the epoch from which events arrive."""
        if session is None or session.epoch != self._broker.epoch or not self._broker.live:
            raise ServiceUnavailable("Redis is unavailable")
        return session

    def read_missed(self, client: SocketClient) -> AsyncIterator[HistoryPage]:
        """The events that came for a client after its position. Raises ServiceUnavailable while Redis is unavailable."""
        offset = client.position
        queries = [HistoryQuery("all", "", offset), HistoryQuery("sid", client.sid, offset)]
        queries += [HistoryQuery("topic", topic, max(offset, since)) for topic, since in client.topics.items()]
        return self._history.read_pages(self._broker.epoch, queries)
