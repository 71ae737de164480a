"""One WebSocket of this replica: a frame encoded once is written to many of them, and a client that does not read is closed.

The server parses, answers pings and speaks ASGI for what comes in. Going out, `Connection` is the hub's Sink and writes ready
frames to the transport: half the CPU of a message through ASGI for each delivery, and three quarters of that are the kernel's.
"""

from collections.abc import Callable
from typing import Any, ClassVar

from websockets.frames import Frame, Opcode
from websockets.http11 import Request

from services.common.aio.token_bucket import TokenBucket
from services.common.asgi import Scope
from services.common.server.timeouts import SendTimeout
from services.common.server.websocket.connection import WebSocketConnection
from services.common.server.websocket.cycle import WebSocketState
from services.common.telemetry import metrics
from services.socket.send_queue import SendQueue

EXTENSION = "gridcast.websocket"
"""Key of the connection in the scope's `extensions`."""
FRAME_RATE = 200.0
FRAME_BURST = 1000.0
"""Frames of any kind that a client may send. 200,000 fragments of one byte cost the parser 2 s of CPU."""


def _drop_frame(_frame: bytes) -> None:
    """What is put into a connection that is not open."""


def encode_text_frame(payload: bytes) -> bytes:
    """A whole unmasked text frame (RFC 6455, 5.2)."""
    return Frame(Opcode.TEXT, payload).serialize(mask=False)


class SocketConnection(WebSocketConnection):
    """What the server makes for each upgrade. The ASGI scope carries it as `extensions[EXTENSION]`.

    `put` is what the state of the connection makes of a frame: the transport's own `write` while it is open, the queue while the
    client reads too slowly, and nothing otherwise. So a broadcast asks nobody for a state, and no Python runs between the hub and
    the transport.
    """

    __slots__ = ("_allowance", "_send_timeout_timer", "closed_before_accept", "query", "send_now", "send_queue")

    send_now: Callable[[bytes], None]
    send_timeout: ClassVar[float] = 8.0
    """A client that has not emptied its share of the kernel's buffer and ours for so long is too slow."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._allowance = TokenBucket(FRAME_RATE, FRAME_BURST, self.loop.time())
        self._send_timeout_timer = SendTimeout(self.loop, self._close_slow_consumer)
        self.send_queue = SendQueue()
        self.send_now = _drop_frame
        self.closed_before_accept = False
        self.query = b""

    # What the server asks and tells.

    def build_scope(self, request: Request) -> Scope:
        """Put the connection into the scope, and the query, which may hold a secret, where no log finds it."""
        scope = super().build_scope(request)
        self.query = scope["query_string"]
        scope["query_string"] = b""
        scope["extensions"][EXTENSION] = self
        return scope

    def allow_frames(self, count: int) -> bool:
        """Whether the client may send so many frames more."""
        return self._allowance.try_acquire(self.loop.time(), count)

    def on_open(self) -> None:
        """Frames go out from now on."""
        self.send_now = self._queue_frame if self.write_paused else self.transport.write

    def stop_sending(self) -> None:
        """No frame goes out from now on, and none waits."""
        self.send_now = _drop_frame
        self.send_queue.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        """No timer outlives the connection."""
        self._send_timeout_timer.stop()
        super().connection_lost(exc)

    # The Sink.

    def write(self, frame: bytes, conflation_key: str = "") -> None:
        """Send a whole frame, or queue it while the client reads too slowly; close with 1013 where too much waits."""
        if conflation_key and self.write_paused and self.state is WebSocketState.OPEN:
            self._queue_frame(frame, conflation_key)
        else:
            self.send_now(frame)

    def _queue_frame(self, frame: bytes, key: str = "") -> None:
        if not self.send_queue.enqueue(frame, key):
            self._close_slow_consumer()

    def close(self, code: int, reason: str) -> None:
        """Send a close frame; cut the connection after `close_timeout` if the client does not answer it. Before `accept` there
        is no such frame: `dismissed` says that the handshake is to be refused.
        """
        if self.state is WebSocketState.CONNECTING and not self.transport.is_closing():
            self.closed_before_accept = True
        else:
            super().close(code, reason)

    def _close_slow_consumer(self) -> None:
        metrics.WEBSOCKET_FRAMES_DROPPED.inc(len(self.send_queue) + 1 if self.state is WebSocketState.OPEN else 0)
        self.close(1013, "slow consumer")

    # Flow control.

    def pause_writing(self) -> None:
        """The transport holds 64 KiB that the kernel does not take."""
        super().pause_writing()
        if self.state is WebSocketState.OPEN:
            self.send_now = self._queue_frame
        self._send_timeout_timer.start(self.send_timeout)

    def resume_writing(self) -> None:
        """The transport has room again."""
        self._send_timeout_timer.stop()
        self.write_paused = False
        while self.send_queue and not self.write_paused:
            self.transport.write(self.send_queue.dequeue())
        if not self.write_paused:
            if self.state is WebSocketState.OPEN:
                self.send_now = self.transport.write
            super().resume_writing()


def connection_class(ping_interval_seconds: float) -> type[SocketConnection]:
    """The class to give to the server: a connection that pings every so many seconds."""
    return type("Connection", (SocketConnection,), {"__slots__": (), "ping_interval": ping_interval_seconds})
