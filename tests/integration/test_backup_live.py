"""Backups of both stores while a live stream goes on: after a restore another process continues it, and it is a file at its end."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local.processes import PROJECT_ROOT
from services.common.media import MediaName
from tests.support.live_recorder import HEADER, Recorder, media_of
from tests.support.live_streams import a_stream, begin_stream
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_adapters import NAME, StoreAdapters, new_tus_upload, open_files, open_gridfs

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class BackedUp:
    """How a store is opened and dumped, and brought back from the dump."""

    open: Callable[[], AbstractAsyncContextManager[StoreAdapters]]
    dump: Callable[[], Awaitable[None]]
    restore: Callable[[], Awaitable[None]]


async def run_job(script: str, verb: str, directory: Path, **environment: str) -> None:
    command = [sys.executable, str(PROJECT_ROOT / "deploy/containers" / script), verb, str(directory)]
    done = await asyncio.to_thread(
        subprocess.run, command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(params=["gridfs-motor", "files-sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> BackedUp:
    if request.param == "gridfs-motor":
        mongod, name = request.getfixturevalue("mongod"), request.getfixturevalue("database_name")
        script, environment = "backup.py", {"GRIDCAST_MONGODB_URI": mongod.url, "GRIDCAST_MONGODB_DATABASE": name}

        def open_store() -> AbstractAsyncContextManager[StoreAdapters]:
            return open_gridfs(mongod.url, name, "motor")

        async def clear() -> None:
            async with open_gridfs(mongod.url, name, "motor") as adapters:
                adapters.inspector.client.drop_database(name)

    else:
        folder = tmp_path / "store"
        script, environment = "backup_files.py", {"GRIDCAST_FILES_DIR": str(folder)}

        def open_store() -> AbstractAsyncContextManager[StoreAdapters]:
            return open_files(folder)

        async def clear() -> None:
            await asyncio.to_thread(shutil.rmtree, folder)

    async def dump() -> None:
        await run_job(script, "dump", tmp_path / "dump", **environment)

    async def restore() -> None:
        await clear()
        await run_job(script, "restore", tmp_path / "dump", **environment)

    return BackedUp(open_store, dump, restore)


async def test_a_stream_goes_on_after_a_restore(store: BackedUp) -> None:
    async with store.open() as adapters:
        other = MediaName("f", "ended")
        ended = await adapters.store.create_upload(other, new_tus_upload(""))
        await adapters.live.create_stream(a_stream(ended))
        recorder = await Recorder.acquire(adapters, ended.upload_id)
        await recorder.add_segment()
        recording = await recorder.end()
        before = await adapters.live.get_stream("s")
        await adapters.live.create_stream(a_stream(await adapters.store.create_upload(NAME, new_tus_upload("")), "t"))
        upload = await begin_stream(adapters, "live", MediaName("f", "live"))
        recorder = await Recorder.acquire(adapters, upload.upload_id, "live")
        await recorder.add_segment()
        at_start = recorder.position.last_segment
        dumping = asyncio.ensure_future(store.dump())
        while not dumping.done():
            await recorder.add_segment()
        await dumping
        sent = await adapters.live.read_segments("live", 0)
        assert len(sent) > at_start + 1

    await store.restore()
    async with store.open() as adapters:
        assert before is not None
        assert await adapters.live.get_stream("s") == before
        assert await adapters.live.find_file(before) == recording
        assert [each.number for each in await adapters.live.read_segments("s", 0)] == [0]
        waiting = await adapters.live.get_stream("t")
        assert waiting is not None
        assert waiting.state == "waiting"
        recorder = await Recorder.acquire(adapters, upload.upload_id, "live")
        assert at_start <= recorder.position.last_segment < len(sent)
        restored = await adapters.live.read_segments("live", 0)
        assert list(restored) == list(sent[: recorder.position.last_segment + 1])
        await recorder.add_segment()
        info = await recorder.end()
        segments = await adapters.live.read_segments("live", 0)
        data = b"".join(await adapters.reader.read_blocks(info, 0, info.length // CHUNK_SIZE))
        assert data == HEADER + b"".join(map(media_of, segments))
