"""One WebSocket from its welcome frame to its close frame: replays missed events, follows commands, drains at shutdown."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator

from services.common.aio.token_bucket import TokenBucket
from services.common.asgi import Message, Receive, Scope, Send
from services.common.auth.credentials import SUBPROTOCOL
from services.common.errors import BadRequest, GridcastError, InternalServerError, ServiceUnavailable
from services.common.telemetry import metrics
from services.common.telemetry.refusals import log_refusal
from services.common.telemetry.request_id import request_id_var
from services.common.web.middleware import client_behind_gateway
from services.common.web.problems import send_problem
from services.socket import asgi_connection, commands
from services.socket.accept import AcceptedClient, Acceptor
from services.socket.broker import RedisBroker
from services.socket.connection import EXTENSION, SocketConnection, encode_text_frame
from services.socket.disconnect import (
    ABNORMAL_CLOSURE,
    INTERNAL_ERROR,
    NO_STATUS,
    SERVICE_RESTART,
    SLOW_CONSUMER,
    TOKEN_OF_ANOTHER_SUBJECT,
    TOO_MANY_MESSAGES,
)
from services.socket.history import HistoryPage
from services.socket.hub import Hub, SocketClient
from services.socket.presence import PresenceManager
from services.socket.sessions import SessionStore
from services.socket.settings import SocketSettings
from services.socket.socket_auth import SocketAuth, allowed_topics, require_topics, topics_of_subject

PONG_FRAME = encode_text_frame(b'{"pong":true}')
DRAIN_SPREAD_FRACTION = 0.8
"""Part of the shutdown timeout over which close frames are spread; the rest is for the closing handshakes."""
DRAIN_STEP_SECONDS = 0.05
"""Seconds between two groups of close frames."""

_log = logging.getLogger("gridcast.socket")


class WebSocketHandler:
    """The WebSocket side of the service, as an ASGI application."""

    def __init__(
        self,
        settings: SocketSettings,
        hub: Hub,
        sessions: SessionStore,
        broker: RedisBroker,
        presence: PresenceManager,
        acceptor: Acceptor,
        auth: SocketAuth,
    ) -> None:
        self._auth = auth
        self._settings = settings
        self._hub = hub
        self._sessions = sessions
        self._broker = broker
        self._presence = presence
        self._acceptor = acceptor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI, for scopes of type `websocket`."""
        connection: SocketConnection | None = (scope.get("extensions") or {}).get(EXTENSION)
        if connection is None:  # another ASGI server than services.common.server
            await asgi_connection.serve(self, scope, receive, send)
            return
        await receive()
        try:
            accepted = await self._accept(scope, connection)
        except GridcastError as error:
            metrics.REQUESTS_REJECTED.labels(str(error.status)).inc()
            await _reject_handshake(scope, send, error)
            return
        except Exception:  # noqa: BLE001  # any fault is answered and logged
            _log.exception("unhandled exception")
            await _reject_handshake(scope, send, InternalServerError())
            return
        metrics.WEBSOCKET_CONNECTIONS.inc()
        accepted_at = time.monotonic()
        close_code = ABNORMAL_CLOSURE.code
        try:
            offered = SUBPROTOCOL in scope["subprotocols"]
            connection.accept(SUBPROTOCOL if offered else None, _welcome_frame(accepted))
            accepted.client.welcomed |= not connection.closing
            await self._replay_missed(accepted, connection)
            close_code = await self._receive_loop(accepted.client, connection, receive)
        except ServiceUnavailable:
            close_code = SERVICE_RESTART.code
            accepted.client.disconnect(SERVICE_RESTART)
        except Exception:  # noqa: BLE001  # as above
            _log.exception("unhandled exception")
            close_code = INTERNAL_ERROR.code
            accepted.client.disconnect(INTERNAL_ERROR)
        finally:
            self._acceptor.release(accepted.client)
            metrics.WEBSOCKET_CONNECTIONS.dec()
            if connection.sent_close_code:
                metrics.WEBSOCKET_SERVER_DISCONNECTS.labels(str(connection.sent_close_code)).inc()
            duration_seconds = round(time.monotonic() - accepted_at, 3)
            fields = {"sid": accepted.client.sid, "close_code": close_code, "duration": duration_seconds}
            _log.info("websocket closed", extra={"fields": fields})

    async def _accept(self, scope: Scope, connection: SocketConnection) -> AcceptedClient:
        accepted = await self._acceptor.accept(scope, connection.query, connection)
        if connection.closed_before_accept:
            self._acceptor.release(accepted.client)
            raise ServiceUnavailable("the connection was closed during the handshake", retry_after=1)
        return accepted

    async def _replay_missed(self, accepted: AcceptedClient, connection: SocketConnection) -> None:
        """Send the missed events as fast as the client reads them, then those that were buffered meanwhile."""
        client, generation = accepted.client, accepted.generation
        if accepted.first_page is not None and accepted.next_pages is not None:
            # A gap in the first page is in the first frame.
            await self._send_page(client, connection, accepted.first_page)
            await self._send_pages(client, connection, accepted.next_pages)
        # The buffer has dropped events; or the broker reconnected to Redis during the replay, and has recovered the clients that
        # were ready, but not this one.
        while (client.replay_overflowed or generation != self._broker.generation) and not connection.closing:
            reconnected, generation = generation != self._broker.generation, self._broker.generation
            if self._broker.epoch != accepted.epoch:
                raise ServiceUnavailable("Redis has lost its data")
            client.clear_replay_buffer()
            pages = self._acceptor.read_missed(client)
            first_page = await anext(pages)
            if first_page.incomplete and reconnected:
                self._broker.send_resync(client, "events were lost")
            elif first_page.incomplete:
                client.disconnect(SLOW_CONSUMER)
            await self._send_page(client, connection, first_page)
            await self._send_pages(client, connection, pages)
        client.flush_replay_buffer()
        connection.on_ping = lambda: self._on_ping(client)
        connection.on_pong = lambda: self._on_pong(client)
        connection.ping_now()

    async def _send_pages(
        self, client: SocketClient, connection: SocketConnection, pages: AsyncIterator[HistoryPage]
    ) -> None:
        """Send pages of the history. A client that read so slowly that later ones were trimmed meanwhile is disconnected."""
        async for page in pages:
            if page.incomplete:
                client.disconnect(SLOW_CONSUMER)
            if connection.closing:
                return
            await self._send_page(client, connection, page)

    async def _send_page(self, client: SocketClient, connection: SocketConnection, page: HistoryPage) -> None:
        for entry in page.entries:
            publication = self._broker.publication_from_history(entry)
            await connection.drain()
            client.deliver(publication)

    def _on_ping(self, client: SocketClient) -> None:
        client.pinged_position = f"{self._broker.epoch}-{client.position}"

    def _on_pong(self, client: SocketClient) -> None:
        client.answered_ping = True
        client.confirmed_position = client.pinged_position or client.confirmed_position
        if not client.secret_confirmed:
            self._presence.confirm_secret(client)

    # Commands.

    async def _receive_loop(self, client: SocketClient, connection: SocketConnection, receive: Receive) -> int:
        """Follow the client's commands until the connection ends. Returns the close code."""
        rate = self._settings.message_rate
        clock = asyncio.get_running_loop().time
        message_limiter = TokenBucket(rate, 2 * rate, clock())
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return int(message.get("code") or NO_STATUS.code)
            if not message_limiter.try_acquire(clock()):
                client.disconnect(TOO_MANY_MESSAGES)
                continue
            command = commands.parse_command(_data(message))
            if isinstance(command, commands.Ping):
                connection.write(PONG_FRAME)
                continue
            try:
                await self._dispatch(client, connection, command)
            except GridcastError as error:
                connection.write(_json_frame({"type": "error", "detail": error.detail}))

    async def _dispatch(self, client: SocketClient, connection: SocketConnection, command: commands.Command) -> None:
        match command:
            case commands.Subscribe(topic):
                since = await self._subscribe(client, topic)
                connection.write(_json_frame({"type": "subscribed", "topic": topic, "since": since}))
            case commands.Unsubscribe(topic):
                await self._unsubscribe(client, connection, topic)
            case commands.Ack(event_id):
                channel = client.pending_acks.get(event_id)
                if channel is not None:
                    await self._sessions.publish_ack(channel, client.sid, event_id)
                    client.pending_acks.pop(event_id, None)
            case commands.Token(token):
                await self._renew_token(client, connection, token)
            case commands.InvalidCommand(detail):
                raise BadRequest(detail)

    async def _subscribe(self, client: SocketClient, topic: str) -> str:
        """Subscribe a client to a topic. Returns the position from which it misses none of the topic's events.

        The position is not a `sequence` that the client may resume from: earlier events for it may still be on their way. The hub
        comes first, so that no event is missed between Redis's confirmation and that position.
        """
        since = client.topics.get(topic)
        if since is not None:
            return f"{self._broker.epoch}-{since}"
        require_topics(client.identity, (topic,))
        if len(client.topics) - len(topics_of_subject(client.identity)) >= self._settings.max_topics_per_connection:
            raise BadRequest(f"too many topics: at most {self._settings.max_topics_per_connection} per connection")
        self._hub.subscribe(client, topic, client.position)
        try:
            await self._broker.subscribe_topic(topic)
            epoch, offset = await self._sessions.set_topic(client.sid, client.secret_hash, topic, subscribed=True)
            if epoch != self._broker.epoch:
                raise ServiceUnavailable("Redis has lost its data")
        except GridcastError:
            self._hub.unsubscribe(client, topic)
            raise
        client.topics[topic] = offset
        return f"{epoch}-{offset}"

    async def _renew_token(self, client: SocketClient, connection: SocketConnection, token: str) -> None:
        """Replace the identity of a connection by that of a newer token of the same subject, and leave topics it may not hear."""
        identity = await self._auth.verify(token)
        if client.identity is None or identity.subject != client.identity.subject:
            client.disconnect(TOKEN_OF_ANOTHER_SUBJECT)
            return
        client.identity = identity
        client.expiring_sent = False
        for topic in client.topics.keys() - allowed_topics(identity, client.topics).keys():
            await self._unsubscribe(client, connection, topic)
        connection.write(_json_frame({"type": "token", "expires": int(identity.expires_at)}))

    async def _unsubscribe(self, client: SocketClient, connection: SocketConnection, topic: str) -> None:
        self._hub.unsubscribe(client, topic)
        await self._sessions.set_topic(client.sid, client.secret_hash, topic, subscribed=False)
        connection.write(_json_frame({"type": "unsubscribed", "topic": topic}))

    # Shutdown.

    async def drain(self, timeout_seconds: float) -> None:
        """Close every connection with 1012 and refuse new handshakes.

        Close frames are spread over DRAIN_SPREAD_FRACTION of `timeout_seconds`, so that not all clients connect to the other
        replicas at once.
        """
        deadline = time.monotonic() + timeout_seconds
        self._acceptor.draining = True
        clients = list(self._hub.clients.values())
        steps = max(1, int(DRAIN_SPREAD_FRACTION * timeout_seconds / DRAIN_STEP_SECONDS))
        group_size = max(5, -(-len(clients) // steps))
        for start in range(0, len(clients), group_size):
            for client in clients[start : start + group_size]:
                client.disconnect(SERVICE_RESTART)
            await asyncio.sleep(DRAIN_STEP_SECONDS)
        while self._acceptor.pending_handshakes and time.monotonic() < deadline:  # noqa: ASYNC110  # handshakes wait for Redis, not for an event of ours
            await asyncio.sleep(DRAIN_STEP_SECONDS)
        for client in self._hub.clients.values():
            client.disconnect(SERVICE_RESTART)


def _data(message: Message) -> str | bytes:
    """The payload of a `websocket.receive`: ASGI has one of both, and servers may send the other as None."""
    text: str | None = message.get("text")
    return message["bytes"] if text is None else text


def _welcome_frame(accepted: AcceptedClient) -> bytes:
    return _json_frame(
        {
            "sid": accepted.client.sid,
            "resume": f"{accepted.client.sid}.{accepted.secret}",
            "sequence": f"{accepted.epoch}-{accepted.client.position}",
            "recovered": accepted.recovered,
        }
    )


def _json_frame(members: dict[str, object]) -> bytes:
    return encode_text_frame(
        json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    )


async def _reject_handshake(scope: Scope, send: Send, error: GridcastError) -> None:
    """Answer the handshake as an HTTP request (the `websocket.http.response` extension of ASGI)."""
    client = client_behind_gateway(scope)
    log_refusal("websocket handshake rejected", error, request_id_var.get(), client, scope["path"])

    async def as_handshake(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    await send_problem(as_handshake, error)
