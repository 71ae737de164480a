"""Who is waited for in an exchange, and for how long: a stalled one is ended, a slow but moving one never is.

One task looks at all exchanges four times a second, which costs a request nothing (a timer of its own would be set and taken back
for each). It also sees when a client goes away while it waits. It knows no HTTP client and no route.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from services.common.errors import GatewayTimeout, GridcastError, TooSlow
from services.common.web import Disconnected

TICK = 0.25
LEAST = 1024
"""Bytes of a request's body that count as progress. One byte now and then does not: that is how a connection is held for ever."""


class Waiting(Enum):
    """Who has to do something next."""

    SENDER = auto()  # the client, with its body
    TAKER = auto()  # the service, with taking the body
    ANSWER = auto()  # the service, with the head of its answer
    SERVICE = auto()  # the service, with the rest of its answer
    READER = auto()  # the client, with taking the answer


SENDING = frozenset({Waiting.SENDER, Waiting.TAKER})


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds without progress."""

    sender: float
    service: float
    reader: float


class Exchange:
    """One request and its answer. Whoever moves bytes says whom it waits for and how many went through."""

    __slots__ = (
        "_moved",
        "_seen",
        "_since",
        "_task",
        "answer",
        "complete",
        "moved",
        "verdict",
        "waiting",
    )

    def __init__(self, task: asyncio.Task[None], now: float, answer: float, *, complete: bool) -> None:
        self._task = task
        self._since = now
        self._moved = 0
        self._seen = self.waiting = Waiting.ANSWER
        self.answer = answer
        self.complete = complete
        self.moved = 0
        self.verdict: GridcastError | Disconnected | None = None

    def overdue(self, now: float, patience: Patience) -> GridcastError | None:
        """What to tell the client when somebody took too long; None as long as there is progress."""
        moved = self.moved - self._moved
        sending = self.waiting in SENDING
        # SENDER and TAKER take turns with every piece: only bytes are progress there.
        turned = self.waiting is not self._seen and not (sending and self._seen in SENDING)
        if turned or moved >= (LEAST if sending else 1):
            self._moved, self._since = self.moved, now
        self._seen = self.waiting
        waited = now - self._since
        match self.waiting:
            case Waiting.SENDER if waited > patience.sender:
                return TooSlow("the body came too slowly")
            case Waiting.TAKER if waited > max(patience.service, patience.sender if moved else 0.0):
                return TooSlow("the body came too slowly") if moved else GatewayTimeout("the service took no more")
            case Waiting.ANSWER if waited > (self.answer if self.complete else patience.service):
                return GatewayTimeout("the service did not answer in time")
            case Waiting.SERVICE if waited > patience.service:
                return GatewayTimeout("the service did not finish its answer")
            case Waiting.READER if waited > patience.reader:
                return TooSlow("the answer was taken too slowly")
        return None

    def stop(self, verdict: GridcastError | Disconnected) -> None:
        """End it: whatever its task awaits is cancelled, and `verdict` says why."""
        if self.verdict is None:
            self.verdict = verdict
            self._task.cancel()


class Watch:
    """All exchanges of this process."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._live: dict[Exchange, Callable[[], bool]] = {}

    def begin(self, exchange: Exchange, is_alone: Callable[[], bool]) -> None:
        """Watch over `exchange`. `is_alone`: whether its client has gone; asked, for who asks ASGI would be given the body."""
        self._live[exchange] = is_alone

    def end(self, exchange: Exchange) -> None:
        """It is over."""
        del self._live[exchange]

    async def run(self) -> None:
        """Look after all of them until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK)
            now = loop.time()
            for exchange, is_alone in list(self._live.items()):
                if (error := exchange.overdue(now, self._patience)) is not None:
                    exchange.stop(error)
                elif is_alone():
                    exchange.stop(Disconnected())
