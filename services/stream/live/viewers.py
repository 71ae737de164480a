"""Counts the viewers of live streams without cookies, over all replicas, and publishes the numbers.

Requests only add to a set in memory. Once a second it is hashed, sent to Redis, and forgotten.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from gridcast._bus.lua_script import LuaScript
from gridcast._bus.redis import RedisArgument, RedisReply
from services.common.aio.cancellation import cancel_and_wait
from services.common.errors import GridcastError, ServiceUnavailable
from services.common.live import viewer_counts

COUNT_SECONDS = 1.0
"""How often viewers are counted: an event at most as often."""
MAX_NEW_VIEWERS = 50_000
"""Of one stream in one second; more are not counted."""
VIEWERS_EVENT = "live.viewers"

COUNT_VIEWERS = LuaScript.load("services.stream", "count_viewers")
_log = logging.getLogger("gridcast.stream.live")


class ScriptRunner(Protocol):
    """The part of the client that counting needs. Raises ServiceUnavailable."""

    async def execute(self, *command: RedisArgument) -> RedisReply:
        """Run one command."""

    async def eval(self, script: LuaScript, keys: list[str], args: list[RedisArgument]) -> RedisReply:
        """Run a script."""


class Publish(Protocol):
    """Publishes an event to a topic. Raises GridcastError."""

    async def __call__(self, topic: str, type: str, data: object, *, conflation_key: bool) -> object:  # noqa: A002
        """Publish it."""


@dataclass(slots=True)
class _Audience:
    """Who asked for something of a stream since the last count. `is_unpublished`: the last
    count is another one than the published one. `quiet` counts how often there was no request and no viewer.
    """

    target: int
    seen: set[tuple[str, str]] = field(default_factory=set)
    viewers: int = 0
    quiet: int = 0
    is_unpublished: bool = False


class ViewerCounter:
    """Counts viewers. `clock` returns the Unix time in seconds, in step with the other replicas to a few seconds."""

    def __init__(self, redis: ScriptRunner, publish: Publish, clock: Callable[[], float] = time.time) -> None:
        self._redis = redis
        self._publish = publish
        self._clock = clock
        self._audiences: dict[str, _Audience] = {}
        self._salt = (b"", "")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to count."""
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Stop counting."""
        await cancel_and_wait(self._task)

    def add(self, stream_id: str, target: int, address: str, agent: str) -> None:
        """Note a request for a list or a segment of a stream."""
        audience = self._audiences.get(stream_id)
        if audience is None:
            audience = self._audiences[stream_id] = _Audience(target)
        if len(audience.seen) < MAX_NEW_VIEWERS:
            audience.seen.add((address, agent))

    def viewers(self, stream_id: str) -> int:
        """Return the last count of a stream; 0 where it has no viewer here."""
        audience = self._audiences.get(stream_id)
        return 0 if audience is None else audience.viewers

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            try:
                await self.count()
            except Exception:  # noqa: BLE001  # the next count may succeed
                _log.exception("viewers of live streams cannot be counted")

    async def count(self) -> None:
        """Count the viewers of all streams. Without Redis there is no count, and what was seen is forgotten."""
        for stream_id, audience in list(self._audiences.items()):
            seen, audience.seen = audience.seen, set()
            try:
                await self._count(stream_id, audience, seen)
            except GridcastError as error:
                audience.viewers, audience.is_unpublished = 0, False
                _log.debug("viewers of live stream %s: %s", stream_id, error.detail)
            audience.quiet = 0 if seen or audience.viewers or audience.is_unpublished else audience.quiet + 1
            if audience.quiet > 2 and not audience.seen:
                del self._audiences[stream_id]

    async def _count(self, stream_id: str, audience: _Audience, seen: set[tuple[str, str]]) -> None:
        now = self._clock()
        salt = await self._salt_of(now) if seen else b""
        newest = viewer_counts.bucket_of(now, audience.target)
        keys = [viewer_counts.count_key(stream_id), viewer_counts.turn_key(stream_id)]
        keys += [viewer_counts.bucket_key(stream_id, newest - age) for age in range(viewer_counts.BUCKETS)]
        args: list[RedisArgument] = [
            2 * viewer_counts.BUCKETS * viewer_counts.VIEWER_TARGETS * audience.target,
            viewer_counts.COUNT_LIFE_SECONDS,
            round(COUNT_SECONDS * 1000),
            *(viewer_counts.hash_viewer(salt, address, agent) for address, agent in seen),
        ]
        viewers, is_ours, is_published = await self._redis.eval(COUNT_VIEWERS, keys, args)
        audience.viewers, audience.is_unpublished = int(viewers), not is_published
        if is_ours:
            data = {"id": stream_id, "viewers": audience.viewers}
            await self._publish(f"live/{stream_id}", VIEWERS_EVENT, data, conflation_key=True)

    async def _salt_of(self, now: float) -> bytes:
        """Return the salt of the day, which the replicas share."""
        key = viewer_counts.salt_key(now)
        if self._salt[1] != key:
            fresh = secrets.token_bytes(32)
            await self._redis.execute("SET", key, fresh, "NX", "EX", viewer_counts.SALT_LIFE_SECONDS)
            found = await self._redis.execute("GET", key)
            if not isinstance(found, bytes):
                raise ServiceUnavailable("Redis has forgotten the salt of the day")
            self._salt = (found, key)
        return self._salt[0]
