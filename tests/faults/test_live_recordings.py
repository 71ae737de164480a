"""The database is killed under the writer of a live stream, between and within its steps; another process goes on.

What was acknowledged is there, what a reader has had is never another, and the file has the bytes of the segments that count.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import Conflict, ServiceUnavailable
from services.common.live.segments import Epoch, Segment
from services.common.media import MediaInfo
from services.common.store.growing_files import file_etag
from services.common.store.live_store import LivePosition, LiveProgress, LiveStream
from services.common.store.upload_store import StoredFile, UploadHandle
from tests.support.live_streams import begin_stream, epoch
from tests.support.postgresql import run_postgresql
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_adapters import StoreAdapters, open_files, open_gridfs
from tests.support.store_inspectors import FilesInspector
from tests.support.waiting import eventually_async

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

SEGMENT_SIZE = 2 * CHUNK_SIZE // 3 + 7
STEPS = ("blocks", "offset", "segment")
"""After which the database is killed."""


class Store:
    """A store and its database."""

    def __init__(self, adapters: StoreAdapters, server: Any) -> None:
        self.adapters = adapters
        self.server = server

    async def kill(self) -> None:
        """Kill the database and start it again."""
        await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.start)

    async def wait(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """The result of a call, repeated while the database is not there."""
        results: list[Any] = []

        async def succeeds() -> bool:
            with contextlib.suppress(ServiceUnavailable):
                results.append(await call())
            return bool(results)

        await eventually_async(succeeds, 60)
        return results[0]


@pytest.fixture(params=["gridfs", "files-postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "gridfs":
        server = request.getfixturevalue("dedicated_mongod")
        async with open_gridfs(server.url, "gridcast", "motor") as gridfs:
            yield Store(gridfs, server)
        return
    with run_postgresql() as postgresql:
        postgresql.execute("CREATE DATABASE gridcast", "postgres")
        inspector = FilesInspector(tmp_path / "files", lambda statement: postgresql.execute(statement, "gridcast"))
        async with open_files(tmp_path / "files", inspector, postgresql.url("gridcast")) as files:
            yield Store(files, postgresql)


def media_of(segment: Segment) -> bytes:
    """The bytes of a segment: those of other writers' segments of the same number differ."""
    seed = hashlib.sha256(f"{segment.number} {segment.start}".encode()).digest()
    return (seed * (segment.size // len(seed) + 1))[: segment.size]


class Recorder:
    """One process that writes the stream. Its segments have its fencing token as their start."""

    def __init__(self, adapters: StoreAdapters, upload: UploadHandle, stream: LiveStream, tail: bytes) -> None:
        self._adapters = adapters
        self._tail = tail
        self.upload = upload
        self.position = stream.position
        self._epoch = epoch(len(stream.epochs), b"init" * 100)
        self._new_epochs: tuple[Epoch, ...] = (self._epoch,)

    @classmethod
    async def acquire(cls, adapters: StoreAdapters, upload_id: str) -> "Recorder":
        """Go on where the position ends, whatever more has become durable."""
        acquired = await adapters.store.acquire(upload_id)
        assert isinstance(acquired, tuple)
        upload, state = acquired
        stream = await adapters.live.set_publisher("s", upload.fencing_token, "p")
        end = stream.position.offset
        assert stream.position.last_segment < 0 or state.offset >= end
        start = max(CHUNK_SIZE, end - end % CHUNK_SIZE)
        found = await adapters.growing.read_durable(upload_id, start, end - start)
        assert found is not None
        assert len(found.data) == end - start
        return cls(adapters, upload, stream, found.data)

    def next_progress(self) -> LiveProgress:
        number = self.position.last_segment + 1
        size = SEGMENT_SIZE + number % 5
        offset, token = self.position.offset, self.upload.fencing_token
        segment = Segment(number, self._epoch.number, offset, size, token, 2, 1, 0.5, True)
        position = LivePosition(offset + size, self.position.sender_offset + size, number)
        return LiveProgress(position, self._new_epochs, (segment,), f"pending {number}".encode())

    async def add_segment(self, reached: Callable[[str], Awaitable[None]]) -> LiveProgress:
        """Store one more segment in the order of a writer."""
        progress = self.next_progress()
        (segment,) = progress.segments
        offset, store = self.position.offset - len(self._tail), self._adapters.store
        data = self._tail + media_of(segment)
        while len(data) >= CHUNK_SIZE:
            await store.write_blocks(self.upload, offset // CHUNK_SIZE, [data[:CHUNK_SIZE]])
            data, offset = data[CHUNK_SIZE:], offset + CHUNK_SIZE
        await reached("blocks")
        await store.set_offset(self.upload, progress.position.offset, data, None, keep_lease=True, durable=True)
        await reached("offset")
        await self._adapters.live.advance("s", self.upload.fencing_token, progress)
        await reached("segment")
        self.position, self._tail, self._new_epochs = progress.position, data, ()
        return progress

    async def end(self) -> MediaInfo:
        """Write the last block and the header, and commit."""
        store = self._adapters.store
        if self._tail:
            await store.write_blocks(self.upload, self.position.offset // CHUNK_SIZE, [self._tail])
        await self._adapters.growing.place_header(self.upload, b"\x01" * CHUNK_SIZE)
        length = self.position.offset
        stored_file = StoredFile(length, "video/mp4", None, file_etag(self.upload, length))
        event = await store.commit(self.upload, stored_file)
        assert await self._adapters.live.set_state("s", self.upload.fencing_token, "ended", "", event.info.revision)
        return event.info


class Reader:
    """Follows the stream as players do, and keeps what it was given."""

    def __init__(self, adapters: StoreAdapters, upload_id: str) -> None:
        self._adapters = adapters
        self._upload_id = upload_id
        self.seen: dict[int, Segment] = {}

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            with contextlib.suppress(ServiceUnavailable):
                await self.read_once()
            await asyncio.sleep(0)

    async def read_once(self) -> None:
        """Read the list, then the bytes of its last segments."""
        stream = await self._adapters.live.get_stream("s")
        assert stream is not None
        last = stream.position.last_segment
        segments = await self._adapters.live.read_segments("s", max(0, last - 1))
        for segment in segments:
            found = await self._adapters.growing.read_durable(self._upload_id, segment.offset, segment.size)
            if found is None:
                return
            assert found.data == media_of(segment)
            assert self.seen.setdefault(segment.number, segment) == segment


async def test_the_database_is_killed_between_the_steps_of_a_writer(store: Store) -> None:
    adapters = store.adapters
    upload = await begin_stream(adapters)
    acknowledged: list[Segment] = []
    pending = b""
    reader = Reader(adapters, upload.upload_id)
    following = asyncio.create_task(reader.run())

    async def go_on(recorder: Recorder, kill_after: str = "") -> None:
        nonlocal pending

        async def reached(step: str) -> None:
            if step == kill_after:
                await store.kill()

        progress = await recorder.add_segment(reached)
        acknowledged.extend(progress.segments)
        pending = progress.pending

    async def fails_within_the_last_step(recorder: Recorder) -> None:
        async def reached(step: str) -> None:
            if step == "offset":
                killing.append(asyncio.create_task(store.kill()))
                await asyncio.sleep(0)

        killing: list[asyncio.Task[None]] = []
        with contextlib.suppress(ServiceUnavailable):
            acknowledged.extend((await recorder.add_segment(reached)).segments)
        await asyncio.gather(*killing)

    recorder = await Recorder.acquire(adapters, upload.upload_id)
    for step in (*STEPS, "within", *STEPS):
        await go_on(recorder)
        await go_on(recorder)
        if step == "within":
            await fails_within_the_last_step(recorder)
        else:
            with contextlib.suppress(ServiceUnavailable):
                await go_on(recorder, step)
        older = recorder
        recorder = await store.wait(lambda: Recorder.acquire(adapters, upload.upload_id))
        assert recorder.position.last_segment >= acknowledged[-1].number, step
        stored = await store.wait(lambda: adapters.live.read_segments("s", 0))
        assert [each.number for each in stored] == list(range(recorder.position.last_segment + 1))
        assert list(stored[: len(acknowledged)]) == acknowledged, step
        if len(stored) == len(acknowledged):
            assert await adapters.live.read_pending("s") == pending
        acknowledged = list(stored)
        pending = await adapters.live.read_pending("s")
        with pytest.raises(Conflict):  # the older process is still there
            await adapters.live.advance("s", older.upload.fencing_token, older.next_progress())
    await go_on(recorder)
    assert not following.done()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    info = await recorder.end()

    segments = list(await adapters.live.read_segments("s", 0))
    assert segments == acknowledged
    assert len(reader.seen) > len(STEPS)
    assert all(segments[number] == segment for number, segment in reader.seen.items())
    data = b"".join(await adapters.reader.read_blocks(info, 0, info.length // CHUNK_SIZE))
    assert data == b"\x01" * CHUNK_SIZE + b"".join(map(media_of, segments))
    stream = await adapters.live.get_stream("s")
    assert stream is not None
    assert (stream.state, stream.revision) == ("ended", info.revision)
    assert [each.number for each in stream.epochs] == list(range(len(stream.epochs)))
    assert await adapters.live.find_file(stream) == info
