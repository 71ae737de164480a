"""Looks after streams whose publisher is silent: `interrupted` after a few seconds, ended when their grace is over.

Each replica runs it. The store decides by its own clock what is due, and which of them changes a state: that one publishes it.
"""

import asyncio
import logging
import random
from datetime import UTC, datetime

from services.common.errors import Conflict, GridcastError
from services.common.store.live_store import MAX_LISTED_STREAMS, LiveStore, LiveStream
from services.live.live_events import LiveEvents
from services.live.stream_ending import StreamEnder

INTERVAL_SECONDS = 1.0
WAITING_SECONDS = 86400.0
"""A stream that never gets a byte ends after this, or when its token has ended, whichever is later."""
END_ATTEMPT_SECONDS = 60.0

_log = logging.getLogger("gridcast.live")


class IdleStreams:
    """The loop. `interrupted_after` and `token_ttl` in seconds."""

    def __init__(
        self, live: LiveStore, ender: StreamEnder, events: LiveEvents, interrupted_after: float, token_ttl: float
    ) -> None:
        self._live = live
        self._ender = ender
        self._events = events
        self._interrupted_after = interrupted_after
        self._waiting = max(WAITING_SECONDS, token_ttl)

    async def run(self) -> None:
        """Look about every second until cancelled, with jitter so that replicas do not look in step."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311  # spreads load, not a secret
            try:
                await self.run_once()
            except GridcastError as error:
                _log.info("idle live streams not looked at: %s", error)
            except Exception:  # noqa: BLE001  # the next round finds everything again
                _log.exception("looking at idle live streams failed")

    async def run_once(self) -> None:
        """Interrupt and end what is due. Raises ServiceUnavailable."""
        for stream in await self._live.list_idle(("live",), self._interrupted_after, MAX_LISTED_STREAMS):
            await self._interrupt(stream)
        interrupted = await self._live.list_idle(("interrupted",), self._interrupted_after, MAX_LISTED_STREAMS)
        for grace in sorted({stream.new.grace for stream in interrupted}):
            idle = await self._live.list_idle(("interrupted",), self._interrupted_after + grace, MAX_LISTED_STREAMS)
            for stream in idle:
                if stream.new.grace == grace:
                    await self._end(stream, "interrupted")
        for stream in await self._live.list_idle(("waiting",), self._waiting, MAX_LISTED_STREAMS):
            await self._end(stream, "never started")

    async def _interrupt(self, stream: LiveStream) -> None:
        try:
            if not await self._live.set_state(stream.new.id, stream.fencing_token, "interrupted"):
                return
        except Conflict:  # another writer has the stream
            return
        since = stream.advanced_at or datetime.now(UTC)
        self._events.wake_readers(stream.new.id, stream.position.last_segment, "interrupted")
        self._events.publish(stream.new.id, "live.interrupted", {"since": since.isoformat(timespec="milliseconds")})

    async def _end(self, stream: LiveStream, reason: str) -> None:
        """One stream that cannot be ended must not keep the others."""
        try:
            async with asyncio.timeout(END_ATTEMPT_SECONDS):
                await self._ender.end(stream.new.id, reason)
        except (GridcastError, TimeoutError) as error:
            _log.warning("live stream %s not ended, will be tried again: %s", stream.new.id, str(error) or "timeout")
