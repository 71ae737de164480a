"""Composition root of the socket service: settings in, ASGI application out. Clients are opened in the lifespan."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from fastapi import FastAPI

from services.common.aio.cancellation import cancel_and_wait
from services.common.aio.descriptor_limit import raise_descriptor_limit
from services.common.asgi import Receive, Scope, Send
from services.common.auth.factory import create_auth, create_authorization
from services.common.auth.revocation_poller import RevocationPoller
from services.common.bus.publisher import EventPublisher
from services.common.errors import ServiceUnavailable
from services.common.http.hosts import HostPolicy
from services.common.http.origins import OriginPolicy
from services.common.telemetry.request_telemetry import RequestTelemetry
from services.common.web.app_factory import create_fastapi_app
from services.common.web.browser_protection import BrowserProtection
from services.common.web.health import ReadinessCheck
from services.common.web.middleware import RequestMiddleware
from services.common.web.route_list import list_routes
from services.common.web.routers import add_routes
from services.common.web.status import add_status_route
from services.socket import api
from services.socket.accept import Acceptor
from services.socket.acks import AckWaiter
from services.socket.broker import RedisBroker
from services.socket.handler import WebSocketHandler
from services.socket.history import History
from services.socket.hub import Hub
from services.socket.presence import PresenceManager
from services.socket.presence_lookup import PresenceLookup
from services.socket.replica_queries import ReplicaQueries
from services.socket.sessions import SessionStore
from services.socket.settings import SocketSettings
from services.socket.socket_auth import SocketAuth, read_revocations
from services.socket.token_expiry import TokenExpiry


@dataclass(frozen=True, slots=True)
class _WebSocketService:
    """What runs between the start and the end of the lifespan."""

    broker: RedisBroker
    acceptor: Acceptor
    handler: WebSocketHandler


class SocketApplication:
    """Sends HTTP to the API, and WebSockets to the handler without a framework, whose routing costs more than a handshake."""

    def __init__(self, settings: SocketSettings, telemetry: RequestTelemetry | None = None) -> None:
        self.settings = settings
        self._auth = create_auth(settings)
        self._websockets: _WebSocketService | None = None
        checks: dict[str, ReadinessCheck] = {"redis": self._check_readiness}
        if self._auth is not None:
            checks |= self._auth.readiness_checks()
        api_app = create_fastapi_app("socket", "Keeps connections and pushes to them.", self._lifespan, checks)
        add_status_route(api_app, checks)
        add_routes(api_app, api.router)
        protection = BrowserProtection(HostPolicy(settings.allowed_hosts), OriginPolicy(settings.allowed_origins))
        authorization = create_authorization(self._auth, list_routes(api_app))
        self._http_app = RequestMiddleware(
            api_app, check_request=protection, telemetry=telemetry, authorization=authorization
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "websocket" and self._websockets is not None:
            await self._websockets.handler(scope, receive, send)
        else:
            await self._http_app(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        # The handler logs each connection itself, without the query, which holds the resume secret.
        logging.getLogger("gridcast.websocket").setLevel(logging.CRITICAL)
        settings = self.settings
        max_clients = raise_descriptor_limit(settings.max_connections)
        hub = Hub()
        async with EventPublisher.from_url(settings.redis_url.get_secret_value(), "/socket") as publisher:
            redis = publisher.redis
            auth = SocketAuth(self._auth)
            # The topic of its subject comes on top of those that a client asks for.
            max_topics = settings.max_topics_per_connection + auth.enabled
            sessions = SessionStore(redis, secrets.token_hex(8), max_topics)
            history = History(redis)
            presence = PresenceManager(hub, sessions)
            broker = RedisBroker(redis, hub, sessions, history, presence)
            broker.filters_folders = auth.enabled
            ack_waiter = AckWaiter(publisher, broker.node_channel)
            broker.on_ack = ack_waiter.on_ack
            queries = ReplicaQueries(redis, hub, sessions.node, broker.node_channel)
            broker.on_query, broker.on_answer = queries.on_query, queries.on_answer
            acceptor = Acceptor(settings, hub, sessions, history, broker, presence, max_clients, auth)
            handler = WebSocketHandler(settings, hub, sessions, broker, presence, acceptor, auth)
            app.state.publisher = publisher
            app.state.sessions = sessions
            app.state.presence_lookup = PresenceLookup(hub, sessions, broker, queries)
            app.state.ack_waiter = ack_waiter
            self._websockets = _WebSocketService(broker, acceptor, handler)
            broker.start()
            expiry = TokenExpiry(hub, broker.send_expiring, auth.check_current)
            expiry_task = asyncio.create_task(expiry.run()) if self._auth is not None else None
            poller = None
            if self._auth is not None:
                self._auth.start()
                cut = self._auth.active_requests.cut_revoked
                poller = RevocationPoller(self._auth.revocations, partial(read_revocations, redis), cut)
                poller.start()
            try:
                yield
            finally:
                await cancel_and_wait(expiry_task)
                if poller is not None:
                    await poller.aclose()
                if self._auth is not None:
                    await self._auth.aclose()
                await broker.aclose()
                await queries.aclose()
                await sessions.aclose()
                await presence.aclose()

    async def _check_readiness(self) -> None:
        websockets = self._websockets
        if websockets is None or websockets.acceptor.draining:
            raise ServiceUnavailable("the service is shutting down")
        if not websockets.broker.live:
            raise ServiceUnavailable(websockets.broker.refusal or "Redis is unavailable")
        if websockets.broker.refusal:
            raise ServiceUnavailable(websockets.broker.refusal)

    async def drain(self) -> None:
        """Close every WebSocket; awaited by the server at SIGTERM."""
        if self._websockets is not None:
            await self._websockets.handler.drain(self.settings.shutdown_timeout)


def create_app(settings: SocketSettings | None = None, telemetry: RequestTelemetry | None = None) -> SocketApplication:
    """The service as an ASGI application, to be served with `connection.connection_class` for its WebSockets."""
    return SocketApplication(settings or SocketSettings(), telemetry)
