"""Timeouts of proxied requests: aborts an exchange that makes no progress. One that is slow but progresses is never aborted.

One task checks all exchanges four times per second. That costs a request nothing, while a timer of its own would be started and
cancelled for each. The task also notices that a client has disconnected while its request waits.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from services.common.asgi import ClientDisconnected
from services.common.errors import GatewayTimeout, GridcastError, RequestTimeout

MONITOR_INTERVAL_SECONDS = 0.25
"""Seconds between two checks of all exchanges."""
MIN_BODY_PROGRESS_BYTES = 1024
"""Bytes of a request body that count as progress. With single bytes a client could hold a connection for ever (slow POST)."""


class Phase(Enum):
    """What an exchange waits for."""

    READING_CLIENT = auto()
    """For the client to send more of the request body."""
    WRITING_UPSTREAM = auto()
    """For the upstream to accept more of the request body."""
    AWAITING_HEADERS = auto()
    """For the upstream to send the headers of the response."""
    READING_UPSTREAM = auto()
    """For the upstream to send more of the response body."""
    WRITING_CLIENT = auto()
    """For the client to accept more of the response."""


BODY_PHASES = frozenset({Phase.READING_CLIENT, Phase.WRITING_UPSTREAM})


@dataclass(frozen=True, slots=True)
class ProxyTimeouts:
    """Seconds without progress after which an exchange is aborted."""

    client_body: float
    """The client sends less than MIN_BODY_PROGRESS_BYTES of the request body."""
    upstream_idle: float
    """The upstream accepts nothing of the request body, or sends nothing of the response body."""
    send: float
    """The client accepts nothing of the response."""


class UpstreamUnresponsive(GatewayTimeout):
    """The upstream does not respond to health checks while a request waits for it."""

    def __init__(self) -> None:
        super().__init__("the service does not respond")


class ProxyExchange:
    """One request and its response. The code that copies bytes sets `phase` and counts `bytes_transferred`."""

    __slots__ = (
        "_progress_at",
        "_seen_bytes",
        "_seen_phase",
        "_task",
        "abort_reason",
        "bytes_transferred",
        "endless_body_timeout",
        "phase",
        "request_complete",
        "response_header_timeout",
    )

    def __init__(
        self,
        task: asyncio.Task[None],
        now: float,
        response_header_timeout: float,
        *,
        request_complete: bool,
        endless_body_timeout: float | None = None,
    ) -> None:
        """Arguments.

        task: cancelled by `abort`.
        response_header_timeout: seconds.
        request_complete: there is no body to send.
        endless_body_timeout: seconds that may go between two bytes of a body whose length says nothing about its rate, such as
            live video; None for other bodies, which have to go on by MIN_BODY_PROGRESS_BYTES.
        """
        self._task = task
        self._progress_at = now
        self._seen_bytes = 0
        self._seen_phase = self.phase = Phase.AWAITING_HEADERS
        self.response_header_timeout = response_header_timeout
        self.endless_body_timeout = endless_body_timeout
        self.request_complete = request_complete
        self.bytes_transferred = 0
        self.abort_reason: GridcastError | ClientDisconnected | None = None

    def timeout_error(self, now: float, timeouts: ProxyTimeouts) -> GridcastError | None:
        """Return the error of the timeout that has expired; None as long as there is progress. Called at intervals."""
        progress = self.bytes_transferred - self._seen_bytes
        sending = self.phase in BODY_PHASES
        # While a body is sent the two phases alternate with every chunk: only bytes are progress there.
        phase_changed = self.phase is not self._seen_phase and not (sending and self._seen_phase in BODY_PHASES)
        least = MIN_BODY_PROGRESS_BYTES if sending and self.endless_body_timeout is None else 1
        if phase_changed or progress >= least:
            self._seen_bytes, self._progress_at = self.bytes_transferred, now
        self._seen_phase = self.phase
        waited = now - self._progress_at
        match self.phase:
            case Phase.READING_CLIENT if waited > (self.endless_body_timeout or timeouts.client_body):
                return RequestTimeout("timeout while reading the request body")
            case Phase.WRITING_UPSTREAM if waited > max(
                timeouts.upstream_idle, timeouts.client_body if progress else 0.0
            ):
                return (
                    RequestTimeout("timeout while reading the request body")
                    if progress
                    else GatewayTimeout("timeout while sending the request to the service")
                )
            case Phase.AWAITING_HEADERS if waited > (
                self.response_header_timeout if self.request_complete else timeouts.upstream_idle
            ):
                return GatewayTimeout("timeout while waiting for the response of the service")
            case Phase.READING_UPSTREAM if waited > timeouts.upstream_idle:
                return GatewayTimeout("timeout while reading the response of the service")
            case Phase.WRITING_CLIENT if waited > timeouts.send:
                return RequestTimeout("timeout while sending the response")
        return None

    def reset_after_abort(self) -> bool:
        """Make the exchange go on with another upstream after `abort`. Returns False where the task was cancelled by others too."""
        self.abort_reason = None
        return not self._task.uncancel()

    def abort(self, reason: GridcastError | ClientDisconnected) -> None:
        """Cancel the task. `reason` is the error for the client; the first one counts."""
        if self.abort_reason is None:
            self.abort_reason = reason
            self._task.cancel()


class ProgressMonitor:
    """Watches all exchanges of this process."""

    def __init__(self, timeouts: ProxyTimeouts) -> None:
        self._timeouts = timeouts
        self._exchanges: dict[ProxyExchange, tuple[Callable[[], bool], Callable[[float], bool]]] = {}

    def add(
        self,
        exchange: ProxyExchange,
        peer_disconnected: Callable[[], bool],
        upstream_unresponsive: Callable[[float], bool],
    ) -> None:
        """Watch `exchange`.

        `peer_disconnected`: whether its client has gone; ASGI's `receive` would consume the request body.
        `upstream_unresponsive`: whether, at the given time, waiting for the upstream has to end because it does not respond.
        """
        self._exchanges[exchange] = peer_disconnected, upstream_unresponsive

    def remove(self, exchange: ProxyExchange) -> None:
        """Stop watching `exchange`: it has ended."""
        del self._exchanges[exchange]

    async def run(self) -> None:
        """Check all exchanges at intervals until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(MONITOR_INTERVAL_SECONDS)
            now = loop.time()
            for exchange, (peer_disconnected, upstream_unresponsive) in list(self._exchanges.items()):
                if (error := exchange.timeout_error(now, self._timeouts)) is not None:
                    exchange.abort(error)
                elif upstream_unresponsive(now):
                    exchange.abort(UpstreamUnresponsive())
                elif peer_disconnected():
                    exchange.abort(ClientDisconnected())
