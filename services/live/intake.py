"""Takes the bytes of one publisher of one stream: paces it, makes its media durable, and tells its viewers and its sender.

The ways in (`tus`, `body`, `objects`) read requests and call this; events and limits are no matter of the writer below it.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from services.common.errors import (
    BadRequest,
    Conflict,
    ContentTooLarge,
    Gone,
    GridcastError,
    ServiceUnavailable,
    UnsupportedMediaType,
)
from services.common.live.initialisation import IncompatibleInit, InitSegment, UnsupportedMedia, read_init
from services.common.live.playlist import LEAST_TARGETS
from services.common.live.segments import Segment
from services.common.store.live_store import MAX_RECORDINGS, LivePosition, LiveStream
from services.live.live_events import LiveEvents
from services.live.recordings import Recordings, may_change
from services.live.session import Session, Step
from services.live.stream_limits import Extent, StreamLimits
from services.live.stream_memory import StreamMemory
from services.live.stream_writer import Flush, StreamWriter

FLUSH_INTERVAL_SECONDS = 1.0
"""What a slow publisher has sent becomes durable after this time, though no segment is complete."""

_log = logging.getLogger("gridcast.live")


class LimitReached(ContentTooLarge):
    """413: the stream has as much as it may have. It is ended, and what came is kept."""

    def __init__(self, limit: str) -> None:
        super().__init__(f"the stream has reached its limit of {limit} and has ended")
        self.limit = limit


class MediaChanged(UnsupportedMediaType):
    """415: the sender goes on with media that does not fit into the file, and the stream cannot have another one (ADR 54).

    `is_rendition` as `IncompatibleInit` has it.
    """

    def __init__(self, error: IncompatibleInit) -> None:
        super().__init__(
            f"the stream cannot be taken: {error}; one that has {MAX_RECORDINGS} files ends here: "
            "make another stream (POST /live) for what follows"
        )
        self.is_rendition = error.is_rendition


@dataclass(frozen=True, slots=True)
class IntakeRules:
    """`interrupted_after` in seconds."""

    interrupted_after: float


class Intake:
    """One publisher's request. Must not be called concurrently.

    `sid` is the socket that hears what is durable, None for none. `on_lost` is called when another writer acquires the stream.
    Without `takes_renditions` media of other kinds of tracks are refused, and the stream goes on as it was.
    """

    def __init__(
        self,
        writer: StreamWriter,
        recordings: Recordings,
        events: LiveEvents,
        memory: StreamMemory,
        rules: IntakeRules,
        sid: str | None,
        on_lost: Callable[[Conflict], object],
        *,
        takes_renditions: bool,
    ) -> None:
        self.writer = writer
        self._recordings = recordings
        self._on_lost = on_lost
        self._takes_renditions = takes_renditions
        self._stream_id = writer.stream.new.id
        self._events = events
        self._memory = memory
        self._rules = rules
        self._sid = sid
        self._limits = StreamLimits.from_json(writer.stream.new.limits_json)
        self._is_interrupted = writer.stream.state == "interrupted"
        self._has_unflushed = False

    @property
    def session(self) -> Session:
        """The session of the writer."""
        return self.writer.session

    async def begin_source(self) -> None:
        """Begin with another sender: what the last one left open is closed, and listed at once."""
        await self._take(self.session.begin_source())
        await self.flush()

    async def break_time(self) -> None:
        """Begin an epoch, because media is missing in front of what comes."""
        await self._take(self.session.break_time())

    async def feed(self, data: bytes) -> None:
        """Take bytes of the sender; waits where they come too fast or the store is behind.

        Raises BadRequest or UnsupportedMediaType for what is not taken: what was complete before it is durable then. Raises
        LimitReached, and as `StreamWriter.flush`.
        """
        while data := await self._feed(data):
            continue
        if (delay := self._memory.pacer.delay(self.session.seconds, time.monotonic())) > 0:
            if self._has_unflushed:
                await self.flush()
            await asyncio.sleep(min(delay, self._rules.interrupted_after / 2))

    async def _feed(self, data: bytes) -> bytes:
        """Take bytes, and return those that go into another file."""
        step = self.session.feed(data, time.time())
        await self._take(step)
        self._has_unflushed = True
        if step.segments or step.error is not None:
            await self.flush()
        else:
            await self.flush_if_due()
        if step.error is None:
            return b""
        if not isinstance(step.error, IncompatibleInit) or not await self._change_file(step.error):
            raise refusal(step.error, self.session.init)
        return step.refused

    async def _change_file(self, error: IncompatibleInit) -> bool:
        """Go on in another file; False where that is not to be."""
        if error.is_rendition and not self._takes_renditions:
            return False
        if self.session.has_begun and not may_change(self.writer.stream):
            return False
        await self._take(self.session.close_file())
        if self.session.has_begun:
            await self.flush()
            self.writer = await self._recordings.change(self.writer, self._on_lost)
        else:
            self.writer.session = self.session.without_init()
        return True

    async def flush_if_due(self) -> None:
        """Make durable what has waited for FLUSH_INTERVAL_SECONDS."""
        if self._has_unflushed and time.monotonic() - self.writer.flushed_at >= FLUSH_INTERVAL_SECONDS:
            await self.flush()

    async def flush(self, *, keep_lease: bool = True) -> None:
        """Make durable and visible what was taken, and publish what follows from it. Raises LimitReached."""
        if time.monotonic() - self.writer.flushed_at > self._rules.interrupted_after:
            self._is_interrupted = self._is_interrupted or await self.writer.is_interrupted()
        flush = await self.writer.flush(keep_lease=keep_lease)
        self._has_unflushed = False
        self._publish(flush)
        extent = extent_of(self.writer.stream, flush.position)
        rate = self._memory.meter.add(extent)
        if self._limits.rate and rate is not None and rate > self._limits.rate:
            raise LimitReached("rate")
        if (limit := self._limits.exceeded(extent)) is not None:
            raise LimitReached(limit)

    async def close_segment(self) -> None:
        """Close the open segment and make it durable: the sender has ended. The next writer may begin at once."""
        await self._take(self.session.end())
        await self.flush(keep_lease=False)

    async def save(self) -> None:
        """Make durable what may be kept after an error. Never raises: what is lost was not acknowledged."""
        with suppress(GridcastError):
            await self.flush(keep_lease=False)

    async def _take(self, step: Step) -> None:
        await self.writer.take(step)

    def _publish(self, flush: Flush) -> None:
        new, last = self.writer.stream.new, flush.position.last_segment
        if flush.segments or self._is_interrupted:
            self._events.wake_readers(self._stream_id, last, "live" if last >= 0 else "waiting")
        self._events.tell_publisher(self._sid, self._stream_id, flush.position.sender_offset, last)
        least = LEAST_TARGETS * new.target
        stream = self.writer.stream
        if listed_seconds(stream, flush.before) < least <= listed_seconds(stream, flush.position):
            epoch = self.session.last_epoch
            init = None if epoch is None else read_init(epoch.init)
            self._events.publish(self._stream_id, "live.started", describe_media(self._stream_id, init))
        if self._is_interrupted and last >= 0:
            self._is_interrupted = False
            number = None if self.session.last_epoch is None else self.session.last_epoch.number
            self._events.publish(self._stream_id, "live.resumed", {"epoch": number})
        for limit, seconds in self._limits.warnings(extent_of(stream, flush.before), extent_of(stream, flush.position)):
            self._warn("limit", {"limit": limit, "seconds": round(seconds)})
        if flush.segments:
            self._warn_of_long_segments(flush.segments)
            self._warn_of_rate(flush.segments)

    def _warn_of_long_segments(self, segments: tuple[Segment, ...]) -> None:
        """Warn once where the key frames of the sender are too rare for the target duration."""
        target = self.writer.stream.new.target
        is_long = any(one.seconds >= target + 0.5 or (not one.is_key and one.number) for one in segments)
        if is_long and self._memory.warn_once("gop"):
            self._warn("gop", {"target": target})

    def _warn_of_rate(self, segments: tuple[Segment, ...]) -> None:
        """Warn once where these segments have more bytes a second than the stream may have."""
        limit, seconds = self._limits.rate, sum(segment.seconds for segment in segments)
        if not limit or not seconds:
            return
        rate = sum(segment.size for segment in segments) / seconds
        if rate > limit and self._memory.warn_once("rate"):
            self._warn("rate", {"rate": round(rate), "limit": limit})

    def _warn(self, kind: str, data: dict[str, object]) -> None:
        self._events.publish(self._stream_id, "live.warning", {"kind": kind, **data})


def describe_media(stream_id: str, init: InitSegment | None) -> dict[str, object]:
    """What `live.started` says."""
    return {
        "codecs": [] if init is None else list(init.codecs),
        "width": (init.width or None) if init is not None else None,
        "height": (init.height or None) if init is not None else None,
        "playlist": f"/live/{stream_id}/index.m3u8",
    }


def listed_seconds(stream: LiveStream, position: LivePosition) -> float:
    """Seconds of media in complete segments of a stream, at a position in its last file."""
    if position.open_segment is not None:
        in_file = position.open_segment.start / position.open_segment.timescale
    else:
        in_file = position.file_end / position.timescale if position.last_segment >= 0 else 0.0
    return stream.before.milliseconds / 1000 + in_file


def extent_of(stream: LiveStream, position: LivePosition) -> Extent:
    """How much there is of a stream at a position in its last file."""
    before = stream.before
    return Extent(before.bytes + position.offset, before.milliseconds / 1000 + position.file_end / position.timescale)


def refusal(error: UnsupportedMedia, init: InitSegment | None) -> GridcastError:
    """Return the error response for bytes that are not taken: 415 where they are no media that is taken, 400 for broken ones."""
    if isinstance(error, IncompatibleInit):
        return MediaChanged(error)
    if init is None:
        return UnsupportedMediaType(f"the stream cannot be taken: {error}")
    return BadRequest(f"the stream cannot be continued with these bytes: {error}")


def is_fenced_off(error: BaseException) -> bool:
    """Whether nothing can be saved: another writer has the stream, it has ended, or the store is unavailable."""
    return isinstance(error, (Gone, Conflict, ServiceUnavailable))
