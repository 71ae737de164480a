"""Tells the replicas by Redis that reloads of a stream may block: the offer must not depend on which one answers."""

import asyncio
from typing import Protocol

from gridcast._bus.redis import RedisArgument, RedisReply
from services.common.aio.cancellation import cancel_and_wait
from services.common.errors import GridcastError
from services.common.live.viewer_counts import steady_key

MARK_LIFE_SECONDS = 2 * 86_400
LOOK_UP_TIMEOUT_SECONDS = 0.2
"""A list does not wait longer for it."""


class CommandRunner(Protocol):
    """The part of the client that marks need. Raises ServiceUnavailable."""

    async def execute(self, *command: RedisArgument) -> RedisReply:
        """Run one command."""


class RedisSteadyMarks:
    """Marks in Redis. While it is away there are none, and each replica finds out for itself."""

    def __init__(self, redis: CommandRunner) -> None:
        self._redis = redis
        self._writes: set[asyncio.Task[None]] = set()

    async def is_marked(self, stream_id: str) -> bool:
        """Look a mark up."""
        try:
            async with asyncio.timeout(LOOK_UP_TIMEOUT_SECONDS):
                return await self._redis.execute("GET", steady_key(stream_id)) is not None
        except (GridcastError, TimeoutError):
            return False

    def mark(self, stream_id: str) -> None:
        """Write a mark in the background."""
        task = asyncio.create_task(self._write(stream_id))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def aclose(self) -> None:
        """Give up what is not written."""
        await cancel_and_wait(*self._writes)

    async def _write(self, stream_id: str) -> None:
        try:
            await self._redis.execute("SET", steady_key(stream_id), "1", "EX", MARK_LIFE_SECONDS)
        except GridcastError:
            return  # another replica finds out for itself
