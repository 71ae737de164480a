"""The loaders of this process: one for each stream that is asked for, bounded in number, in segments and in requests that wait."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.common.aio.cancellation import cancel_and_wait
from services.common.errors import NotFound, ServiceUnavailable
from services.common.live.wakeups import decode_wake_up
from services.stream.live.stream_loader import SteadyMarks, StreamLoader, StreamReader

LOADER_IDLE_SECONDS = 60.0
"""A stream that was not asked for in so long is dropped from memory."""
SWEEP_SECONDS = 10.0


class StreamLoaders:
    """Finds and makes loaders.

    Arguments:
        reader: the store.
        hears_wake_ups: whether `on_wake_up` is called for each change as it happens.
        marks: see `SteadyMarks`.
        max_streams: streams in memory.
        max_segments: segments in memory, of all streams together. One takes about 500 bytes.
        max_waiting: requests of this process that wait.
        max_waiting_per_stream: the same of one stream.
        clock: seconds of a clock that is never set back.

    """

    def __init__(
        self,
        reader: StreamReader,
        hears_wake_ups: Callable[[], bool],
        marks: SteadyMarks,
        *,
        max_streams: int,
        max_segments: int,
        max_waiting: int,
        max_waiting_per_stream: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._hears_wake_ups = hears_wake_ups
        self._marks = marks
        self._max_streams = max_streams
        self._max_segments = max_segments
        self._max_waiting = max_waiting
        self._max_waiting_per_stream = max_waiting_per_stream
        self._clock = clock
        self._loaders: OrderedDict[str, StreamLoader] = OrderedDict()
        self._opening: dict[str, int] = {}
        self._waiting = 0
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def stream_count(self) -> int:
        """Streams in memory."""
        return len(self._loaders)

    @property
    def waiting(self) -> int:
        """Requests that wait for more of a stream."""
        return self._waiting

    def start(self) -> None:
        """Begin to drop idle streams."""
        self._sweeper = asyncio.create_task(self._sweep())

    async def aclose(self) -> None:
        """End all waits, and stop asking the store."""
        await cancel_and_wait(self._sweeper)
        for loader in list(self._loaders.values()):
            await loader.aclose()

    def get(self, stream_id: str) -> StreamLoader | None:
        """Return the loader of a stream about which nothing need be asked, else None."""
        loader = self._loaders.get(stream_id)
        if loader is None or not loader.is_current:
            return None
        self._touch(loader)
        return loader

    def get_recent(self, stream_id: str) -> StreamLoader | None:
        """Return the loader of a stream that was there a moment ago, for what never changes of it; else None."""
        loader = self._loaders.get(stream_id)
        if loader is None or not loader.is_recent:
            return None
        self._touch(loader)
        return loader

    async def open(self, stream_id: str) -> StreamLoader:
        """Return the loader of a stream. Raises NotFound and ServiceUnavailable."""
        loader = self._loaders.get(stream_id)
        if loader is None:
            self._make_room()
            loader = StreamLoader(stream_id, self._reader, self._hears_wake_ups, self._marks, self._clock)
            self._loaders[stream_id] = loader
        self._touch(loader)
        self._opening[stream_id] = self._opening.get(stream_id, 0) + 1
        try:
            await loader.ensure_current()
        except NotFound:
            self._drop(loader)
            raise
        finally:
            self._opening[stream_id] -= 1
            if not self._opening[stream_id]:
                del self._opening[stream_id]
                if not loader.is_known:
                    self._drop(loader)
        return loader

    @contextmanager
    def park(self, loader: StreamLoader) -> Iterator[None]:
        """Count a request that waits. Raises ServiceUnavailable where there are too many."""
        if self._waiting >= self._max_waiting or loader.waiting >= self._max_waiting_per_stream:
            raise ServiceUnavailable("too many requests wait for more of live streams")
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    def on_wake_up(self, payload: bytes) -> None:
        """Take a message of the channel of wake-ups. What is malformed is ignored."""
        message = decode_wake_up(payload)
        if message is not None and (loader := self._loaders.get(message.stream_id)) is not None:
            loader.wake_up(message.last_segment, message.state)

    def on_disconnected(self) -> None:
        """Wake-ups may have been lost."""
        for loader in self._loaders.values():
            loader.forget_wake_ups()

    def _touch(self, loader: StreamLoader) -> None:
        loader.used_at = self._clock()
        if loader.stream_id in self._loaders:
            self._loaders.move_to_end(loader.stream_id)

    def _drop(self, loader: StreamLoader) -> None:
        if self._loaders.get(loader.stream_id) is loader:
            del self._loaders[loader.stream_id]

    def _is_in_use(self, loader: StreamLoader) -> bool:
        return bool(loader.waiting) or loader.stream_id in self._opening

    def _make_room(self) -> None:
        """Drop streams without requests that wait, the longest unused first. Raises ServiceUnavailable where that is not enough."""
        segments = sum(loader.segment_count for loader in self._loaders.values())
        for loader in list(self._loaders.values()):
            if len(self._loaders) < self._max_streams and segments < self._max_segments:
                return
            if not self._is_in_use(loader):
                segments -= loader.segment_count
                self._drop(loader)
        if len(self._loaders) >= self._max_streams or segments >= self._max_segments:
            raise ServiceUnavailable("too many live streams are watched at this replica")

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.drop_idle()

    def drop_idle(self) -> None:
        """Drop the streams that were not asked for in LOADER_IDLE_SECONDS."""
        for loader in list(self._loaders.values()):
            if self._clock() - loader.used_at < LOADER_IDLE_SECONDS:
                return  # they are in the order of their use
            if not self._is_in_use(loader):
                self._drop(loader)
