"""A subscription on a fake connection: it yields to the event loop, and every connection error is ServiceUnavailable."""

import asyncio
import time
from typing import Any, cast

import pytest

from gridcast._bus.redis import RedisConnection
from gridcast.errors import RedisUnavailable
from services.common.bus.redis import RedisClient
from services.common.bus.subscription import Subscription

pytestmark = pytest.mark.anyio
MESSAGE_COUNT = 400


class BackloggedConnection:
    """A connection whose data is all available: no read of it waits."""

    def __init__(self) -> None:
        self.remaining = MESSAGE_COUNT
        self.subscribed = False

    async def connect(self) -> None:
        pass

    async def send(self, *command: str) -> None:
        self.subscribed = command[0] == "SUBSCRIBE"

    async def read_reply(self, seconds: float = 0.0) -> Any:
        if self.remaining > MESSAGE_COUNT // 2 or not self.subscribed:
            self.remaining -= 1  # half of them before the confirmation
            return [b"message", b"news", b"x"]
        if self.subscribed and self.remaining == MESSAGE_COUNT // 2:
            self.remaining -= 1
            return [b"subscribe", b"news", 1]
        if self.remaining >= 0:
            self.remaining -= 1
            return [b"message", b"news", b"x"]
        await asyncio.sleep(seconds)
        return None

    async def close(self) -> None:
        pass


class FakeRedis:
    """A Redis client with that connection."""

    def new_connection(self) -> RedisConnection:
        return cast("RedisConnection", BackloggedConnection())


async def test_backlog_yields_to_other_tasks() -> None:
    """400 messages of 1 ms each: pings, timers and other sockets run in between."""
    heard = 0

    def hear(_channel: bytes, _payload: bytes) -> None:
        nonlocal heard
        heard += 1
        time.sleep(0.001)

    subscription = Subscription(cast("RedisClient", FakeRedis()), ["news"], hear, name="test")
    subscription.start()
    longest, then = 0.0, time.monotonic()
    while heard < MESSAGE_COUNT:
        await asyncio.sleep(0)
        longest, then = max(longest, time.monotonic() - then), time.monotonic()
    await subscription.aclose()
    assert longest < 0.15


class ResetConnection:
    """redis-py's connection after a reset, as uvloop has it."""

    async def connect(self) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    async def send_command(self, *command: str, check_health: bool) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")


async def test_connection_reset_is_redis_unavailable() -> None:
    line = RedisConnection(ResetConnection())
    with pytest.raises(RedisUnavailable):
        await line.connect()
    with pytest.raises(RedisUnavailable):
        await line.send("PING")
