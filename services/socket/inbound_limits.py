"""What a client may send on a WebSocket: counts its frames, gives its messages a time, and fails the connection where the parser or
the count says so. It knows uvicorn's protocol class; it knows nothing of what goes out.
"""

import logging
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from services.common.aio.token_bucket import TokenBucket

CLOSE_HANDSHAKE_TIMEOUT_SECONDS = 4.0
"""A client that has not answered our close frame by then is cut off."""
FRAME_RATE = 200.0
FRAME_BURST = 1000.0
"""Frames of any kind that a client may send. 200,000 fragments of one byte cost the parser 2 s of CPU."""
FRAGMENTED_MESSAGE_TIMEOUT_SECONDS = 30.0
"""A fragmented message that takes longer is no message."""
PARSE_SLICE_BYTES = 4096
"""Bytes parsed before the frame count is looked at again."""

_uvicorn_log = logging.getLogger("gridcast.websocket")


class InboundLimitsProtocol(WebSocketsSansIOProtocol):
    """The half of a connection that hears. `closed_with` is the code with which we closed it, or 0."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Both would show the query, and with it the resume secret.
        self.logger = self.conn.logger = _uvicorn_log
        self.conn.debug = False
        self.sent_close_code = 0
        self._frame_limiter = TokenBucket(FRAME_RATE, FRAME_BURST, self.loop.time())
        self._message_started_at: float | None = None
        self._failed = False

    def stop_sending(self) -> None:
        """No frame of ours goes out from now on."""

    def data_received(self, data: bytes) -> None:
        """Parse in slices, so that a flood of tiny frames is stopped before it has cost more than one slice."""
        for start in range(0, len(data), PARSE_SLICE_BYTES):
            if self._failed:
                return
            if self.handshake_initiated and not self.handshake_complete:
                self._abort_early_data()
                return
            super().data_received(data[start : start + PARSE_SLICE_BYTES])
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            # websockets takes shorter lines in a head than our HTTP does, and uvicorn leaves its answer (414, 431) unsent.
            self._failed = True
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()
        if self.transport.is_closing():
            self.abort_after_close_timeout()

    def handle_events(self) -> None:
        """As uvicorn does, with every frame counted. Behind a head there is none yet (RFC 6455, 4.1)."""
        frames = len(self.conn.events)
        if not self.handshake_complete and frames > 1:
            self._abort_early_data()
            return
        if self.handshake_complete and frames and not self._frame_limiter.try_acquire(self.loop.time(), frames):
            self._fail_connection(1008, "too many frames")
            return
        super().handle_events()

    def _abort_early_data(self) -> None:
        """A client must wait for the answer to its handshake: nothing that it sends before is kept, parsed or answered."""
        self._failed = True
        self.transport.abort()

    def handle_parser_exception(self) -> None:
        """The parser has refused what came, and has written the close frame."""
        sent = self.conn.close_sent
        self._fail_connection(sent.code, sent.reason) if sent else self.transport.abort()

    def _fail_connection(self, code: int, reason: str) -> None:
        """Fail the connection (RFC 6455, 7.1.7). What still comes is read and dropped unparsed: closing on unread bytes
        would reset the connection and take the close frame with it.
        """
        if self._failed:
            return
        self._failed = True
        self.sent_close_code = self.sent_close_code or code
        if not self.close_sent:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
            self.conn.fail(code, reason)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
        self.stop_sending()
        self.stop_keepalive()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.transport.resume_reading()
        self.read_paused = False
        self.abort_after_close_timeout()

    def handle_cont(self, event: Frame) -> None:
        """A further fragment. The clock runs from the first of them to the last."""
        now = self.loop.time()
        if self._message_started_at is None:
            self._message_started_at = now
        elif now - self._message_started_at > FRAGMENTED_MESSAGE_TIMEOUT_SECONDS:
            self._fail_connection(1008, "message timeout")
            return
        if event.fin:
            self._message_started_at = None
        super().handle_cont(event)

    def abort_after_close_timeout(self) -> None:
        """`transport.close()` waits for its buffer to empty, which a client that does not read can put off for ever."""
        if self.close_timer is None:
            self.close_timer = self.loop.call_later(CLOSE_HANDSHAKE_TIMEOUT_SECONDS, self.transport.abort)
