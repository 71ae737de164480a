"""A store with live streams in memory, and a clock that is set by hand, for tests of those who read."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from services.common.errors import ServiceUnavailable
from services.common.live.segments import Epoch, Segment
from services.common.media import MediaName
from services.common.store.live_store import LivePosition, LiveState, LiveStream, NewStream
from tests.support.fragmented_mp4 import init

STREAM_ID = "0123456789abcdef"
TARGET = 2


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Streams:
    """One stream. `questions` counts how often it was asked for; `gate` holds answers back; while `is_away` there are none."""

    def __init__(self, count: int = 0, state: LiveState = "live", ended_at: datetime | None = None) -> None:
        self.questions = 0
        self.is_away = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.segments: list[Segment] = []
        self.epochs = [Epoch(0, init(), 90_000, 0, 0, 1_800_000_000.0)]
        new = NewStream(
            STREAM_ID, "upload", MediaName("f", "n"), "", "", TARGET, 60, False, None, "0" * 64, datetime.now(UTC)
        )
        self.stream: LiveStream | None = LiveStream(
            new, state, "", 1, "", LivePosition(0), (), datetime.now(UTC), None, None, ended_at, None
        )
        self.add(count)

    def add(self, count: int, epoch: int = 0) -> None:
        for _ in range(count):
            number = len(self.segments)
            start = number * TARGET * 90_000
            self.segments.append(
                Segment(
                    number,
                    epoch,
                    1000 * number,
                    1000,
                    start,
                    TARGET * 90_000,
                    90_000,
                    1_800_000_000.0 + TARGET * number,
                    True,
                )
            )
        self._update()

    def set_state(self, state: LiveState) -> None:
        assert self.stream is not None
        self.stream = replace(self.stream, state=state, ended_at=datetime.now(UTC) if state == "ended" else None)

    def _update(self) -> None:
        assert self.stream is not None
        position = LivePosition(0, last_segment=len(self.segments) - 1)
        self.stream = replace(self.stream, position=position, epochs=tuple(self.epochs))

    async def get_stream(self, stream_id: str) -> LiveStream | None:
        self.questions += 1
        found = self.stream if stream_id == STREAM_ID else None
        await self.gate.wait()
        if self.is_away:
            raise ServiceUnavailable("away")
        return found

    async def read_segments(self, stream_id: str, first: int, limit: int = 5000) -> Sequence[Segment]:
        assert stream_id == STREAM_ID
        return self.segments[first : first + limit]


class NoMarks:
    """Marks of blocking reloads of which none is set in Redis."""

    def __init__(self) -> None:
        self.marked: set[str] = set()

    async def is_marked(self, stream_id: str) -> bool:
        return stream_id in self.marked

    def mark(self, stream_id: str) -> None:
        self.marked.add(stream_id)
