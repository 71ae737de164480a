"""Keep-alive pings of a WebSocket (RFC 6455, 5.5.2)."""

import asyncio
import random
import struct
from collections.abc import Callable

PONG_SHARE = 0.75
"""Of the time between pings: what a client has to answer. 20 + 15 s and the close timeout of 4 s make less than 40."""


def _ignore_payload(_payload: bytes) -> None:
    """Send nothing."""


def _do_nothing() -> None:
    """Do nothing."""


class KeepAlivePing:
    """Calls `send` with a payload every `interval` seconds, and `on_timeout` when no pong answers it."""

    __slots__ = (
        "_interval",
        "_loop",
        "_on_timeout",
        "_payload",
        "_ping_timer",
        "_pong_timer",
        "_round_trip",
        "_send",
        "_sent_at",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        interval: float,
        send: Callable[[bytes], None],
        on_timeout: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._interval = interval
        self._send = send
        self._on_timeout = on_timeout
        self._payload: bytes | None = None
        self._sent_at = self._round_trip = 0.0
        self._ping_timer: asyncio.TimerHandle | None = None
        self._pong_timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Schedule the next ping, `interval` seconds behind the last."""
        self._ping_timer = self._loop.call_later(max(0.0, self._interval - self._round_trip), self._ping)

    def stop(self) -> None:
        """Send no more pings, and wait for no pong."""
        for timer in (self._ping_timer, self._pong_timer):
            if timer is not None:
                timer.cancel()
        self._ping_timer = self._pong_timer = self._payload = None

    def release(self) -> None:
        """Stop, and let go of the owner's functions: the connection has ended."""
        self.stop()
        self._send, self._on_timeout = _ignore_payload, _do_nothing

    def ping_now(self) -> None:
        """Send the next ping ahead of its time. Nothing while a pong is waited for."""
        if self._ping_timer is not None:
            self._ping_timer.cancel()
            self._ping()

    def pong_received(self, payload: bytes) -> bool:
        """Return whether a pong answers our ping. Stale and unsolicited ones do not: each ping has a payload of four random
        bytes.
        """
        if self._payload is None or payload != self._payload:
            return False
        self._round_trip = self._loop.time() - self._sent_at
        self._payload = None
        if self._pong_timer is not None:
            self._pong_timer.cancel()
            self._pong_timer = None
            self.start()
        return True

    def _ping(self) -> None:
        self._ping_timer = None
        self._payload = struct.pack("!I", random.getrandbits(32))  # tells pongs apart, keeps no secret
        self._sent_at = self._loop.time()
        self._pong_timer = self._loop.call_later(self._interval * PONG_SHARE, self._expire)
        self._send(self._payload)

    def _expire(self) -> None:
        self._pong_timer = self._payload = None
        self._on_timeout()
