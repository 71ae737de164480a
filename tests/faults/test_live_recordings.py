"""The database is killed under the writer of a live stream, between and within its steps; another process goes on.

What was acknowledged is there, what a reader has had is never another, and the file has the bytes of the segments that count.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import Conflict, ServiceUnavailable
from services.common.live.segments import Segment
from tests.support.live_recorder import HEADER, Recorder, media_of
from tests.support.live_streams import begin_stream
from tests.support.postgresql import run_postgresql
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_adapters import StoreAdapters, open_files, open_gridfs
from tests.support.store_inspectors import FilesInspector
from tests.support.waiting import eventually_async

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

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


@pytest.fixture(params=["gridfs-motor", "files-postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "gridfs-motor":
        server = request.getfixturevalue("dedicated_mongod")
        async with open_gridfs(server.url, "gridcast", "motor") as gridfs:
            yield Store(gridfs, server)
        return
    with run_postgresql(request.getfixturevalue("tmp_path_factory")) as postgresql:
        postgresql.execute("CREATE DATABASE gridcast", "postgres")
        inspector = FilesInspector(tmp_path / "files", lambda statement: postgresql.execute(statement, "gridcast"))
        async with open_files(tmp_path / "files", inspector, postgresql.url("gridcast")) as files:
            yield Store(files, postgresql)


class Reader:
    """Follows the stream as players do, and keeps what it was given."""

    def __init__(self, adapters: StoreAdapters, upload_id: str) -> None:
        self._adapters = adapters
        self._upload_id = upload_id
        self.seen: dict[int, Segment] = {}

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            pause = 0.0
            try:
                await self.read_once()
            except ServiceUnavailable:
                pause = 0.05  # else it would take a core from the server that starts
            await asyncio.sleep(pause)

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
        nonlocal pending

        async def reached(step: str) -> None:
            if step == "offset":
                killing.append(asyncio.create_task(store.kill()))
                await asyncio.sleep(0)

        killing: list[asyncio.Task[None]] = []
        with contextlib.suppress(ServiceUnavailable):
            progress = await recorder.add_segment(reached)
            acknowledged.extend(progress.segments)
            pending = progress.pending
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
    assert data == HEADER + b"".join(map(media_of, segments))
    stream = await adapters.live.get_stream("s")
    assert stream is not None
    assert (stream.state, stream.revision) == ("ended", info.revision)
    assert [each.number for each in stream.epochs] == list(range(len(stream.epochs)))
    assert await adapters.live.find_file(stream) == info
