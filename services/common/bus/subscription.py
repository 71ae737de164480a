"""A Redis subscription that reconnects after every failure and reports when messages may have been missed."""

import asyncio
import logging
import random
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from gridcast._bus.redis import REDIS_COMMAND_TIMEOUT_SECONDS, RedisConnection
from gridcast.errors import RedisUnavailable
from services.common.aio.cancellation import cancel_and_wait
from services.common.bus.errors import translate_bus_error
from services.common.bus.redis import RedisClient
from services.common.errors import ServiceUnavailable
from services.common.telemetry import metrics

SUBSCRIPTION_PING_INTERVAL_SECONDS = 1.0
MAX_UNANSWERED_PINGS = 3
"""A connection without any reply for this many pings is half open; the subscription reconnects."""
MAX_CHANNELS_PER_SUBSCRIBE = 1000
"""Channels in one SUBSCRIBE, which has its own time limit: 20,000 took 0.5 s on an idle machine, and a replica may have more."""
DISPATCH_TIME_SLICE_SECONDS = 0.02
"""Seconds for which a backlog is dispatched before other tasks run: reading buffered replies never yields to the event loop."""
ALIVE_CHANNEL = "gridcast:alive"
BARRIER_CHANNEL = "gridcast:barrier"
"""Never subscribed to. UNSUBSCRIBE is answered in its turn, as PING is, but also by a Redis that cannot save its data (MISCONF)."""
RECONNECT_BACKOFF_SECONDS = (0.05, 1.0)
"""Seconds between attempts to subscribe: the first value, doubled up to the second, less a random part of up to one half."""

_log = logging.getLogger("gridcast.pubsub")


class Subscription:
    """Channels over one connection, so that messages arrive in the order in which Redis published them.

    `on_subscribed(run_id)` is awaited each time all channels are confirmed, before the first message is dispatched and before
    `subscribed` is true; if it raises ServiceUnavailable, the subscription reconnects. `run_id` identifies the Redis process:
    a different one has a different memory. Between `on_disconnected()` and the next `on_subscribed` messages may have been missed.
    `name` is the label of the subscription in the metrics.
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
        """Start connecting in the background. Returns before anything is subscribed."""
        self._task = asyncio.create_task(self._reconnect_loop())

    async def aclose(self) -> None:
        """Disconnect. `on_disconnected` is not called."""
        self.subscribed = False
        await cancel_and_wait(self._task)
        self._fail_pending()

    async def subscribe(self, channel: str) -> None:
        """Return once Redis has confirmed `channel`. Raises ServiceUnavailable while `subscribed` is false."""
        self._channels.add(channel)
        try:
            await self._send_and_wait(self._pending_subscribes[channel.encode()], "SUBSCRIBE", channel)
        except ServiceUnavailable:
            self._channels.discard(channel)
            raise

    async def unsubscribe(self, channel: str) -> None:
        """Unsubscribe from `channel`, without waiting for the confirmation."""
        self._channels.discard(channel)
        if self.subscribed and self._connection is not None:
            with suppress(RedisUnavailable):
                await self._connection.send("UNSUBSCRIBE", channel)

    async def barrier(self) -> None:
        """Return once every message that was published on the channels before this call has been dispatched."""
        await self._send_and_wait(self._pending_barriers, "UNSUBSCRIBE", BARRIER_CHANNEL)

    async def reconnect(self) -> None:
        """Reconnect, because the owner has found that messages were missed."""
        self._reconnect_requested = True
        if self.subscribed and self._connection is not None:
            with suppress(RedisUnavailable):
                await self._connection.send("UNSUBSCRIBE", ALIVE_CHANNEL)

    async def _send_and_wait(self, pending: deque[asyncio.Future[None]], *command: str) -> None:
        if not self.subscribed or self._connection is None:
            raise ServiceUnavailable("Redis is unavailable")
        confirmed = asyncio.get_running_loop().create_future()
        pending.append(confirmed)
        try:
            await self._connection.send(*command)
        except RedisUnavailable as error:
            confirmed.cancel()
            raise translate_bus_error(error) from None
        await confirmed

    async def _reconnect_loop(self) -> None:
        pause = RECONNECT_BACKOFF_SECONDS[0]
        logged = False
        while True:
            try:
                await self._connect_and_receive()
            except (RedisUnavailable, ServiceUnavailable) as error:
                if self.subscribed or not logged:
                    _log.warning("Redis subscription lost: %s", error)
                logged = True
            except Exception:  # noqa: BLE001  # the subscription outlives any error of its callbacks
                _log.exception("unhandled exception in a subscription callback")
            if self.subscribed:
                pause = RECONNECT_BACKOFF_SECONDS[0]
                self.subscribed = False
                self._up_gauge.set(0)
                if self._on_disconnected is not None:
                    self._on_disconnected()
            self._fail_pending()
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, not a secret
            pause = min(pause * 2, RECONNECT_BACKOFF_SECONDS[1])

    async def _connect_and_receive(self) -> None:
        connection = self._connection = self._redis.new_connection()
        self._reconnect_requested = False
        try:
            await connection.connect()
            run_id = await self._get_run_id(connection) if self._on_subscribed is not None else ""
            early = await self._subscribe_all(connection)
            if self._on_subscribed is not None:
                await self._on_subscribed(run_id)
            self.subscribed = True
            self._up_gauge.set(1)
            self._reconnects_counter.inc(self._has_subscribed_before)
            self._has_subscribed_before = 1
            clock = asyncio.get_running_loop().time
            slice_started_at = clock()
            unanswered_pings = 0
            for reply in early:
                self._dispatch(reply)
                slice_started_at = await _yield_if_slice_used(slice_started_at, clock)
            while unanswered_pings < MAX_UNANSWERED_PINGS and not self._reconnect_requested:
                reply = await connection.read_reply(SUBSCRIPTION_PING_INTERVAL_SECONDS)
                if reply is None:
                    unanswered_pings += 1
                    await connection.send("UNSUBSCRIBE", ALIVE_CHANNEL)
                else:
                    unanswered_pings = 0
                    self._dispatch(reply)
                slice_started_at = await _yield_if_slice_used(slice_started_at, clock)
            raise RedisUnavailable("reconnect requested" if self._reconnect_requested else "Redis does not respond")
        finally:
            await connection.close()

    async def _get_run_id(self, connection: RedisConnection) -> str:
        """The run id of the Redis process. Read only for `on_subscribed`: not every Redis user may run INFO."""
        try:
            async with asyncio.timeout(REDIS_COMMAND_TIMEOUT_SECONDS):
                await connection.send("INFO", "server")
                text: bytes | None = await connection.read_reply()
        except TimeoutError:
            text = None
        if text is None:
            raise RedisUnavailable("Redis does not respond")
        return text.partition(b"run_id:")[2].split(b"\r\n", 1)[0].decode()

    async def _subscribe_all(self, connection: RedisConnection) -> list[Any]:
        """Subscribe to all channels. Returns the messages that arrived before the last confirmation."""
        early: list[Any] = []
        try:
            channels = sorted(self._channels)
            for start in range(0, len(channels), MAX_CHANNELS_PER_SUBSCRIBE):
                async with asyncio.timeout(REDIS_COMMAND_TIMEOUT_SECONDS):
                    early += await self._subscribe_batch(
                        connection, channels[start : start + MAX_CHANNELS_PER_SUBSCRIBE]
                    )
        except TimeoutError:
            raise RedisUnavailable("Redis does not respond") from None
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
            case [b"unsubscribe", channel, _] if channel == BARRIER_CHANNEL.encode():
                _resolve_oldest(self._pending_barriers)

    def _fail_pending(self) -> None:
        pending = [*self._pending_barriers]
        for subscribes in self._pending_subscribes.values():
            pending += subscribes
        self._pending_barriers.clear()
        self._pending_subscribes.clear()
        for future in pending:
            if not future.done():
                future.set_exception(ServiceUnavailable("Redis is unavailable"))


async def _yield_if_slice_used(slice_started_at: float, clock: Callable[[], float]) -> float:
    """Let other tasks run if the time slice is used up. Returns when the current slice started."""
    if clock() - slice_started_at < DISPATCH_TIME_SLICE_SECONDS:
        return slice_started_at
    await asyncio.sleep(0)
    return clock()


def _resolve_oldest(pending: deque[asyncio.Future[None]]) -> None:
    if pending and not (first := pending.popleft()).done():
        first.set_result(None)
