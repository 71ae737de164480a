"""Composition root of the socket service: settings in, ASGI application out. Clients are opened in the lifespan."""

import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from services.common.asgi import Receive, Scope, Send
from services.common.bus.publisher import EventPublisher
from services.common.errors import ServiceUnavailable
from services.common.web.app_factory import create_fastapi_app
from services.common.web.middleware import RequestMiddleware
from services.socket import api
from services.socket.accept import Acceptor
from services.socket.acks import AckWaiter
from services.socket.broker import RedisBroker
from services.socket.handler import WebSocketHandler
from services.socket.history import History
from services.socket.hub import Hub
from services.socket.presence import PresenceManager
from services.socket.sessions import SessionStore
from services.socket.settings import SocketSettings


class SocketApplication:
    """HTTP goes to the API, WebSockets straight to `Sockets`: a framework's route would cost more than the handshake."""

    def __init__(self, settings: SocketSettings) -> None:
        self.settings = settings
        self.websocket_handler: WebSocketHandler | None = None
        api_app = create_fastapi_app(
            "socket", "Keeps connections and pushes to them.", self._lifespan, {"redis": self._check_readiness}
        )
        api_app.include_router(api.router)
        self._http_app = RequestMiddleware(api_app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "websocket" and self.websocket_handler is not None:
            await self.websocket_handler(scope, receive, send)
        else:
            await self._http_app(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        # The whole of what uvicorn says of a socket is in our own line, without the query.
        logging.getLogger("gridcast.websocket").setLevel(logging.CRITICAL)
        hub = Hub()
        async with EventPublisher.from_url(self.settings.redis_url.get_secret_value(), "/socket") as push:
            directory = SessionStore(push.redis, secrets.token_hex(8), self.settings.max_topics_per_connection)
            history = History(push.redis)
            attendance = PresenceManager(hub, directory)
            delivery = RedisBroker(push.redis, hub, directory, history, attendance)
            receipts = AckWaiter(push, delivery.node_channel)
            delivery.on_ack = receipts.on_ack
            app.state.push = push
            app.state.directory = directory
            app.state.receipts = receipts
            self._broker = delivery
            self._acceptor = Acceptor(self.settings, hub, directory, history, delivery, attendance)
            self.websocket_handler = WebSocketHandler(
                self.settings, hub, directory, delivery, attendance, self._acceptor
            )
            delivery.start()
            try:
                yield
            finally:
                await delivery.aclose()
                await directory.aclose()
                await attendance.aclose()

    async def _check_readiness(self) -> None:
        if self._acceptor.draining:
            raise ServiceUnavailable("the service is shutting down")
        if not self._broker.live:
            raise ServiceUnavailable("Redis is unavailable")

    async def drain(self) -> None:
        """Take leave of every socket; awaited by the server at SIGTERM."""
        if self.websocket_handler is not None:
            await self.websocket_handler.drain(self.settings.shutdown_timeout)


def create_app(settings: SocketSettings | None = None) -> SocketApplication:
    """The service as an ASGI application, to be served with `frames.Connection` as its WebSocket class."""
    return SocketApplication(settings or SocketSettings())
