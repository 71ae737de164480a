"""The bytes of segments of streams that are not committed yet: read from the store once, and kept within a bound."""

import asyncio
from collections import OrderedDict
from typing import Protocol

from services.common.aio.singleflight import SingleFlight
from services.common.errors import ServiceUnavailable
from services.common.live.segments import Segment
from services.common.store.growing_files import MAX_DURABLE_READ_BYTES, DurableBytes
from services.common.telemetry import metrics
from services.stream.block_cache import ENTRY_OVERHEAD_BYTES

MAX_CONCURRENT_READS = 4
READ_TIMEOUT_SECONDS = 8.0
"""For waiting for a turn and for the store together."""

_LOOKUPS = metrics.CACHE_LOOKUPS.counts
_HIT, _MISS = ("segment", "hit"), ("segment", "miss")
SegmentKey = tuple[str, int]


class DurableReader(Protocol):
    """The part of the store's port that segments need. Raises ServiceUnavailable and CorruptFile."""

    async def read_durable(self, upload_id: str, start: int, count: int) -> DurableBytes | None:
        """Return durable bytes of an unfinished upload, None where there is none."""


class SegmentCache:
    """An LRU cache of segments, bounded in bytes. One that is being read counts twice: the store's answer is in memory."""

    def __init__(self, reader: DurableReader, max_bytes: int) -> None:
        self._reader = reader
        self._max_bytes = max_bytes
        self._size_bytes = 0
        self._segments: OrderedDict[SegmentKey, bytes] = OrderedDict()
        self._reading: dict[SegmentKey, SingleFlight[bytes | None]] = {}
        self._turns = asyncio.Semaphore(MAX_CONCURRENT_READS)

    @property
    def size_bytes(self) -> int:
        """Bytes that are kept or being read."""
        return self._size_bytes

    def get(self, stream_id: str, number: int) -> bytes | None:
        """Return the bytes of a segment that is in memory."""
        data = self._segments.get((stream_id, number))
        if data is not None:
            _LOOKUPS[_HIT] += 1
            self._segments.move_to_end((stream_id, number))
        return data

    async def get_or_read(self, stream_id: str, upload_id: str, segment: Segment) -> bytes | None:
        """Return the bytes of a segment; None where its upload is no more. Raises ServiceUnavailable and CorruptFile."""
        key = (stream_id, segment.number)
        if (data := self.get(*key)) is not None:
            return data
        _LOOKUPS[_MISS] += 1
        if (flight := self._reading.get(key)) is None:

            async def read() -> bytes | None:
                try:
                    return await self._read_in_turn(key, upload_id, segment)
                finally:
                    del self._reading[key]

            flight = self._reading[key] = SingleFlight(read)
        return await flight()

    async def _read_in_turn(self, key: SegmentKey, upload_id: str, segment: Segment) -> bytes | None:
        try:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS), self._turns:
                self._reserve(2 * segment.size)
                try:
                    data = await self._read(upload_id, segment)
                finally:
                    self._size_bytes -= 2 * segment.size
        except TimeoutError:
            raise ServiceUnavailable("the store is overloaded") from None
        if data is not None and len(data) + ENTRY_OVERHEAD_BYTES <= self._max_bytes:
            self._reserve(len(data) + ENTRY_OVERHEAD_BYTES)
            self._segments[key] = data
        return data

    async def _read(self, upload_id: str, segment: Segment) -> bytes | None:
        pieces: list[bytes] = []
        position, end = segment.offset, segment.offset + segment.size
        while position < end:
            found = await self._reader.read_durable(upload_id, position, min(end - position, MAX_DURABLE_READ_BYTES))
            if found is None:
                return None
            if not found.data:
                raise ServiceUnavailable("the bytes of the segment are not there yet")
            pieces.append(found.data)
            position += len(found.data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _reserve(self, size: int) -> None:
        self._size_bytes += size
        while self._size_bytes > self._max_bytes and self._segments:
            self._size_bytes -= len(self._segments.popitem(last=False)[1]) + ENTRY_OVERHEAD_BYTES
