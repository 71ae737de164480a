"""One WebSocket as ASGI sees it, from its handshake to its disconnect: the counterpart of HTTP's request cycle."""

import asyncio
import logging
from enum import Enum, auto
from http import HTTPStatus
from typing import Protocol

from websockets.http11 import Response

from services.common.asgi import ASGIApp, Message, Scope
from services.common.server.websocket.handshake import Handshake

LOGGER = logging.getLogger("gridcast.websocket")
"""Also the parser's. Its lines would show the query, and with it the resume secret: who serves WebSockets says what is to be
logged.
"""


class WebSocketState(Enum):
    """How far a connection is."""

    NEW = auto()
    """The handshake has not arrived."""
    CONNECTING = auto()
    """The application has not answered the handshake."""
    OPEN = auto()
    CLOSING = auto()
    """A close frame or a refusal is sent: nothing more goes out."""
    CLOSED = auto()
    """The connection is lost."""


class WebSocketClosed(OSError):
    """The application sends to a client that has gone, or behind a close frame (ASGI wants an OSError)."""


class WebSocketCycleOwner(Protocol):
    """The connection that does what the application asks for."""

    state: WebSocketState

    def resume_reading(self) -> None:
        """Read on: the application has received every message."""

    def open(self, response: Response) -> None:
        """Accept the handshake with `response`."""

    def refuse(self, response: Response) -> None:
        """Answer the handshake with `response`, and close."""

    def refuse_with_internal_error(self) -> None:
        """Answer the handshake with 500, where it is not answered."""

    def send_message(self, message: Message) -> None:
        """Send the data of a `websocket.send`."""

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""

    async def drain(self) -> None:
        """Return once there is room for what is sent."""

    def application_returned(self) -> None:
        """Close what is still open."""


class WebSocketCycle:
    """Runs the application for one WebSocket. What the client says waits in a queue, bounded by reading no more while it does."""

    __slots__ = ("_handshake", "_owner", "_queue")

    def __init__(self, owner: WebSocketCycleOwner, handshake: Handshake) -> None:
        self._owner = owner
        self._handshake = handshake
        self._queue: asyncio.Queue[Message] = asyncio.Queue()
        self._queue.put_nowait({"type": "websocket.connect"})

    def put(self, message: Message) -> None:
        """Queue a message for the application."""
        self._queue.put_nowait(message)

    def put_disconnect(self, code: int, reason: str = "") -> None:
        """Queue a websocket.disconnect. The application goes by the first of them."""
        message = {"type": "websocket.disconnect", "code": code}
        self._queue.put_nowait({**message, "reason": reason} if reason else message)

    @property
    def handshake(self) -> Handshake:
        """The handshake that the application answers."""
        return self._handshake

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Run the application. A handshake that it does not answer is a 500."""
        owner = self._owner
        try:
            await app(scope, self.receive, self.send)
        except WebSocketClosed:
            pass
        except BaseException:  # whatever it is, the client gets an end
            LOGGER.exception("Exception in ASGI application\n")
            owner.refuse_with_internal_error()
        else:
            if owner.state is WebSocketState.CONNECTING:
                LOGGER.error("ASGI callable returned without completing handshake.")
                owner.refuse_with_internal_error()
        owner.application_returned()

    async def receive(self) -> Message:
        """ASGI's receive."""
        message = await self._queue.get()
        if self._queue.empty():
            self._owner.resume_reading()
        return message

    async def send(self, message: Message) -> None:
        """ASGI's send. Raises WebSocketClosed, and RuntimeError for a message out of its turn."""
        owner = self._owner
        await owner.drain()
        kind = message["type"]
        if owner.state is WebSocketState.CONNECTING:
            response = self._handshake.feed(message)
            if response is None:
                return
            if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
                owner.open(response)
            else:
                self.put_disconnect(1006)
                owner.refuse(response)
        elif owner.state is not WebSocketState.OPEN:
            raise WebSocketClosed(f"{kind} behind the end of the connection")
        elif kind == "websocket.send":
            owner.send_message(message)
        elif kind == "websocket.close":
            owner.close(message.get("code", 1000), message.get("reason") or "")
        else:
            raise RuntimeError(f"unexpected ASGI message {kind}")
