"""Segments that are not committed: one read for all, in pieces, within bounds."""

import asyncio
from datetime import UTC, datetime

import pytest

from services.common.errors import ServiceUnavailable
from services.common.live.segments import Segment
from services.common.media import MediaInfo
from services.common.store.growing_files import MAX_DURABLE_READ_BYTES, DurableBytes
from services.common.store.live_store import LiveStream
from services.stream.block_cache import ENTRY_OVERHEAD_BYTES
from services.stream.live.committed_files import FILE_TTL_SECONDS, CommittedFiles
from services.stream.live.segment_cache import MAX_CONCURRENT_READS, SegmentCache
from tests.unit.stream.live.live_streams import Clock, Streams

pytestmark = pytest.mark.anyio


class GrowingFile:
    """Bytes of one upload, which may be held back."""

    def __init__(self, length: int) -> None:
        self.data = bytes(index % 251 for index in range(1000)) * (length // 1000)
        self.reads = 0
        self.reading = self.most_reading = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.is_there = True

    async def read_durable(self, upload_id: str, start: int, count: int) -> DurableBytes | None:
        assert upload_id == "upload"
        self.reads += 1
        self.reading += 1
        self.most_reading = max(self.most_reading, self.reading)
        await self.gate.wait()
        self.reading -= 1
        count = min(count, MAX_DURABLE_READ_BYTES)
        return DurableBytes(self.data[start : start + count], len(self.data), None) if self.is_there else None


def segment(number: int, offset: int, size: int) -> Segment:
    return Segment(number, 0, offset, size, 0, 1, 1, 0.0, True)


async def test_a_segment_is_read_once_for_all_who_ask() -> None:
    file = GrowingFile(100_000)
    cache = SegmentCache(file, 1_000_000)
    file.gate.clear()
    wanted = [asyncio.create_task(cache.get_or_read("s", "upload", segment(0, 500, 9000))) for _ in range(100)]
    await asyncio.sleep(0)
    wanted[0].cancel()
    file.gate.set()
    found = await asyncio.gather(*wanted[1:])
    assert set(found) == {file.data[500:9500]}
    assert file.reads == 1
    assert cache.get("s", 0) == file.data[500:9500]
    assert cache.get("t", 0) is None
    assert cache.size_bytes == 9000 + ENTRY_OVERHEAD_BYTES


async def test_a_long_segment_is_read_in_pieces() -> None:
    file = GrowingFile(2 * MAX_DURABLE_READ_BYTES + 5000)
    size = 2 * MAX_DURABLE_READ_BYTES + 1000
    cache = SegmentCache(file, 100)
    assert await cache.get_or_read("s", "upload", segment(0, 10, size)) == file.data[10 : 10 + size]
    assert file.reads == 3
    assert cache.get("s", 0) is None, "larger than the cache"
    assert cache.size_bytes == 0


async def test_the_least_recently_used_segments_leave() -> None:
    file = GrowingFile(100_000)
    cache = SegmentCache(file, 5 * (1000 + ENTRY_OVERHEAD_BYTES))
    for number in range(10):
        await cache.get_or_read("s", "upload", segment(number, 1000 * number, 1000))
        cache.get("s", 0)
        assert cache.size_bytes <= 5 * (1000 + ENTRY_OVERHEAD_BYTES)
    assert cache.get("s", 0) is not None
    assert cache.get("s", 3) is None
    assert cache.get("s", 9) is not None


async def test_reads_are_few_at_a_time() -> None:
    file = GrowingFile(100_000)
    cache = SegmentCache(file, 1_000_000)
    file.gate.clear()
    wanted = [asyncio.create_task(cache.get_or_read("s", "upload", segment(n, n, 100))) for n in range(20)]
    await asyncio.sleep(0.01)
    file.gate.set()
    await asyncio.gather(*wanted)
    assert file.most_reading == MAX_CONCURRENT_READS


async def test_what_is_not_there() -> None:
    file = GrowingFile(1000)
    cache = SegmentCache(file, 1_000_000)
    with pytest.raises(ServiceUnavailable, match="not there yet"):
        await cache.get_or_read("s", "upload", segment(0, 500, 1000))
    file.is_there = False
    assert await cache.get_or_read("s", "upload", segment(1, 0, 10)) is None
    assert cache.size_bytes == 0
    file.is_there = True
    assert await cache.get_or_read("s", "upload", segment(1, 0, 10)) == file.data[:10]


async def test_committed_files_are_looked_up_once_a_second() -> None:
    """One query for all who ask within a second; then a deletion is seen."""
    info = MediaInfo("i", "f", "", "n", 1, "video/mp4", None, datetime.now(UTC), '"e"')
    answers: list[MediaInfo | None] = [info, None]

    class Finder:
        async def find_file(self, stream: LiveStream) -> MediaInfo | None:
            assert stream.new.id
            await asyncio.sleep(0)
            return answers.pop(0)

    clock, streams = Clock(), Streams(3, "ended")
    files = CommittedFiles(Finder(), clock)
    assert streams.stream is not None
    stream = streams.stream
    assert await asyncio.gather(*(files.find(stream) for _ in range(50))) == [info] * 50
    clock.now += FILE_TTL_SECONDS / 2
    assert await files.find(stream) is info
    clock.now += FILE_TTL_SECONDS
    assert await files.find(stream) is None
    assert not answers
