"""How long a connection may rest between two requests. It knows no rule of a request.

uvicorn sets a timer behind each answer and cancels it at the next request: 3 us for each of them. Here a timer that runs goes on
running, and looks at its end how long there was really nothing to do.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Idle(HttpToolsProtocol):
    """The part of a connection that closes it when nothing comes for `timeout_keep_alive` seconds."""

    resting = False
    """Nothing is due: no head has begun, no answer is under way."""
    _since = 0.0
    _clock: asyncio.TimerHandle | None = None

    def rest(self) -> None:
        """The last answer was sent, and no request waits."""
        self.resting = True
        self._since = self.loop.time()
        if self._clock is None:
            self._clock = self.loop.call_later(self.timeout_keep_alive, self._look)

    def stop_clock(self) -> None:
        """The connection is gone, or another protocol's."""
        self.resting = False
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _unset_keepalive_if_required(self) -> None:
        """Something came: this is uvicorn's name for it."""
        self.resting = False

    def _look(self) -> None:
        self._clock = None
        if not self.resting:
            return  # the next rest starts it again
        left = self._since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._clock = self.loop.call_later(left, self._look)
        else:
            self.timeout_keep_alive_handler()

    def on_response_complete(self) -> None:
        """An answer was sent: the next request that waits may run."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self.rest()

    def connection_lost(self, exc: Exception | None) -> None:
        """No timer outlives the connection."""
        self.stop_clock()
        super().connection_lost(exc)
