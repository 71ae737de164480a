"""The files store on SQLite: a batch and its durable offset are one job of a thread, which is as careful as each of both alone."""

import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import Conflict, InsufficientStorage, ServiceUnavailable
from services.common.media import MediaName
from services.common.store.errors import CorruptFile
from services.common.store.files import database, file_io
from services.common.store.files.media_reader import FilesBlockReader
from services.common.store.upload_store import Checkpoint, InProgressUpload, UploadHandle
from services.upload.writer.upload_writer import UploadWriter
from tests.support.sizes import BATCH_SIZE, CHUNK_SIZE
from tests.support.store_adapters import NAME, FilesAdapters, finished_upload, new_tus_upload, open_files

pytestmark = pytest.mark.anyio
BLOCK = b"b" * CHUNK_SIZE
SQLITE_FILE = "gridcast.sqlite3"


@pytest.fixture
async def adapters(tmp_path: Path) -> AsyncIterator[FilesAdapters]:
    async with open_files(tmp_path / "store") as files:
        yield files


async def begin(adapters: FilesAdapters) -> UploadHandle:
    """An upload whose batches sync from now on: its first offset is durable."""
    upload = await adapters.store.create_upload(NAME, new_tus_upload("a"))
    await adapters.store.write_blocks(upload, 0, [BLOCK])
    await adapters.store.set_offset(upload, CHUNK_SIZE, b"", None, keep_lease=True)
    return upload


async def durable_offset(adapters: FilesAdapters, upload: UploadHandle) -> int:
    state = await adapters.store.get_durable_info(upload.upload_id)
    assert isinstance(state, InProgressUpload)
    return state.offset


async def test_offset_follows_its_batch_in_one_thread(adapters: FilesAdapters, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second checkpoint on; what expires is said as by `set_offset`."""
    order: list[str] = []
    sync_data = file_io.sync_data

    def noting_sync(descriptor: int) -> None:
        sync_data(descriptor)
        order.append("sync")

    monkeypatch.setattr(file_io, "sync_data", noting_sync)
    upload = await adapters.store.create_upload(NAME, new_tus_upload("a"))
    first = await adapters.store.write_blocks(
        upload, 0, [BLOCK], lambda: order.append("hash"), Checkpoint(CHUNK_SIZE, None)
    )
    assert (first, order) == (None, ["hash"]), "the entry of the file is not durable yet: the caller sets the offset"
    await adapters.store.set_offset(upload, CHUNK_SIZE, b"", None, keep_lease=True)
    order.clear()

    async def no_transaction(*_: object, **__: object) -> None:
        pytest.fail("a batch needs no transaction of the event loop")

    with monkeypatch.context() as patched:
        patched.setattr(adapters.files.database, "write", no_transaction)
        second = await adapters.store.write_blocks(
            upload, 1, [BLOCK] * 2, lambda: order.append("hash"), Checkpoint(3 * CHUNK_SIZE, 4 * CHUNK_SIZE)
        )
    assert order == ["hash", "sync"], "the disk writes while the batch is hashed"
    assert second is not None
    state = await adapters.store.get_durable_info(upload.upload_id)
    assert isinstance(state, InProgressUpload)
    assert (state.offset, state.length) == (3 * CHUNK_SIZE, 4 * CHUNK_SIZE)
    assert state.expires_at == second
    await adapters.store.write_blocks(upload, 3, [BLOCK])
    event = await adapters.store.commit(upload, finished_upload(BLOCK * 4))
    assert adapters.inspector.read_current(event.info.id) == BLOCK * 4


async def test_void_handle_sets_no_offset(adapters: FilesAdapters) -> None:
    old = await begin(adapters)
    taken = await adapters.store.acquire(old.upload_id)
    assert isinstance(taken, tuple)
    with pytest.raises(Conflict):
        await adapters.store.write_blocks(old, 1, [b"late"], checkpoint=Checkpoint(2 * CHUNK_SIZE, None))
    assert await durable_offset(adapters, taken[0]) == CHUNK_SIZE


async def test_offset_is_not_set_where_its_batch_fails(
    adapters: FilesAdapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await begin(adapters)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(file_io, "sync_data", full)
        with pytest.raises(InsufficientStorage):
            await adapters.store.write_blocks(upload, 1, [BLOCK], checkpoint=Checkpoint(2 * CHUNK_SIZE, None))
    assert await durable_offset(adapters, upload) == CHUNK_SIZE


async def test_batch_whose_hash_was_not_made_is_read_again(
    adapters: FilesAdapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that fails before its thread hashes it leaves no digest that lacks its bytes."""
    data = os.urandom(3 * BATCH_SIZE)
    writer = UploadWriter(adapters.store, len(data))
    writer.checkpoint_batches = True
    upload = await writer.create(NAME, new_tus_upload("a"))
    await writer.write(data[: 2 * BATCH_SIZE])
    assert await writer.checkpoint(keep_lease=True) is not None

    def broken(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", broken)
        await writer.write(data[2 * BATCH_SIZE :])
        with pytest.raises(ServiceUnavailable):
            await writer.checkpoint(keep_lease=True)
    await writer.suspend()
    assert writer.content_state[1] is None
    acquired = await adapters.store.acquire(upload.upload_id)
    assert isinstance(acquired, tuple)
    again = UploadWriter(adapters.store, len(data))
    again.resume(*acquired, writer.content_state[1], 0.0, length=None, unpublished_offset=None)
    await again.write(data[acquired[1].offset :])
    event = await again.commit(NAME, "a/b")
    await again.suspend()
    assert event.info.sha256 == finished_upload(data).sha256


async def test_time_is_kept_while_only_batches_write(adapters: FilesAdapters) -> None:
    """A clock that is set back during a long upload revives nothing: batches record the time as all other writes do."""
    upload = await begin(adapters)
    adapters.inspector.query("UPDATE store SET latest = 0")
    adapters.files.database._clock_recorded_at = 0.0
    await adapters.store.write_blocks(upload, 1, [BLOCK], checkpoint=Checkpoint(2 * CHUNK_SIZE, None))
    (row,) = adapters.inspector.query("SELECT latest FROM store")
    assert row["latest"]


async def test_locked_database_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 200)
    async with open_files(tmp_path / "store") as adapters:
        upload = await begin(adapters)
        with contextlib.closing(sqlite3.connect(tmp_path / "store" / SQLITE_FILE, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(ServiceUnavailable, match="locked by another process"):
                await adapters.store.write_blocks(upload, 1, [BLOCK], checkpoint=Checkpoint(2 * CHUNK_SIZE, None))
            other.execute("ROLLBACK")
        assert await durable_offset(adapters, upload) == CHUNK_SIZE
        checkpoint = Checkpoint(2 * CHUNK_SIZE, None)
        assert await adapters.store.write_blocks(upload, 1, [BLOCK], checkpoint=checkpoint) is not None


async def test_database_file_that_was_replaced_is_not_written(adapters: FilesAdapters) -> None:
    upload = await begin(adapters)
    path = adapters.inspector.folder / SQLITE_FILE
    path.rename(path.with_name("away"))
    with pytest.raises(ServiceUnavailable, match="deleted or replaced"):
        await adapters.store.write_blocks(upload, 1, [BLOCK], checkpoint=Checkpoint(2 * CHUNK_SIZE, None))


@pytest.mark.parametrize("length", [1, 512 * 1024, 512 * 1024 + 1, 1_500_000])
async def test_cache_reads_in_larger_blocks(adapters: FilesAdapters, length: int) -> None:
    data = os.urandom(length)
    await adapters.store_file(data, MediaName("", "n"))
    info = await adapters.reader.find(MediaName("", "n"))
    assert info is not None
    reader = FilesBlockReader(adapters.files)
    last = (length - 1) // reader.block_size
    blocks = await reader.read_blocks(info, 0, last)
    assert [len(block) for block in blocks[:-1]] == [reader.block_size] * last
    assert b"".join(blocks) == data
    assert await reader.read_blocks(info, last, last) == blocks[-1:]
    os.truncate(adapters.inspector.path_of(info.file_id), length - 1)
    with pytest.raises(CorruptFile):
        await reader.read_blocks(info, 0, 0)
