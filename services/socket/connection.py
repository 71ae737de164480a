"""One WebSocket of this replica: writes frames that are encoded once for all clients, and closes a client that does not read.

The server below it parses, answers pings and passes incoming messages on through ASGI. Outgoing frames do not pass through ASGI:
`SocketConnection` is the hub's Sink and writes them to the transport. That takes half the CPU of an ASGI message for each delivery,
and three quarters of the rest are the kernel's.
"""

from collections.abc import Callable
from typing import Any, ClassVar

from websockets.frames import Frame, Opcode

from services.common.aio.token_bucket import TokenBucket
from services.common.asgi import Scope
from services.common.server.timeouts import SendTimeout
from services.common.server.websocket.connection import WebSocketConnection
from services.common.server.websocket.cycle import WebSocketState
from services.common.server.websocket.upgrade import UpgradeRequest
from services.common.telemetry import metrics
from services.socket.disconnect import SLOW_CONSUMER
from services.socket.send_queue import SendQueue

EXTENSION = "gridcast.websocket"
"""Key of the connection in the scope's `extensions`."""
FRAME_RATE = 200.0
FRAME_BURST = 1000.0
"""Frames of any kind per second that a client may send, and at once. 200,000 fragments of one byte cost the parser 2 s of CPU."""


def _drop_frame(_frame: bytes) -> None:
    """Drop a frame for a connection that is not open."""


def encode_text_frame(payload: bytes) -> bytes:
    """A complete unmasked text frame (RFC 6455, section 5.2)."""
    return Frame(Opcode.TEXT, payload).serialize(mask=False)


class SocketConnection(WebSocketConnection):
    """The connection that the server creates for each upgrade. The ASGI scope has it as `extensions[EXTENSION]`.

    `send_now` depends on the state of the connection: the transport's `write` while it is open, the send queue while the client
    reads too slowly, and a function that drops the frame otherwise. So a broadcast checks no state, and no Python runs between the
    hub and the transport.
    """

    __slots__ = ("_frame_limiter", "_send_timeout_timer", "closed_before_accept", "query", "send_now", "send_queue")

    send_now: Callable[[bytes], None]
    send_timeout: ClassVar[float] = 8.0
    """Seconds; a client for which writing stays paused this long is a slow consumer."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._frame_limiter = TokenBucket(FRAME_RATE, FRAME_BURST, self.loop.time())
        self._send_timeout_timer = SendTimeout(self.loop, self._close_slow_consumer)
        self.send_queue = SendQueue()
        self.send_now = _drop_frame
        self.closed_before_accept = False
        self.query = b""

    # Hooks of the server.

    def build_scope(self, request: UpgradeRequest) -> Scope:
        """Add the connection to the scope, and move the query, which may contain the resume secret, out of the reach of logs."""
        scope = super().build_scope(request)
        self.query = scope["query_string"]
        scope["query_string"] = b""
        scope["extensions"][EXTENSION] = self
        return scope

    def allow_frames(self, count: int) -> bool:
        """Whether the client may send `count` frames now."""
        return self._frame_limiter.try_acquire(self.loop.time(), count)

    def on_open(self) -> None:
        """Send frames from now on."""
        self.send_now = self._queue_frame if self.write_paused else self.transport.write

    def stop_sending(self) -> None:
        """Send no more frames, and drop the queued ones."""
        self.send_now = _drop_frame
        self.send_queue.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the send timeout with the connection."""
        super().connection_lost(exc)
        self._send_timeout_timer.release()

    @property
    def closing(self) -> bool:
        """Whether frames are dropped from now on."""
        return self.state is not WebSocketState.OPEN

    # The Sink.

    def write(self, frame: bytes, conflation_key: str = "") -> None:
        """Send a complete frame, or queue it while the client reads too slowly. Closes with 1013 if the queue is full."""
        if conflation_key and self.write_paused and self.state is WebSocketState.OPEN:
            self._queue_frame(frame, conflation_key)
        else:
            self.send_now(frame)

    def _queue_frame(self, frame: bytes, conflation_key: str = "") -> None:
        if not self.send_queue.enqueue(frame, conflation_key):
            self._close_slow_consumer()

    def close(self, code: int, reason: str) -> None:
        """Send a close frame, and abort the connection if the client does not answer within `close_timeout` seconds.

        There are no frames before `accept`: then `closed_before_accept` tells the handler to refuse the handshake.
        """
        if self.state is WebSocketState.CONNECTING and not self.transport.is_closing():
            self.closed_before_accept = True
        else:
            super().close(code, reason)

    def _close_slow_consumer(self) -> None:
        metrics.WEBSOCKET_FRAMES_DROPPED.inc(len(self.send_queue) + 1 if self.state is WebSocketState.OPEN else 0)
        self.close(SLOW_CONSUMER.code, SLOW_CONSUMER.reason)

    # Flow control.

    def pause_writing(self) -> None:
        """Queue frames from now on: the transport holds 64 KiB that the kernel does not take."""
        super().pause_writing()
        if self.state is WebSocketState.OPEN:
            self.send_now = self._queue_frame
        self._send_timeout_timer.start(self.send_timeout)

    def resume_writing(self) -> None:
        """Send the queued frames, then write to the transport again."""
        self._send_timeout_timer.stop()
        self.write_paused = False
        while self.send_queue and not self.write_paused:
            self.transport.write(self.send_queue.dequeue())
        if not self.write_paused:
            if self.state is WebSocketState.OPEN:
                self.send_now = self.transport.write
            super().resume_writing()


def connection_class(ping_interval_seconds: float) -> type[SocketConnection]:
    """The WebSocket class for the server: a SocketConnection that sends a ping every `ping_interval_seconds`."""
    return type("Connection", (SocketConnection,), {"__slots__": (), "ping_interval": ping_interval_seconds})
