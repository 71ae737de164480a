"""Who is waited for in an exchange, and for how long: a stalled one is ended, a slow but moving one never is.

One task looks at all exchanges four times a second, which costs a request nothing (a timer of its own would be set and taken back
for each). It also listens for clients that go away while they wait. It knows no HTTP client and no route.
"""

import asyncio
from dataclasses import dataclass
from enum import Enum, auto

from services.common.errors import GatewayTimeout, GridcastError, TooSlow
from services.common.web import Disconnected, Receive

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
        "_began",
        "_listener",
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
        self._began = self._since = now
        self._moved = 0
        self._seen = self.waiting = Waiting.ANSWER
        self._listener: asyncio.Task[None] | None = None
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

    def listen(self, receive: Receive, now: float) -> None:
        """Notice when the client goes. Not before the first look, so that short exchanges pay nothing."""
        if self.complete and self._listener is None and now - self._began > TICK / 2:
            self._listener = asyncio.create_task(self._await_end(receive))

    async def _await_end(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.stop(Disconnected())

    def done(self) -> None:
        """Nothing may be stopped any more."""
        if self._listener is not None:
            self._listener.cancel()


class Watch:
    """All exchanges of this process."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._live: dict[Exchange, Receive] = {}

    def begin(self, exchange: Exchange, receive: Receive) -> None:
        """Watch over `exchange`."""
        self._live[exchange] = receive

    def end(self, exchange: Exchange) -> None:
        """It is over."""
        del self._live[exchange]
        exchange.done()

    async def run(self) -> None:
        """Look after all of them until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK)
            now = loop.time()
            for exchange, receive in list(self._live.items()):
                if (error := exchange.overdue(now, self._patience)) is not None:
                    exchange.stop(error)
                else:
                    exchange.listen(receive, now)
