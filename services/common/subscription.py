"""Channels of Redis, heard for ever: opened anew after every fault, and the owner is told what may have been missed.

It knows a connection and its four replies; it knows no channel of ours and nothing of what the messages mean.
"""

import asyncio
import logging
import random
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from services.common import metrics
from services.common.errors import Unavailable
from services.common.redis import ANSWER_SECONDS, Line, Redis
from services.common.tasks import end

PING_SECONDS = 1.0
SILENT_PINGS = 3
"""A subscription that has heard nothing for so many pings is half open, and is opened anew."""
TOGETHER = 1000
"""Channels of one command, which has its own time limit: 20,000 took 0.5 s on a quiet machine, and a replica may hear more."""
TURN_SECONDS = 0.02
"""A backlog is handed over without a pause for so long: reading what is there already gives no turn to anybody else."""
BACKOFF = (0.05, 1.0)
"""Seconds between attempts to subscribe: doubled from the first to the second, up to half of it taken off by chance."""

_log = logging.getLogger("gridcast.subscription")


class Subscription:
    """Channels heard over one connection. One connection, so messages come in the order in which Redis published them.

    `on_live(server)` is awaited each time the channels are confirmed, before the first message is handed over and
    before `live` is true; where it raises Unavailable all starts again. `server` is the run id of the Redis process:
    another one means another memory. Between `on_lost()` and the next `on_live` messages may have been missed.
    `heard` names the subscription in the metrics.
    """

    def __init__(
        self,
        redis: Redis,
        channels: Iterable[str],
        on_message: Callable[[bytes, bytes], None],
        *,
        heard: str,
        on_live: Callable[[str], Awaitable[None]] | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self._redis = redis
        self._channels = set(channels)
        self._on_message = on_message
        self._on_live = on_live
        self._on_lost = on_lost
        self._gauge = metrics.SUBSCRIPTION_LIVE.labels(heard)
        self._anew = metrics.RESUBSCRIPTIONS.labels(heard)
        self._line: Line | None = None
        self._task: asyncio.Task[None] | None = None
        self._confirming: defaultdict[bytes, deque[asyncio.Future[None]]] = defaultdict(deque)
        self._flushing: deque[asyncio.Future[None]] = deque()
        self._stale = False
        self._lives = 0
        self.live = False

    def start(self) -> None:
        """Begin; returns before anything is subscribed."""
        self._task = asyncio.create_task(self._supervise())

    async def aclose(self) -> None:
        """Stop hearing. `on_lost` is not called."""
        self.live = False
        await end(self._task)
        self._fail_waiting()

    async def subscribe(self, channel: str) -> None:
        """Return once Redis has confirmed that `channel` is heard; Unavailable while the subscription is not live."""
        self._channels.add(channel)
        try:
            await self._ask(self._confirming[channel.encode()], "SUBSCRIBE", channel)
        except Unavailable:
            self._channels.discard(channel)
            raise

    async def unsubscribe(self, channel: str) -> None:
        """Hear no more of `channel`."""
        self._channels.discard(channel)
        if self.live and self._line is not None:
            with suppress(Unavailable):
                await self._line.send("UNSUBSCRIBE", channel)

    async def flush(self) -> None:
        """Return once all that was published on our channels before this call has been handed over."""
        await self._ask(self._flushing, "PING", "flush")

    async def renew(self) -> None:
        """Open the connection anew, because its owner knows that something was missed."""
        self._stale = True
        if self.live and self._line is not None:
            with suppress(Unavailable):
                await self._line.send("PING", "renew")

    async def _ask(self, waiting: deque[asyncio.Future[None]], *command: str) -> None:
        if not self.live or self._line is None:
            raise Unavailable("Redis is away")
        answered = asyncio.get_running_loop().create_future()
        waiting.append(answered)
        try:
            await self._line.send(*command)
        except Unavailable:
            answered.cancel()
            raise
        await answered

    async def _supervise(self) -> None:
        pause = BACKOFF[0]
        said = False
        while True:
            try:
                await self._hear()
            except Unavailable as error:
                if self.live or not said:
                    _log.warning("subscription lost: %s", error.detail)
                said = True
            except Exception:  # noqa: BLE001  # it goes on listening, whatever its owner does
                _log.exception("a fault in what listens")
            if self.live:
                pause = BACKOFF[0]
                self.live = False
                self._gauge.set(0)
                if self._on_lost is not None:
                    self._on_lost()
            self._fail_waiting()
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads load, guards nothing
            pause = min(pause * 2, BACKOFF[1])

    async def _hear(self) -> None:
        line = self._line = self._redis.line()
        self._stale = False
        try:
            await line.open()
            server = await self._run_id(line) if self._on_live is not None else ""
            early = await self._confirm(line)
            if self._on_live is not None:
                await self._on_live(server)
            self.live = True
            self._gauge.set(1)
            self._anew.inc(self._lives)
            self._lives = 1
            clock = asyncio.get_running_loop().time
            turn = clock()
            silent = 0
            for reply in early:
                self._handle(reply)
                turn = await _share(turn, clock)
            while silent < SILENT_PINGS and not self._stale:
                reply = await line.read(PING_SECONDS)
                if reply is None:
                    silent += 1
                    await line.send("PING", "alive")
                else:
                    silent = 0
                    self._handle(reply)
                turn = await _share(turn, clock)
            raise Unavailable("its memory has changed" if self._stale else "Redis does not answer")
        finally:
            await line.close()

    async def _run_id(self, line: Line) -> str:
        """Which process of Redis this is. Asked for only by who needs it: INFO is a right that not every user has."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await line.send("INFO", "server")
                text: bytes | None = await line.read()
        except TimeoutError:
            text = None
        if text is None:
            raise Unavailable("Redis does not answer")
        return text.partition(b"run_id:")[2].split(b"\r\n", 1)[0].decode()

    async def _confirm(self, line: Line) -> list[Any]:
        """Subscribe to all channels. The messages that came before the last confirmation."""
        early: list[Any] = []
        try:
            wanted = sorted(self._channels)
            for start in range(0, len(wanted), TOGETHER):
                async with asyncio.timeout(ANSWER_SECONDS):
                    early += await self._confirm_some(line, wanted[start : start + TOGETHER])
        except TimeoutError:
            raise Unavailable("Redis does not answer") from None
        return early

    async def _confirm_some(self, line: Line, channels: Sequence[str]) -> list[Any]:
        await line.send("SUBSCRIBE", *channels)
        early = []
        missing = len(channels)
        while missing:
            reply = await line.read()
            if reply[0] == b"subscribe":
                missing -= 1
            else:
                early.append(reply)
        return early

    def _handle(self, reply: list[Any]) -> None:
        match reply:
            case [b"message", channel, payload]:
                self._on_message(channel, payload)
            case [b"subscribe", channel, _]:
                _answer(self._confirming[channel])
                if not self._confirming[channel]:
                    del self._confirming[channel]
            case [b"pong", b"flush"]:
                _answer(self._flushing)

    def _fail_waiting(self) -> None:
        waiting = [*self._flushing, *(one for several in self._confirming.values() for one in several)]
        self._flushing.clear()
        self._confirming.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(Unavailable("Redis is away"))


async def _share(turn: float, clock: Callable[[], float]) -> float:
    """Give others their turn where this one, begun at `turn`, is long enough. When the turn began that runs now."""
    if clock() - turn < TURN_SECONDS:
        return turn
    await asyncio.sleep(0)
    return clock()


def _answer(waiting: deque[asyncio.Future[None]]) -> None:
    if waiting and not (first := waiting.popleft()).done():
        first.set_result(None)
