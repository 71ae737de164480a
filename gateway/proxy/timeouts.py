"""Who is waited for in an exchange, and for how long: a stalled one is ended, a slow but moving one never is.

One task looks at all exchanges four times a second, which costs a request nothing (a timer of its own would be set and taken back
for each). It also sees when a client goes away while it waits. It knows no HTTP client and no route.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from services.common.asgi import ClientDisconnected
from services.common.errors import GatewayTimeout, GridcastError, RequestTimeout

MONITOR_INTERVAL_SECONDS = 0.25
MIN_BODY_PROGRESS_BYTES = 1024
"""Bytes of a request's body that count as progress. One byte now and then does not: that is how a connection is held for ever."""


class Phase(Enum):
    """Who has to do something next."""

    READING_CLIENT = auto()  # the client, with its body
    WRITING_UPSTREAM = auto()  # the service, with taking the body
    AWAITING_HEADERS = auto()  # the service, with the head of its answer
    READING_UPSTREAM = auto()  # the service, with the rest of its answer
    WRITING_CLIENT = auto()  # the client, with taking the answer


BODY_PHASES = frozenset({Phase.READING_CLIENT, Phase.WRITING_UPSTREAM})


@dataclass(frozen=True, slots=True)
class ProxyTimeouts:
    """Seconds without progress."""

    client_body: float
    upstream_idle: float
    send: float


class ProxyExchange:
    """One request and its answer. Whoever moves bytes says whom it waits for and how many went through."""

    __slots__ = (
        "_progress_at",
        "_seen_bytes",
        "_seen_phase",
        "_task",
        "abort_reason",
        "bytes_transferred",
        "phase",
        "request_complete",
        "response_header_timeout",
    )

    def __init__(
        self, task: asyncio.Task[None], now: float, response_header_timeout: float, *, request_complete: bool
    ) -> None:
        self._task = task
        self._progress_at = now
        self._seen_bytes = 0
        self._seen_phase = self.phase = Phase.AWAITING_HEADERS
        self.response_header_timeout = response_header_timeout
        self.request_complete = request_complete
        self.bytes_transferred = 0
        self.abort_reason: GridcastError | ClientDisconnected | None = None

    def timeout_error(self, now: float, timeouts: ProxyTimeouts) -> GridcastError | None:
        """What to tell the client when somebody took too long; None as long as there is progress."""
        moved = self.bytes_transferred - self._seen_bytes
        sending = self.phase in BODY_PHASES
        # SENDER and TAKER take turns with every piece: only bytes are progress there.
        turned = self.phase is not self._seen_phase and not (sending and self._seen_phase in BODY_PHASES)
        if turned or moved >= (MIN_BODY_PROGRESS_BYTES if sending else 1):
            self._seen_bytes, self._progress_at = self.bytes_transferred, now
        self._seen_phase = self.phase
        waited = now - self._progress_at
        match self.phase:
            case Phase.READING_CLIENT if waited > timeouts.client_body:
                return RequestTimeout("timeout while reading the request body")
            case Phase.WRITING_UPSTREAM if waited > max(timeouts.upstream_idle, timeouts.client_body if moved else 0.0):
                return (
                    RequestTimeout("timeout while reading the request body")
                    if moved
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

    def abort(self, reason: GridcastError | ClientDisconnected) -> None:
        """End it: whatever its task awaits is cancelled, and `verdict` says why."""
        if self.abort_reason is None:
            self.abort_reason = reason
            self._task.cancel()


class ProgressMonitor:
    """All exchanges of this process."""

    def __init__(self, timeouts: ProxyTimeouts) -> None:
        self._timeouts = timeouts
        self._exchanges: dict[ProxyExchange, Callable[[], bool]] = {}

    def add(self, exchange: ProxyExchange, peer_disconnected: Callable[[], bool]) -> None:
        """Watch over `exchange`. `is_alone`: whether its client has gone; asked, for who asks ASGI would be given the body."""
        self._exchanges[exchange] = peer_disconnected

    def remove(self, exchange: ProxyExchange) -> None:
        """It is over."""
        del self._exchanges[exchange]

    async def run(self) -> None:
        """Look after all of them until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(MONITOR_INTERVAL_SECONDS)
            now = loop.time()
            for exchange, is_alone in list(self._exchanges.items()):
                if (error := exchange.timeout_error(now, self._timeouts)) is not None:
                    exchange.abort(error)
                elif is_alone():
                    exchange.abort(ClientDisconnected())
