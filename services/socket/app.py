"""Composition root of the socket service: settings in, ASGI application out. Clients are opened in the lifespan."""

import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from services.common.errors import Unavailable
from services.common.front import Front
from services.common.push import Push
from services.common.web import Receive, Scope, Send, build
from services.socket import api
from services.socket.attendance import Attendance
from services.socket.delivery import Delivery
from services.socket.directory import Directory
from services.socket.entrance import Entrance
from services.socket.history import History
from services.socket.hub import Hub
from services.socket.receipts import Receipts
from services.socket.settings import SocketSettings
from services.socket.ws import Sockets


class Application:
    """HTTP goes to the API, WebSockets straight to `Sockets`: a framework's route would cost more than the handshake."""

    def __init__(self, settings: SocketSettings) -> None:
        self.settings = settings
        self.sockets: Sockets | None = None
        api_app = build("socket", "Keeps connections and pushes to them.", self._lifespan, {"redis": self._check})
        api_app.include_router(api.router)
        self._front = Front(api_app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "websocket" and self.sockets is not None:
            await self.sockets(scope, receive, send)
        else:
            await self._front(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        # The whole of what uvicorn says of a socket is in our own line, without the query.
        logging.getLogger("gridcast.websocket").setLevel(logging.CRITICAL)
        hub = Hub()
        async with Push.open(self.settings.redis_url.get_secret_value(), "/socket") as push:
            directory = Directory(push.redis, secrets.token_hex(8), self.settings.max_topics)
            history = History(push.redis)
            attendance = Attendance(hub, directory)
            delivery = Delivery(push.redis, hub, directory, history, attendance)
            receipts = Receipts(push, delivery.channel)
            delivery.on_ack = receipts.acked
            app.state.push = push
            app.state.directory = directory
            app.state.receipts = receipts
            self._delivery = delivery
            self._entrance = Entrance(self.settings, hub, directory, history, delivery, attendance)
            self.sockets = Sockets(self.settings, hub, directory, delivery, attendance, self._entrance)
            delivery.start()
            try:
                yield
            finally:
                await delivery.aclose()
                await directory.aclose()
                await attendance.aclose()

    async def _check(self) -> None:
        if self._entrance.closed:
            raise Unavailable("this replica is going away")
        if not self._delivery.live:
            raise Unavailable("Redis is away")

    async def drain(self) -> None:
        """Take leave of every socket; awaited by the server at SIGTERM."""
        if self.sockets is not None:
            await self.sockets.drain(self.settings.drain)


def create_app(settings: SocketSettings | None = None) -> Application:
    """The service as an ASGI application, to be served with `frames.Connection` as its WebSocket class."""
    return Application(settings or SocketSettings())
