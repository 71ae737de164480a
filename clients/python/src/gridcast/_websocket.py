"""WebSockets over the library websockets: the one file that imports it. Nothing of it leaves this file."""

import logging
from collections.abc import Mapping

from websockets.asyncio.client import ClientConnection as AsyncConnection
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect

from gridcast._flows.effects import HttpResponse, TransportFault
from gridcast._flows.listening import MAX_FRAME_BYTES

OPEN_TIMEOUT_SECONDS = 10.0
CLOSE_TIMEOUT_SECONDS = 1.0
PING_INTERVAL_SECONDS = 20.0
_LOGGER = logging.getLogger("gridcast.websocket")
_LOGGER.setLevel(logging.INFO)
"""The library logs the fields of its handshakes, the token among them, where the level is DEBUG."""


class SocketClosed(Exception):
    """The connection is closed, with the code and reason of the server's close frame; code None where there was none."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class HandshakeRefused(Exception):
    """The server answered the handshake with another status than 101."""

    def __init__(self, response: HttpResponse) -> None:
        super().__init__(f"status {response.status}")
        self.response = response


def _closed(error: ConnectionClosed) -> SocketClosed:
    received = error.rcvd
    return SocketClosed(None, "") if received is None else SocketClosed(received.code, received.reason)


def _failed(error: Exception) -> Exception:
    if isinstance(error, InvalidStatus):
        answer = error.response
        headers = {key.lower(): value for key, value in answer.headers.raw_items()}
        return HandshakeRefused(HttpResponse(answer.status_code, headers, bytes(answer.body or b"")))
    if isinstance(error, TimeoutError):
        return TransportFault("the server could not be reached in time")
    if isinstance(error, InvalidHandshake | InvalidURI):
        return TransportFault("the server does not speak WebSocket at this URL")
    return TransportFault("the server could not be reached")


class EventSocket:
    """A blocking connection."""

    def __init__(self, url: str, headers: Mapping[str, str], user_agent: str) -> None:
        try:
            self._connection: ClientConnection = connect(
                url,
                additional_headers=headers,
                user_agent_header=user_agent,
                open_timeout=OPEN_TIMEOUT_SECONDS,
                close_timeout=CLOSE_TIMEOUT_SECONDS,
                ping_interval=PING_INTERVAL_SECONDS,
                max_size=MAX_FRAME_BYTES,
                logger=_LOGGER,
                legacy=True,  # to open it without a context manager
            )
        except (OSError, EOFError, WebSocketException) as error:
            raise _failed(error) from None

    def receive(self) -> str | bytes:
        """Return the next message. Raises SocketClosed."""
        try:
            return self._connection.recv()
        except ConnectionClosed as error:
            raise _closed(error) from None

    def send(self, text: str) -> None:
        """Send a text frame. Raises SocketClosed."""
        try:
            self._connection.send(text)
        except ConnectionClosed as error:
            raise _closed(error) from None

    def close(self) -> None:
        """Close; takes a second at most."""
        self._connection.close()


class AsyncEventSocket:
    """A connection in an event loop."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @classmethod
    async def open(cls, url: str, headers: Mapping[str, str], user_agent: str) -> "AsyncEventSocket":
        """Connect. Raises HandshakeRefused or TransportFault."""
        try:
            connection = await connect_async(
                url,
                additional_headers=headers,
                user_agent_header=user_agent,
                open_timeout=OPEN_TIMEOUT_SECONDS,
                close_timeout=CLOSE_TIMEOUT_SECONDS,
                ping_interval=PING_INTERVAL_SECONDS,
                max_size=MAX_FRAME_BYTES,
                logger=_LOGGER,
            )
        except (OSError, EOFError, WebSocketException) as error:
            raise _failed(error) from None
        return cls(connection)

    async def receive(self) -> str | bytes:
        """Return the next message. Raises SocketClosed."""
        try:
            return await self._connection.recv()
        except ConnectionClosed as error:
            raise _closed(error) from None

    async def send(self, text: str) -> None:
        """Send a text frame. Raises SocketClosed."""
        try:
            await self._connection.send(text)
        except ConnectionClosed as error:
            raise _closed(error) from None

    async def close(self) -> None:
        """Close; takes a second at most."""
        await self._connection.close()
