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

from services.common.aio.cancellation import cancel_and_wait
from services.common.bus.redis import REDIS_COMMAND_TIMEOUT_SECONDS, RedisClient, RedisConnection
from services.common.errors import ServiceUnavailable
from services.common.telemetry import metrics

SUBSCRIPTION_PING_INTERVAL_SECONDS = 1.0
MAX_UNANSWERED_PINGS = 3
"""A subscription that has heard nothing for so many pings is half open, and is opened anew."""
MAX_CHANNELS_PER_SUBSCRIBE = 1000
"""Channels of one command, which has its own time limit: 20,000 took 0.5 s on a quiet machine, and a replica may hear more."""
DISPATCH_TIME_SLICE_SECONDS = 0.02
"""A backlog is handed over without a pause for so long: reading what is there already gives no turn to anybody else."""
RECONNECT_BACKOFF_SECONDS = (0.05, 1.0)
"""Seconds between attempts to subscribe: doubled from the first to the second, up to half of it taken off by chance."""

_log = logging.getLogger("gridcast.pubsub")


class Subscription:
    """Channels heard over one connection. One connection, so messages come in the order in which Redis published them.

    `on_live(server)` is awaited each time the channels are confirmed, before the first message is handed over and
    before `live` is true; where it raises Unavailable all starts again. `server` is the run id of the Redis process:
    another one means another memory. Between `on_lost()` and the next `on_live` messages may have been missed.
    `heard` names the subscription in the metrics.
    """

    def __init__(
        self,
        redis: RedisClient,
        channels: Iterable[str],
        on_message: Callable[[bytes, bytes], None],
        *,
        name: str,
        on_subscribed: Callable[[str], Awaitable[None]] | None = None,
        on_disconnected: Callable[[], None] | None = None,
    ) -> None:
        self._redis = redis
        self._channels = set(channels)
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._on_disconnected = on_disconnected
        self._up_gauge = metrics.REDIS_SUBSCRIPTION_UP.labels(name)
        self._reconnects_counter = metrics.REDIS_SUBSCRIPTION_RECONNECTS.labels(name)
        self._connection: RedisConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._pending_subscribes: defaultdict[bytes, deque[asyncio.Future[None]]] = defaultdict(deque)
        self._pending_barriers: deque[asyncio.Future[None]] = deque()
        self._reconnect_requested = False
        self._has_subscribed_before = 0
        self.subscribed = False

    def start(self) -> None:
        """Begin; returns before anything is subscribed."""
        self._task = asyncio.create_task(self._reconnect_loop())

    async def aclose(self) -> None:
        """Stop hearing. `on_lost` is not called."""
        self.subscribed = False
        await cancel_and_wait(self._task)
        self._fail_pending()

    async def subscribe(self, channel: str) -> None:
        """Return once Redis has confirmed that `channel` is heard; Unavailable while the subscription is not live."""
        self._channels.add(channel)
        try:
            await self._send_and_wait(self._pending_subscribes[channel.encode()], "SUBSCRIBE", channel)
        except ServiceUnavailable:
            self._channels.discard(channel)
            raise

    async def unsubscribe(self, channel: str) -> None:
        """Hear no more of `channel`."""
        self._channels.discard(channel)
        if self.subscribed and self._connection is not None:
            with suppress(ServiceUnavailable):
                await self._connection.send("UNSUBSCRIBE", channel)

    async def barrier(self) -> None:
        """Return once all that was published on our channels before this call has been handed over."""
        await self._send_and_wait(self._pending_barriers, "PING", "flush")

    async def reconnect(self) -> None:
        """Open the connection anew, because its owner knows that something was missed."""
        self._reconnect_requested = True
        if self.subscribed and self._connection is not None:
            with suppress(ServiceUnavailable):
                await self._connection.send("PING", "renew")

    async def _send_and_wait(self, pending: deque[asyncio.Future[None]], *command: str) -> None:
        if not self.subscribed or self._connection is None:
            raise ServiceUnavailable("Redis is unavailable")
        answered = asyncio.get_running_loop().create_future()
        pending.append(answered)
        try:
            await self._connection.send(*command)
        except ServiceUnavailable:
            answered.cancel()
            raise
        await answered

    async def _reconnect_loop(self) -> None:
        pause = RECONNECT_BACKOFF_SECONDS[0]
        said = False
        while True:
            try:
                await self._connect_and_receive()
            except ServiceUnavailable as error:
                if self.subscribed or not said:
                    _log.warning("Redis subscription lost: %s", error.detail)
                said = True
            except Exception:  # noqa: BLE001  # it goes on listening, whatever its owner does
                _log.exception("unhandled exception in a subscription callback")
            if self.subscribed:
                pause = RECONNECT_BACKOFF_SECONDS[0]
                self.subscribed = False
                self._up_gauge.set(0)
                if self._on_disconnected is not None:
                    self._on_disconnected()
            self._fail_pending()
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads load, guards nothing
            pause = min(pause * 2, RECONNECT_BACKOFF_SECONDS[1])

    async def _connect_and_receive(self) -> None:
        line = self._connection = self._redis.new_connection()
        self._reconnect_requested = False
        try:
            await line.connect()
            server = await self._get_run_id(line) if self._on_subscribed is not None else ""
            early = await self._subscribe_all(line)
            if self._on_subscribed is not None:
                await self._on_subscribed(server)
            self.subscribed = True
            self._up_gauge.set(1)
            self._reconnects_counter.inc(self._has_subscribed_before)
            self._has_subscribed_before = 1
            clock = asyncio.get_running_loop().time
            turn = clock()
            silent = 0
            for reply in early:
                self._dispatch(reply)
                turn = await _yield_if_slice_used(turn, clock)
            while silent < MAX_UNANSWERED_PINGS and not self._reconnect_requested:
                reply = await line.read_reply(SUBSCRIPTION_PING_INTERVAL_SECONDS)
                if reply is None:
                    silent += 1
                    await line.send("PING", "alive")
                else:
                    silent = 0
                    self._dispatch(reply)
                turn = await _yield_if_slice_used(turn, clock)
            raise ServiceUnavailable("reconnect requested" if self._reconnect_requested else "Redis does not respond")
        finally:
            await line.close()

    async def _get_run_id(self, connection: RedisConnection) -> str:
        """Which process of Redis this is. Asked for only by who needs it: INFO is a right that not every user has."""
        try:
            async with asyncio.timeout(REDIS_COMMAND_TIMEOUT_SECONDS):
                await connection.send("INFO", "server")
                text: bytes | None = await connection.read_reply()
        except TimeoutError:
            text = None
        if text is None:
            raise ServiceUnavailable("Redis does not respond")
        return text.partition(b"run_id:")[2].split(b"\r\n", 1)[0].decode()

    async def _subscribe_all(self, connection: RedisConnection) -> list[Any]:
        """Subscribe to all channels. The messages that came before the last confirmation."""
        early: list[Any] = []
        try:
            wanted = sorted(self._channels)
            for start in range(0, len(wanted), MAX_CHANNELS_PER_SUBSCRIBE):
                async with asyncio.timeout(REDIS_COMMAND_TIMEOUT_SECONDS):
                    early += await self._subscribe_batch(connection, wanted[start : start + MAX_CHANNELS_PER_SUBSCRIBE])
        except TimeoutError:
            raise ServiceUnavailable("Redis does not respond") from None
        return early

    async def _subscribe_batch(self, connection: RedisConnection, channels: Sequence[str]) -> list[Any]:
        await connection.send("SUBSCRIBE", *channels)
        early = []
        missing = len(channels)
        while missing:
            reply = await connection.read_reply()
            if reply[0] == b"subscribe":
                missing -= 1
            else:
                early.append(reply)
        return early

    def _dispatch(self, reply: list[Any]) -> None:
        match reply:
            case [b"message", channel, payload]:
                self._on_message(channel, payload)
            case [b"subscribe", channel, _]:
                _resolve_oldest(self._pending_subscribes[channel])
                if not self._pending_subscribes[channel]:
                    del self._pending_subscribes[channel]
            case [b"pong", b"flush"]:
                _resolve_oldest(self._pending_barriers)

    def _fail_pending(self) -> None:
        waiting = [*self._pending_barriers, *(one for several in self._pending_subscribes.values() for one in several)]
        self._pending_barriers.clear()
        self._pending_subscribes.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(ServiceUnavailable("Redis is unavailable"))


async def _yield_if_slice_used(slice_started_at: float, clock: Callable[[], float]) -> float:
    """Give others their turn where this one, begun at `turn`, is long enough. When the turn began that runs now."""
    if clock() - slice_started_at < DISPATCH_TIME_SLICE_SECONDS:
        return slice_started_at
    await asyncio.sleep(0)
    return clock()


def _resolve_oldest(pending: deque[asyncio.Future[None]]) -> None:
    if pending and not (first := pending.popleft()).done():
        first.set_result(None)
