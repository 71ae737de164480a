"""One WebSocket connection under uvicorn: a frame built once is written to many of them, and a client that does not read
is closed. It knows uvicorn's protocol class and bytes; it knows neither the hub nor Redis.

uvicorn parses, answers pings and speaks ASGI for what comes in. Going out, `Connection` is the hub's Sink and writes ready
frames to the transport: half the CPU of uvicorn's own way for each delivery, and three quarters of that are the kernel's.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from websockets.frames import Frame, Opcode

from services.common.telemetry import metrics
from services.socket import inbound_limits
from services.socket.inbound_limits import InboundLimitsProtocol
from services.socket.send_queue import SendQueue

WEBSOCKET_SEND_TIMEOUT_SECONDS = 8.0
"""A client that has not emptied its share of the kernel's buffer and ours for so long is slow consumer."""
PONG_TIMEOUT_FRACTION = 0.75
"""Of the time between pings: what a client has to answer. 20 + 15 s and CLOSE_SECONDS make less than 40."""


def _drop_frame(_frame: bytes) -> None:
    """What is put into a connection that is not open."""


def encode_text_frame(payload: bytes) -> bytes:
    """A whole unmasked text frame (RFC 6455, 5.2)."""
    return Frame(Opcode.TEXT, payload).serialize(mask=False)


class WebSocketConnection(InboundLimitsProtocol):
    """What uvicorn makes for each upgrade. The ASGI scope carries it as `extensions["gridcast"]`.

    `put` is what the state of the connection makes of a frame: the transport's own `write` while it is open, the queue while the
    client reads too slowly, and nothing otherwise. So a broadcast asks nobody for a state, and no Python runs between the hub and
    the transport. The slot spares a look-up among the many attributes of uvicorn's class.
    """

    __slots__ = ("send_now",)

    send_now: Callable[[bytes], None]
    ping_interval_seconds = 20.0
    on_ping: Callable[[], None] | None = None
    on_pong: Callable[[], None] | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.close_timeout = inbound_limits.CLOSE_HANDSHAKE_TIMEOUT_SECONDS
        self.ping_interval = self.ping_interval_seconds
        self.ping_timeout = self.ping_interval_seconds * PONG_TIMEOUT_FRACTION
        self.send_queue = SendQueue()
        self.send_now = _drop_frame
        self.write_paused = False
        self._open = False
        self.closed_before_accept = False
        self.query = b""
        self._send_timeout_timer: asyncio.TimerHandle | None = None

    def accept(self, subprotocol: str | None, first_frame: bytes) -> None:
        """Answer the handshake and send the first frame in one write. Nothing where the client has gone meanwhile."""
        if self.disconnected or self.transport.is_closing():
            return
        if subprotocol:
            self.response.headers["Sec-WebSocket-Protocol"] = subprotocol
        self.handshake_complete = True
        self.conn.send_response(self.response)
        self._open = True
        self.send_now = self._enqueue if self.write_paused else self.transport.write
        self.transport.write(b"".join([*self.conn.data_to_send(), first_frame]))
        self.start_keepalive()

    # The Sink.

    def write(self, frame: bytes, conflation_key: str = "") -> None:
        """Send a whole frame, or queue it while the client reads too slowly; close with 1013 where too much waits."""
        if conflation_key and self._open and self.write_paused:
            self._enqueue(frame, conflation_key)
        else:
            self.send_now(frame)

    def _enqueue(self, frame: bytes, conflation_key: str = "") -> None:
        if not self.send_queue.enqueue(frame, conflation_key):
            self._close_slow_consumer()

    def stop_sending(self) -> None:
        """No frame goes out from now on, and none waits."""
        self._open = False
        self.send_now = _drop_frame
        self.send_queue.clear()

    def close(self, code: int, reason: str) -> None:
        """Send a close frame; cut the connection after CLOSE_SECONDS if the client does not answer it. Before `accept` there is no
        such frame: `dismissed` says that the handshake is to be refused.
        """
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        if not self.handshake_complete:
            self.closed_before_accept = True
            return
        self.stop_sending()
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.sent_close_code = code
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(inbound_limits.CLOSE_HANDSHAKE_TIMEOUT_SECONDS, self.transport.abort)

    async def drain(self) -> None:
        """Return once the client has taken what waits, or is gone."""
        await self.writable.wait()

    def _close_slow_consumer(self) -> None:
        metrics.WEBSOCKET_FRAMES_DROPPED.inc(0 if self.close_sent else len(self.send_queue) + 1)
        self.close(1013, "slow consumer")

    # Flow control.

    def pause_writing(self) -> None:
        """The transport holds 64 KiB that the kernel does not take."""
        super().pause_writing()
        self.write_paused = True
        if self._open:
            self.send_now = self._enqueue
        self._send_timeout_timer = self.loop.call_later(WEBSOCKET_SEND_TIMEOUT_SECONDS, self._close_slow_consumer)

    def resume_writing(self) -> None:
        """The transport has room again."""
        if self._send_timeout_timer is not None:
            self._send_timeout_timer.cancel()
            self._send_timeout_timer = None
        self.write_paused = False
        while self.send_queue and not self.write_paused:
            self.transport.write(self.send_queue.dequeue())
        if not self.write_paused:
            if self._open:
                self.send_now = self.transport.write
            super().resume_writing()

    # How it ends, and how it begins.

    def connection_lost(self, exc: Exception | None) -> None:
        """No timer outlives the connection."""
        if self._send_timeout_timer is not None:
            self._send_timeout_timer.cancel()
            self._send_timeout_timer = None
        self.on_ping = self.on_pong = None
        self.stop_sending()
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """The client has ended its side, and so do we: the application hears of it now, what waits for the client has a moment."""
        self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
        self.stop_keepalive()
        self.stop_sending()
        self.abort_after_close_timeout()

    def handle_close(self, event: Frame) -> None:
        """The client closes, or answers our close."""
        self.stop_sending()
        super().handle_close(event)

    def shutdown(self) -> None:
        """The server ends: 1012 for who is still here, who has CLOSE_SECONDS to take it."""
        self.stop_sending()
        super().shutdown()
        self.abort_after_close_timeout()

    def handle_connect(self, event: Any) -> None:
        """Put the connection into the scope, and the query, which may hold a secret, where no log finds it."""
        super().handle_connect(event)
        scope: Any = getattr(self, "scope", None)
        if scope is not None:
            self.query = scope["query_string"]
            scope["query_string"] = b""
            scope["extensions"]["gridcast"] = self

    # Liveness.

    def send_keepalive_ping(self) -> None:
        """Tell the owner first: what was written before a ping has been read when its pong comes."""
        if self.on_ping is not None and not self.write_paused:
            self.on_ping()
        super().send_keepalive_ping()

    def handle_pong(self, event: Frame) -> None:
        """Only the pong that answers our ping counts."""
        answered = self.pending_ping_payload is not None and bytes(event.data) == self.pending_ping_payload
        super().handle_pong(event)
        if answered and self.on_pong is not None:
            self.on_pong()

    def keepalive_timeout(self) -> None:
        """Closed with 1011; a client that does not take even that is cut off."""
        self.sent_close_code = 1011
        self.queue.put_nowait({"type": "websocket.disconnect", "code": 1011, "reason": "ping timeout"})
        self.stop_sending()
        super().keepalive_timeout()
        self.abort_after_close_timeout()

    def ping_now(self) -> None:
        """A ping ahead of time."""
        if self.ping_timer is not None:
            self.ping_timer.cancel()
            self.send_keepalive_ping()


def connection_class(ping_interval_seconds: float) -> type[WebSocketConnection]:
    """The class to give to uvicorn: a connection that pings every so many seconds."""
    return type("Connection", (WebSocketConnection,), {"ping_seconds": ping_interval_seconds})
