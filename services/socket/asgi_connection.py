"""A WebSocket of this replica under another ASGI server than services.common.server: each frame is sent as an ASGI message.

Slower than `connection.SocketConnection`, and without keep-alive pings: a client's position is never confirmed, so a client that
resumes must pass `after`.
"""

import asyncio
from collections.abc import Awaitable, Callable

from services.common.aio.cancellation import cancel_and_wait
from services.common.asgi import ASGIApp, Message, Receive, Scope, Send
from services.common.http.headers import incoming_request_id
from services.common.server.timeouts import SendTimeout
from services.common.telemetry import metrics
from services.common.telemetry.request_id import new_request_id, request_id_var
from services.socket.connection import EXTENSION, SocketConnection
from services.socket.disconnect import SLOW_CONSUMER
from services.socket.send_queue import SendQueue


def payload(frame: bytes) -> str:
    """Return the text of a frame that `connection.encode_text_frame` has made (RFC 6455, section 5.2)."""
    header = {126: 4, 127: 10}.get(frame[1], 2)
    return frame[header:].decode()


class ASGIConnection:
    """The hub's Sink and the handler's connection over ASGI messages, which one task sends in their order."""

    def __init__(self, scope: Scope, send: Send) -> None:
        loop = asyncio.get_running_loop()
        self.query: bytes = scope["query_string"]
        self.send_now: Callable[[bytes], None] = lambda _frame: None
        self.closed_before_accept = False
        self.sent_close_code = 0
        self.on_ping: Callable[[], None] | None = None
        self.on_pong: Callable[[], None] | None = None
        self._send = send
        self._send_queue = SendQueue()
        self._accept: Message | None = None
        self._close: Message | None = None
        self._changed = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._send_timeout = SendTimeout(loop, self._close_slow_consumer)
        self._sender = loop.create_task(self._run())

    def accept(self, subprotocol: str | None, first_frame: bytes) -> None:
        """Answer the handshake and send the first frame."""
        headers = [(b"x-request-id", request_id_var.get().encode("ascii"))]
        self._accept = {"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers}
        self.send_now = self.write
        self.send_now(first_frame)

    def write(self, frame: bytes, conflation_key: str = "") -> None:
        """Queue a complete frame. Closes with 1013 if the queue is full."""
        if self._accept is None or self._close is not None:
            return
        if not self._send_queue.enqueue(frame, conflation_key):
            self._close_slow_consumer()
            return
        self._empty.clear()
        self._changed.set()

    def close(self, code: int, reason: str) -> None:
        """Send a close frame and nothing after it. Before `accept`, mark the handshake as refused."""
        if self._accept is None:
            self.closed_before_accept = True
        elif self._close is None:
            self.sent_close_code = code
            self._close = {"type": "websocket.close", "code": code, "reason": reason}
            self._send_queue.clear()
            self._changed.set()

    @property
    def closing(self) -> bool:
        """Whether frames are dropped from now on."""
        return self._close is not None

    async def drain(self) -> None:
        """Return once the server has taken all frames."""
        await self._empty.wait()

    def ping_now(self) -> None:
        """Do nothing: ASGI has no pings."""

    async def aclose(self) -> None:
        """Send a pending close frame, and end the task."""
        if self._close is not None:
            await asyncio.wait([self._sender], timeout=SocketConnection.close_timeout)
        await cancel_and_wait(self._sender)
        self._send_timeout.stop()

    def _close_slow_consumer(self) -> None:
        metrics.WEBSOCKET_FRAMES_DROPPED.inc(len(self._send_queue) + 1 if self._close is None else 0)
        self.close(SLOW_CONSUMER.code, SLOW_CONSUMER.reason)

    async def _run(self) -> None:
        accepted = False
        try:
            while True:
                self._empty.set()
                await self._changed.wait()
                self._changed.clear()
                if not accepted and self._accept is not None:
                    accepted = True
                    await self._send(self._accept)
                while self._send_queue:
                    self._send_timeout.start(SocketConnection.send_timeout)
                    await self._send({"type": "websocket.send", "text": payload(self._send_queue.dequeue())})
                    self._send_timeout.stop()
                if self._close is not None:
                    await self._send(self._close)
                    return
        except OSError:
            pass  # the client has disconnected; `receive` returns that
        finally:
            self._close = self._close or {}
            self._send_queue.clear()
            self._empty.set()


async def serve(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run `app` with an ASGIConnection in the scope."""
    extensions = scope.setdefault("extensions", {})
    token = request_id_var.set(incoming_request_id(scope["headers"]) or new_request_id())
    connection = extensions[EXTENSION] = ASGIConnection(scope, send)
    rejecting: Send = (
        _with_request_id(send) if "websocket.http.response" in extensions else _close_instead_of_response(send)
    )
    try:
        await app(scope, receive, rejecting)
    finally:
        await connection.aclose()
        request_id_var.reset(token)


def _with_request_id(send: Send) -> Send:
    """A `send` that adds the request id to the response that refuses a handshake."""

    def send_with_id(message: Message) -> Awaitable[None]:
        if message["type"] == "websocket.http.response.start":
            message["headers"] = [*message["headers"], (b"x-request-id", request_id_var.get().encode("ascii"))]
        return send(message)

    return send_with_id


def _close_instead_of_response(send: Send) -> Send:
    """A `send` for a server without the `websocket.http.response` extension: it rejects a handshake by closing, which is a 403."""

    def send_or_close(message: Message) -> Awaitable[None]:
        if message["type"] == "websocket.http.response.body":
            return send({"type": "websocket.close"})
        return asyncio.sleep(0)

    return send_or_close
