"""One live stream as this process knows it: its list, and the requests that wait for more of it.

The store is asked by one query at a time, however many requests wait. Wake-ups say when; where they do not come it is asked from
time to time. A request that waits costs a future and a timer.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Protocol, TypeVar

from services.common.aio.cancellation import cancel_and_wait
from services.common.aio.singleflight import SingleFlight
from services.common.asgi import ClientDisconnected
from services.common.errors import NotFound, ServiceUnavailable
from services.common.live.initialisation import InitSegment, read_init
from services.common.live.playlist import Kind, Playlist
from services.common.live.reload import Cadence
from services.common.live.segments import Epoch, Segment
from services.common.store.live_store import MAX_SEGMENTS_READ, LiveStream
from services.stream.live.renderings import Renderings

VOD_AFTER_SECONDS = 600.0
"""A list that was live stays an EVENT list for who has it. One that is loaded so long after the end is a VOD list."""
QUIET_TARGETS = 1.5
"""Target durations without a wake-up after which the store is asked although wake-ups come."""
UNHEARD_TARGETS = 0.5
"""The same where no wake-ups come."""
ENDED_TARGETS = 5
"""The same after the end: the stream may be deleted."""
DISCONNECT_CHECK_SECONDS = 1.0
"""How often clients that wait are looked at: those that have gone free their places."""
MIN_LOOK_UP_INTERVAL_SECONDS = 0.25
"""Requests for segments that are not known yet make the store be asked so often, at most; likewise after a failure."""
RECENT_SECONDS = 10.0
"""For so long segments of a stream are answered that may have been deleted."""
STALE_AFTER_SECONDS = 1.0
"""A list that is known is answered as it is where the store takes longer."""

_log = logging.getLogger("gridcast.stream.live")
T = TypeVar("T")


class StreamReader(Protocol):
    """The part of the store's port that lists need."""

    async def get_stream(self, stream_id: str) -> LiveStream | None:
        """Return a stream, None where there is none."""

    async def read_segments(self, stream_id: str, first: int, limit: int = MAX_SEGMENTS_READ) -> Sequence[Segment]:
        """Return complete segments from number `first` on."""


class SteadyMarks(Protocol):
    """What the replicas tell each other: that reloads of a stream may block. None of them takes the offer back. Raises nothing."""

    async def is_marked(self, stream_id: str) -> bool:
        """Whether another replica offers it."""

    def mark(self, stream_id: str) -> None:
        """Say that this one does."""


@dataclass(eq=False, slots=True)
class _Waiter:
    """A request that waits for a segment: the result is whether it is there, or the stream has ended."""

    number: int
    future: "asyncio.Future[bool]"
    has_gone: Callable[[], bool]


class StreamLoader:
    """Loads one stream, and wakes those that wait for its next segment.

    Arguments:
        stream_id: the stream.
        reader: the store.
        hears_wake_ups: whether `wake_up` is called for each change as it happens.
        marks: see `SteadyMarks`.
        clock: seconds of a clock that is never set back.

    """

    def __init__(
        self,
        stream_id: str,
        reader: StreamReader,
        hears_wake_ups: Callable[[], bool],
        marks: SteadyMarks,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stream_id = stream_id
        self.used_at = clock()
        self._reader = reader
        self._hears_wake_ups = hears_wake_ups
        self._marks = marks
        self._clock = clock
        self._stream: LiveStream | None = None
        self._playlist: Playlist | None = None
        self._renderings: Renderings | None = None
        self._epochs: dict[int, Epoch] = {}
        self._cadence = Cadence()
        self._asked_at = 0.0
        self._is_stale = True
        self._has_failed = False
        self._flight = SingleFlight(self._read_until_current)
        self._waiters: set[_Waiter] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None

    # What is known, once `ensure_current` has returned.

    @property
    def stream(self) -> LiveStream:
        """The stream as the store had it last."""
        return _known(self._stream)

    @property
    def playlist(self) -> Playlist:
        """Its list."""
        return _known(self._playlist)

    @property
    def renderings(self) -> Renderings:
        """The texts of its list."""
        return _known(self._renderings)

    @cached_property
    def init(self) -> InitSegment:
        """The first initialisation segment, which says what the stream is made of. There is one where there is a segment."""
        return read_init(self._epochs[self.playlist.segments[0].epoch].init)

    @property
    def is_known(self) -> bool:
        """Whether the store had the stream when it was asked last."""
        return self._stream is not None

    @property
    def is_current(self) -> bool:
        """Whether nothing need be asked before an answer."""
        return self._stream is not None and not self._is_stale and self._clock() < self._next_question()

    @property
    def is_recent(self) -> bool:
        """Whether the store had the stream so recently that what never changes of it may be answered."""
        return self._stream is not None and self._clock() - self._asked_at < RECENT_SECONDS

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiters)

    @property
    def segment_count(self) -> int:
        """Segments in memory."""
        return 0 if self._playlist is None else self._playlist.last_number + 1

    def find_epoch(self, epoch: int) -> Epoch | None:
        """Return an epoch, None where there is none."""
        return self._epochs.get(epoch)

    def find_segment(self, epoch: int, number: int) -> Segment | None:
        """Return a segment by its address, None where there is none, or not yet."""
        if number > self.playlist.last_number:
            return None
        segment = self.playlist.segments[number]
        return segment if segment.epoch == epoch else None

    # Asking the store.

    async def ensure_current(self) -> None:
        """Ask the store where what is known may be too old. A list that is known stays as it is while the store is not there.

        Raises NotFound for a stream that is not there (any more), ServiceUnavailable where nothing is known.
        """
        if self.is_current or (self._stream is not None and self._has_failed and not self._may_ask_again()):
            return
        if self._stream is None:
            await self._flight()
            return
        try:
            async with asyncio.timeout(STALE_AFTER_SECONDS):
                await self._flight()
        except (ServiceUnavailable, TimeoutError):
            if self._stream is None:
                raise _not_found() from None

    async def ask_again(self) -> None:
        """Ask the store, at most once in MIN_LOOK_UP_INTERVAL_SECONDS for all callers. Raises NotFound and ServiceUnavailable."""
        asked_at = self._asked_at
        pause = asked_at + MIN_LOOK_UP_INTERVAL_SECONDS - self._clock()
        if pause > 0:
            await asyncio.sleep(pause)
        if self._asked_at == asked_at or self._flight.running:
            await self._flight()

    def wake_up(self, last_segment: int, state: str) -> None:
        """Hear that there are segments up to `last_segment`, and of the state."""
        if self._stream is not None and last_segment <= self.playlist.last_number and state == self._stream.state:
            return
        self._is_stale = True
        if (self._waiters or self._is_watched()) and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.create_task(self._refresh())

    def forget_wake_ups(self) -> None:
        """Wake-ups may have been lost."""
        self._is_stale = True

    async def wait_for(self, number: int, seconds: float, has_gone: Callable[[], bool]) -> bool:
        """Wait until segment `number` is there or the stream has ended; return False after `seconds`.

        `has_gone` returns whether the client is there no more. Raises ClientDisconnected, NotFound where the stream was deleted.
        """
        loop = asyncio.get_running_loop()
        waiter = _Waiter(number, loop.create_future(), has_gone)
        timer = loop.call_later(seconds, _give_up, waiter.future)
        self._waiters.add(waiter)
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep_asking())
        try:
            return await waiter.future
        finally:
            timer.cancel()
            self._waiters.discard(waiter)

    async def aclose(self) -> None:
        """End all waits, and stop asking."""
        self._fail_waiters(lambda: ServiceUnavailable("the service is shutting down"))
        await cancel_and_wait(self._keeper, self._refreshing)

    def _may_ask_again(self) -> bool:
        return self._clock() - self._asked_at >= MIN_LOOK_UP_INTERVAL_SECONDS

    def _is_watched(self) -> bool:
        """Whether a list was asked for so recently that the next one will be, too."""
        return self._stream is not None and self._clock() - self.used_at < 3 * self._stream.new.target

    def _next_question(self) -> float:
        if self._playlist is None or self._stream is None:
            return self._asked_at + DISCONNECT_CHECK_SECONDS
        if self._playlist.ended:
            targets: float = ENDED_TARGETS
        else:
            targets = QUIET_TARGETS if self._hears_wake_ups() else UNHEARD_TARGETS
        return self._asked_at + targets * self._stream.new.target

    async def _keep_asking(self) -> None:
        """Ask the store in time as long as there are requests that wait, and drop those whose clients have gone."""
        while self._waiters:
            pause = max(0.05, self._next_question() - self._clock())
            await asyncio.sleep(min(DISCONNECT_CHECK_SECONDS, pause))
            for waiter in [waiter for waiter in self._waiters if waiter.has_gone()]:
                _fail(waiter.future, ClientDisconnected())
            if self._waiters and self._clock() >= self._next_question():
                await self._refresh()

    async def _refresh(self) -> None:
        """Ask the store. A failure ends no wait: the store is asked again until the time of each is over."""
        try:
            await self._flight()
        except NotFound:
            self._fail_waiters(_not_found)
        except ServiceUnavailable as error:
            _log.warning("live stream %s: %s", self.stream_id, error.detail)
        except Exception:  # noqa: BLE001  # no caller would see it
            _log.exception("live stream %s: cannot be loaded", self.stream_id)

    async def _read_until_current(self) -> None:
        """Ask until no wake-up came meanwhile."""
        while True:
            self._is_stale = False
            self._asked_at = self._clock()
            try:
                await self._read()
            except BaseException:
                self._is_stale = self._has_failed = True
                raise
            self._has_failed = False
            if not self._is_stale:
                return

    async def _read(self) -> None:
        """Ask the store for what is new, and wake who has waited for it."""
        stream = await self._reader.get_stream(self.stream_id)
        if stream is None or stream.was_deleted:
            self._stream = None
            raise _not_found()
        playlist = self._playlist
        is_first = playlist is None
        if playlist is None:
            playlist = Playlist(stream.new.target, kind=_kind(stream))
        segments = await self._read_segments(playlist.last_number + 1, stream)
        can_block = playlist.can_block_reload or await self._may_block(stream, [] if is_first else segments)
        before = (playlist.last_number, playlist.ended, playlist.can_block_reload)
        # From here on nothing is awaited: who renders meanwhile gets the list of before or the one of after.
        for epoch in stream.epochs[len(self._epochs) :]:
            self._epochs[epoch.number] = epoch
            playlist.add_epoch(epoch)
        for segment in segments:
            playlist.append(segment)
        playlist.can_block_reload = can_block
        if stream.state == "ended" and playlist.last_number >= stream.position.last_segment:
            playlist.end()
        self._stream, self._playlist = stream, playlist
        if self._renderings is None:
            self._renderings = Renderings(playlist)
        if (playlist.last_number, playlist.ended, playlist.can_block_reload) != before:
            self._renderings.clear()
            self._wake_waiters(playlist)

    async def _read_segments(self, first: int, stream: LiveStream) -> list[Segment]:
        """Return the segments from `first` on that `stream` counts: those behind them may have an epoch that it does not know."""
        found: list[Segment] = []
        last = stream.position.last_segment
        while first <= last:
            page = await self._reader.read_segments(self.stream_id, first, min(MAX_SEGMENTS_READ, last - first + 1))
            if not page and stream.state == "ended":  # and without a file: its segments have gone with its upload
                self._stream = None
                raise _not_found()
            if not page:
                raise ServiceUnavailable("the segments of the stream are incomplete")
            found += page
            first = page[-1].number + 1
        return found

    async def _may_block(self, stream: LiveStream, segments: Sequence[Segment]) -> bool:
        """Whether reloads may be offered to block: once segments come as steadily as they are long, here or at another replica."""
        if stream.state == "ended":
            return False
        for segment in segments:
            self._cadence.add(segment.seconds, self._clock())
        if self._cadence.is_steady:
            self._marks.mark(self.stream_id)
            return True
        return await self._marks.is_marked(self.stream_id)

    def _wake_waiters(self, playlist: Playlist) -> None:
        for waiter in self._waiters:
            if (playlist.ended or waiter.number <= playlist.last_number) and not waiter.future.done():
                waiter.future.set_result(True)

    def _fail_waiters(self, make_error: Callable[[], Exception]) -> None:
        for waiter in self._waiters:
            _fail(waiter.future, make_error())


def _kind(stream: LiveStream) -> Kind:
    """Return the type of a list that was not shown yet here; another replica may have shown it as long as it was live."""
    if stream.state != "ended" or stream.ended_at is None:
        return "event"
    return "vod" if (datetime.now(UTC) - stream.ended_at).total_seconds() > VOD_AFTER_SECONDS else "event"


def _not_found() -> NotFound:
    return NotFound("live stream not found")


def _give_up(future: "asyncio.Future[bool]") -> None:
    if not future.done():
        future.set_result(False)


def _fail(future: "asyncio.Future[bool]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _known(value: T | None) -> T:
    if value is None:
        raise RuntimeError("the stream is not known")
    return value
