"""One WebSocket connection under uvicorn: a frame built once is written to many of them, and a client that does not read
is closed. It knows uvicorn's protocol class and bytes; it knows neither the hub nor Redis.

uvicorn parses, answers pings and speaks ASGI for what comes in. Going out, `Connection` is the hub's Sink and writes ready
frames to the transport: half the CPU of uvicorn's own way for each delivery, and three quarters of that are the kernel's.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from websockets.frames import Frame, Opcode

from services.common import metrics
from services.socket import inbound
from services.socket.inbound import Inbound
from services.socket.outbox import Outbox

STALLED_SECONDS = 8.0
"""A client that has not emptied its share of the kernel's buffer and ours for so long is too slow."""
PONG_SHARE = 0.75
"""Of the time between pings: what a client has to answer. 20 + 15 s and CLOSE_SECONDS make less than 40."""


def _nothing(_frame: bytes) -> None:
    """What is put into a connection that is not open."""


def text_frame(text: bytes) -> bytes:
    """A whole unmasked text frame (RFC 6455, 5.2)."""
    return Frame(Opcode.TEXT, text).serialize(mask=False)


class Connection(Inbound):
    """What uvicorn makes for each upgrade. The ASGI scope carries it as `extensions["gridcast"]`.

    `put` is what the state of the connection makes of a frame: the transport's own `write` while it is open, the queue while the
    client reads too slowly, and nothing otherwise. So a broadcast asks nobody for a state, and no Python runs between the hub and
    the transport. The slot spares a look-up among the many attributes of uvicorn's class.
    """

    __slots__ = ("put",)

    put: Callable[[bytes], None]
    ping_seconds = 20.0
    on_ping: Callable[[], None] | None = None
    on_pong: Callable[[], None] | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.close_timeout = inbound.CLOSE_SECONDS
        self.ping_interval = self.ping_seconds
        self.ping_timeout = self.ping_seconds * PONG_SHARE
        self.outbox = Outbox()
        self.put = _nothing
        self.choked = False
        self._open = False
        self.dismissed = False
        self.query = b""
        self._stall: asyncio.TimerHandle | None = None

    def accept(self, subprotocol: str | None, first: bytes) -> None:
        """Answer the handshake and send the first frame in one write. Nothing where the client has gone meanwhile."""
        if self.disconnected or self.transport.is_closing():
            return
        if subprotocol:
            self.response.headers["Sec-WebSocket-Protocol"] = subprotocol
        self.handshake_complete = True
        self.conn.send_response(self.response)
        self._open = True
        self.put = self._queue if self.choked else self.transport.write
        self.transport.write(b"".join([*self.conn.data_to_send(), first]))
        self.start_keepalive()

    # The Sink.

    def write(self, frame: bytes, key: str = "") -> None:
        """Send a whole frame, or queue it while the client reads too slowly; close with 1013 where too much waits."""
        if key and self._open and self.choked:
            self._queue(frame, key)
        else:
            self.put(frame)

    def _queue(self, frame: bytes, key: str = "") -> None:
        if not self.outbox.offer(frame, key):
            self._too_slow()

    def shut(self) -> None:
        """No frame goes out from now on, and none waits."""
        self._open = False
        self.put = _nothing
        self.outbox.clear()

    def close(self, code: int, reason: str) -> None:
        """Send a close frame; cut the connection after CLOSE_SECONDS if the client does not answer it. Before `accept` there is no
        such frame: `dismissed` says that the handshake is to be refused.
        """
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        if not self.handshake_complete:
            self.dismissed = True
            return
        self.shut()
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.closed_with = code
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(inbound.CLOSE_SECONDS, self.transport.abort)

    async def drained(self) -> None:
        """Return once the client has taken what waits, or is gone."""
        await self.writable.wait()

    def _too_slow(self) -> None:
        metrics.FRAMES_DROPPED.inc(0 if self.close_sent else len(self.outbox) + 1)
        self.close(1013, "too slow")

    # Flow control.

    def pause_writing(self) -> None:
        """The transport holds 64 KiB that the kernel does not take."""
        super().pause_writing()
        self.choked = True
        if self._open:
            self.put = self._queue
        self._stall = self.loop.call_later(STALLED_SECONDS, self._too_slow)

    def resume_writing(self) -> None:
        """The transport has room again."""
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        self.choked = False
        while self.outbox and not self.choked:
            self.transport.write(self.outbox.take())
        if not self.choked:
            if self._open:
                self.put = self.transport.write
            super().resume_writing()

    # How it ends, and how it begins.

    def connection_lost(self, exc: Exception | None) -> None:
        """No timer outlives the connection."""
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        self.on_ping = self.on_pong = None
        self.shut()
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """The client has ended its side, and so do we: the application hears of it now, what waits for the client has a moment."""
        self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
        self.stop_keepalive()
        self.shut()
        self.reap()

    def handle_close(self, event: Frame) -> None:
        """The client closes, or answers our close."""
        self.shut()
        super().handle_close(event)

    def shutdown(self) -> None:
        """The server ends: 1012 for who is still here, who has CLOSE_SECONDS to take it."""
        self.shut()
        super().shutdown()
        self.reap()

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
        if self.on_ping is not None and not self.choked:
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
        self.closed_with = 1011
        self.queue.put_nowait({"type": "websocket.disconnect", "code": 1011, "reason": "no answer to a ping"})
        self.shut()
        super().keepalive_timeout()
        self.reap()

    def ping_now(self) -> None:
        """A ping ahead of time."""
        if self.ping_timer is not None:
            self.ping_timer.cancel()
            self.send_keepalive_ping()


def pinging(seconds: float) -> type[Connection]:
    """The class to give to uvicorn: a connection that pings every so many seconds."""
    return type("Connection", (Connection,), {"ping_seconds": seconds})
