"""What is particular to the files store: its locks, its folder, its schema, and what goes wrong with disks and databases."""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
import resource
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from services.common.errors import Conflict, Gone, GridcastError, InsufficientStorage, ServiceUnavailable
from services.common.media import MediaName
from services.common.store.errors import CorruptFile
from services.common.store.files import database, exclusive_files, file_io, migration, offset_changes, upload_changes
from services.common.store.files.files_database import open_files_database
from services.common.store.files.rows import upload_key
from services.common.store.media_reader import ListQuery, PageKey
from services.common.store.preconditions import NO_PRECONDITIONS
from services.common.store.timings import StoreTimings
from services.common.store.upload_store import (
    InProgressUpload,
    NewUpload,
)
from services.upload.writer.upload_writer import UploadWriter
from tests.support.live_streams import begin_stream
from tests.support.postgresql import PostgreSQLServer, run_postgresql
from tests.support.sizes import BATCH_SIZE, CHUNK_SIZE
from tests.support.store_adapters import (
    NAME,
    TIMINGS,
    FilesAdapters,
    finished_upload,
    new_tus_upload,
    open_files,
)
from tests.support.store_inspectors import FilesInspector
from tests.support.waiting import eventually_async

pytestmark = pytest.mark.anyio
HOUR_MS = 3_600_000


@pytest.fixture
async def adapters(tmp_path: Path) -> AsyncIterator[FilesAdapters]:
    async with open_files(tmp_path / "store") as files:
        yield files


def sql(adapters: FilesAdapters, statement: str) -> list[dict[str, object]]:
    return adapters.inspector.query(statement)


# Writers that were overtaken.


async def test_a_writer_that_was_paused_after_its_check_writes_over_nothing(
    adapters: FilesAdapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its successor waits for it, and begins after its bytes."""
    begun = await adapters.store.create_upload(NAME, new_tus_upload("a"))
    checked, resume = threading.Event(), threading.Event()
    write_at = file_io.write_at

    def pausing(*arguments: Any, **options: Any) -> None:
        checked.set()
        assert resume.wait(10)
        write_at(*arguments, **options)

    await adapters.store.write_blocks(begun, 0, [b"o" * CHUNK_SIZE])
    monkeypatch.setattr(file_io, "write_at", pausing)
    late = asyncio.create_task(adapters.store.write_blocks(begun, 0, [b"late" * (CHUNK_SIZE // 4)]))
    assert await asyncio.to_thread(checked.wait, 10)
    monkeypatch.setattr(file_io, "write_at", write_at)
    acquiring = asyncio.create_task(adapters.store.acquire(begun.upload_id))
    await asyncio.wait({acquiring}, timeout=0.3)
    assert not acquiring.done()
    resume.set()
    await late
    taken = await acquiring
    assert isinstance(taken, tuple)
    await adapters.store.write_blocks(taken[0], 0, [b"new"])
    await adapters.store.commit(taken[0], finished_upload(b"new"))
    assert adapters.inspector.read_current(begun.upload_id.partition("-")[0]) == b"new"


async def test_a_lock_that_is_never_released_is_left_behind(
    adapters: FilesAdapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a process that is stopped for ever: the successor continues in a copy, and the old file is deleted."""
    monkeypatch.setattr(exclusive_files, "LOCK_TIMEOUT_SECONDS", 0.1)
    data = os.urandom(CHUNK_SIZE + 100)
    old = await begin_stream(adapters)
    await adapters.store.write_blocks(old, 0, [data[:CHUNK_SIZE]])
    await adapters.store.set_offset(old, len(data), data[CHUNK_SIZE:], None, keep_lease=True)
    path = adapters.inspector.path_of(old.store_key)
    with path.open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        taken = await adapters.store.acquire(old.upload_id)
        assert isinstance(taken, tuple)
        new, state = taken
        assert new.store_key != old.store_key
        assert (state.offset, state.tail) == (len(data), data[CHUNK_SIZE:])
        held.write(b"what the stopped process wrote")
        held.flush()
        await adapters.store.write_blocks(new, 1, [data[CHUNK_SIZE:]])
        await adapters.store.commit(new, finished_upload(data))
    with pytest.raises(Conflict):
        await adapters.store.write_blocks(old, 0, [b"late"])
    info = await adapters.reader.find(NAME)
    assert info is not None
    assert await adapters.live.set_state("s", new.fencing_token, "ended", "", info.revision)
    assert b"".join(await adapters.reader.read_blocks(info, 0, 1)) == data
    for _ in range(3):
        await adapters.collect_until_done(adapters.inspector)
    assert not path.exists()
    stream = await adapters.live.get_stream("s")
    assert stream is not None
    assert await adapters.live.find_file(stream) == info, "a live stream goes with the bytes"


async def test_second_purge_is_not_skipped_by_the_slower_collector(adapters: FilesAdapters) -> None:
    upload = await adapters.store.create_upload(NAME, NewUpload())
    await asyncio.sleep(0.45)
    await adapters.collect_once()
    (version,) = adapters.inspector.only_document()["doomed"]
    assert version["late"] is False
    # The last change of a slower collector, as it would arrive now.
    key = upload_key(upload)
    await adapters.files.database.write(
        lambda transaction: upload_changes.mark_purged(transaction, key.media_id, [key.file_id], TIMINGS)
    )
    assert adapters.inspector.only_document()["doomed"] == [version]


# The clock.


async def test_a_clock_that_is_set_back_neither_revives_nor_prolongs(tmp_path: Path) -> None:
    """The lease clock goes on from the greatest time that was seen, which the database keeps."""
    async with open_files(tmp_path / "store", timings=StoreTimings(lease_ttl=1.0)) as adapters:
        upload = await adapters.store.create_upload(NAME, NewUpload(9, 5))
        await adapters.store.set_offset(upload, 0, b"", 9, keep_lease=True, extend_expiry=False)
        # An hour from now was seen, so the clock is now an hour behind it.
        sql(adapters, f"UPDATE store SET latest = latest + {HOUR_MS}")
        assert await adapters.store.get_durable_info(upload.upload_id) is None
        assert await adapters.store.acquire(upload.upload_id) is None
        other = await adapters.store.create_upload(MediaName("", "other"), NewUpload(9, 60))
        state = await adapters.store.get_durable_info(other.upload_id)
        assert isinstance(state, InProgressUpload)
        await adapters.store.set_offset(other, 0, b"", 9, keep_lease=True)
        async with asyncio.timeout(10):  # and does not stand still until the clock has caught up
            while isinstance(state, InProgressUpload) and (
                state.write_in_progress or state is await adapters.store.get_info(other.upload_id)
            ):
                await asyncio.sleep(0.1)
                state = await adapters.store.get_info(other.upload_id)
        third = await adapters.store_event(b"x", MediaName("", "third"))
    file_time = third.info.uploaded_at.timestamp()
    assert abs(file_time - (tmp_path / "store/store_id").stat().st_mtime) < 60, "files keep the time of the clock"


# The folder.


async def test_names_never_become_paths(adapters: FilesAdapters) -> None:
    for filename in ("..", "../../escaped", "a/b", "\\", "CON", ".hidden"):
        await adapters.store_file(b"x", MediaName("../x", filename))
    found = [path.relative_to(adapters.inspector.folder).parts for path in adapters.inspector.list_files()]
    assert len(found) == 6
    for folder, outer, inner, name in found:
        assert (folder, outer, inner) == ("files", name[-2:], name[-3])
        assert re.fullmatch("[0-9a-f]{24}", name)
    assert not list(adapters.inspector.folder.parent.glob("**/*escaped*"))


@pytest.mark.parametrize("place", ["file", "folder", "pipe", "directory"])
async def test_nothing_but_regular_files_is_read_or_written(
    adapters: FilesAdapters, tmp_path: Path, place: str
) -> None:
    """Not even where a link leads to a file of the same length."""
    await adapters.store_file(b"ours")
    begun = await adapters.store.create_upload(MediaName("", "begun"), new_tus_upload("a"))
    await adapters.store.write_blocks(begun, 0, [b"ours"])
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    info = await adapters.reader.find(NAME)
    assert info is not None
    for file_id in (info.file_id, begun.store_key):
        path = adapters.inspector.path_of(file_id)
        (foreign / file_id).write_bytes(b"them")
        path.unlink()
        match place:
            case "file":
                path.symlink_to(foreign / file_id)
            case "folder":
                path.parent.rmdir()
                path.parent.symlink_to(foreign)
            case "pipe":
                os.mkfifo(path)
            case "directory":
                path.mkdir()
    with pytest.raises(CorruptFile):
        await adapters.reader.read_blocks(info, 0, 0)
    with pytest.raises(GridcastError):
        await adapters.store.write_blocks(begun, 0, [b"ours"])
    assert {path.read_bytes() for path in foreign.iterdir()} == {b"them"}


async def test_the_folder_of_another_database_is_refused(adapters: FilesAdapters, tmp_path: Path) -> None:
    """And one that is not mounted: it would be filled a second time."""
    await adapters.store_file(b"x")
    other = open_files_database(f"sqlite:///{tmp_path}/other.sqlite3", str(adapters.inspector.folder))
    try:
        with pytest.raises(RuntimeError, match="belongs to another database"):
            await other.prepare()
    finally:
        await other.aclose()
    moved = adapters.inspector.folder.with_name("unmounted")
    adapters.inspector.folder.rename(moved)
    moved_database = f"sqlite:///{moved}/gridcast.sqlite3"
    empty = open_files_database(moved_database, str(tmp_path / "empty"))
    try:
        with pytest.raises(RuntimeError, match="not mounted"):
            await empty.prepare()
    finally:
        await empty.aclose()
    with pytest.raises(ServiceUnavailable):
        await adapters.store.check_health()


async def test_orphans_are_a_day_old_and_unreferenced(adapters: FilesAdapters) -> None:
    await adapters.store_file(b"ours")
    info = await adapters.reader.find(NAME)
    assert info is not None
    now = int((adapters.inspector.folder / "store_id").stat().st_mtime)
    old = now - int(timedelta(hours=25).total_seconds())
    stray, young, recent = f"{old:08x}{1:016x}", f"{now:08x}{2:016x}", f"{old:08x}{3:016x}"
    for file_id in (stray, young, recent):
        adapters.inspector.write_late(file_id, 0, b"x")
    foreign = adapters.inspector.path_of(stray).with_name("notes.txt")
    foreign.write_bytes(b"")
    for path in (adapters.inspector.path_of(stray), adapters.inspector.path_of(young), foreign):
        os.utime(path, (old, old))
    os.utime(adapters.inspector.path_of(info.file_id), (old, old))
    assert await adapters.keeper.delete_orphans() == 1
    assert await adapters.keeper.delete_orphans() == 0
    left = {path.name for path in adapters.inspector.list_files()}
    assert left == {young, recent, info.file_id, "notes.txt"}


async def test_a_row_without_its_file_is_reported_and_counted(
    adapters: FilesAdapters, caplog: pytest.LogCaptureFixture
) -> None:
    from services.common.telemetry import metrics  # noqa: PLC0415

    for name in ("whole", "missing", "short"):
        await adapters.store_file(b"12345", MediaName("", name))
    before = metrics.DAMAGED_FILES._value.get()
    for name in ("missing", "short"):
        info = await adapters.reader.find(MediaName("", name))
        assert info is not None
        path = adapters.inspector.path_of(info.file_id)
        path.unlink() if name == "missing" else os.truncate(path, 4)
    assert await adapters.keeper.delete_orphans() == 0
    assert metrics.DAMAGED_FILES._value.get() == before + 2
    assert caplog.text.count("is missing or has another length") == 2


async def test_lists_use_indexes(adapters: FilesAdapters) -> None:
    """Nothing is sorted, and no table or index is read from its beginning."""
    await adapters.store_file(b"x")
    asked: list[tuple[str, Any]] = []
    reader = adapters.files.database._reader
    assert isinstance(reader, database.SQLiteConnections)

    @event.listens_for(reader._engine, "before_cursor_execute")
    def remember(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    key = PageKey(datetime(2026, 1, 1, tzinfo=UTC), "0" * 24)
    for query in (
        ListQuery(),
        ListQuery(after=key),
        ListQuery(folder="f", after=key),
        ListQuery(filename_contains="x"),
    ):
        await adapters.reader.list_files(query)
    await adapters.reader.list_folders(None, 5)
    await adapters.reader.find(NAME)
    [name async for name in adapters.keeper.list_due()]
    assert len(asked) >= 10
    with contextlib.closing(sqlite3.connect(adapters.inspector.folder / "gridcast.sqlite3")) as connection:
        for statement, parameters in asked:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            assert not [line for line in plan if "TEMP B-TREE" in line], (statement, plan)
            scans = [line for line in plan if line.startswith("SCAN") and "USING" not in line and "folders" not in line]
            assert not [line for line in scans if "CONSTANT" not in line], (statement, plan)


async def test_an_upload_whose_bytes_were_cut_off_is_not_committed(adapters: FilesAdapters) -> None:
    upload = await adapters.store.create_upload(NAME, new_tus_upload("a"))
    await adapters.store.write_blocks(upload, 0, [b"12345"])
    os.truncate(adapters.inspector.path_of(upload.store_key), 3)
    with pytest.raises(Gone, match="corrupt"):
        await adapters.store.commit(upload, finished_upload(b"12345"))
    assert await adapters.reader.find(NAME) is None


async def test_an_offset_is_acknowledged_after_its_bytes_were_synced(
    adapters: FilesAdapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each checkpoint of an upload in batches. From its second one on the batch itself syncs, once."""
    synced = [0]
    syncs: list[int] = []
    sync_data, set_offset = file_io.sync_data, offset_changes.set_offset

    def noting_sync(descriptor: int) -> None:
        length = os.fstat(descriptor).st_size  # what is written from now on need not be covered
        sync_data(descriptor)
        synced[0] = length
        syncs.append(length)

    def checking_set_offset(*arguments: Any, **options: Any) -> Any:
        assert options["checkpoint"].offset <= synced[0]
        return set_offset(*arguments, **options)

    monkeypatch.setattr(file_io, "sync_data", noting_sync)
    monkeypatch.setattr(offset_changes, "set_offset", checking_set_offset)
    data = os.urandom(6 * BATCH_SIZE + 100)
    writer = UploadWriter(adapters.store, len(data))
    writer.checkpoint_batches = True
    await writer.create(NAME, new_tus_upload("a"))
    for start in range(0, len(data), BATCH_SIZE // 2):
        await writer.write(data[start : start + BATCH_SIZE // 2])
    assert await writer.checkpoint(keep_lease=True) is not None
    assert syncs == sorted(syncs)
    assert syncs.count(6 * BATCH_SIZE) == 1
    assert syncs[-1] == len(data)
    await writer.commit(NAME, "a/b")
    await writer.suspend()
    assert adapters.inspector.read_current(adapters.inspector.list_documents()[0]["_id"]) == data


async def test_what_an_overtaken_writer_has_synced_says_nothing_of_its_successor(
    adapters: FilesAdapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both in one process: the successor's first offset syncs what the successor has written."""
    old = await adapters.store.create_upload(NAME, new_tus_upload("a"))
    await adapters.store.write_blocks(old, 0, [b"o" * CHUNK_SIZE])
    await adapters.store.set_offset(old, CHUNK_SIZE, b"", None, keep_lease=True)
    await adapters.store.write_blocks(old, 1, [b"o" * CHUNK_SIZE])  # synced
    taken = await adapters.store.acquire(old.upload_id)
    assert isinstance(taken, tuple)
    syncs: list[int] = []
    sync_data = file_io.sync_data

    def noting_sync(descriptor: int) -> None:
        sync_data(descriptor)
        syncs.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(file_io, "sync_data", noting_sync)
    await adapters.store.write_blocks(taken[0], 1, [b"n" * CHUNK_SIZE])
    assert syncs == []
    await adapters.store.set_offset(taken[0], 2 * CHUNK_SIZE, b"", None, keep_lease=True)
    assert syncs == [2 * CHUNK_SIZE]
    await adapters.store.write_blocks(taken[0], 2, [b"n" * CHUNK_SIZE])
    await adapters.store.set_offset(taken[0], 3 * CHUNK_SIZE, b"", None, keep_lease=True)
    assert syncs == [2 * CHUNK_SIZE, 3 * CHUNK_SIZE]
    with pytest.raises(Conflict):
        await adapters.store.write_blocks(old, 2, [b"late"])


async def test_parts_are_joined_within_the_store(adapters: FilesAdapters) -> None:
    parts, whole = [], b""
    for size in (0, 1, CHUNK_SIZE + 3, 9 * 1024 * 1024):
        data = os.urandom(size)
        part = await adapters.store.create_upload(None, NewUpload(size, 60))
        if size:
            await adapters.store.write_blocks(part, 0, [data])
        await adapters.store.set_offset(part, size, b"", size, keep_lease=False)
        parts.append((part, size))
        whole += data
    target = await adapters.store.create_upload(NAME, NewUpload(len(whole), 60))
    seen: list[int] = []
    digest = hashlib.sha256()
    assert await adapters.store.join_parts(target, parts, digest.update, seen.append)
    assert digest.hexdigest() == hashlib.sha256(whole).hexdigest()
    assert seen[-1] == len(whole)
    event = await adapters.store.commit(target, finished_upload(whole))
    assert adapters.inspector.read_current(event.info.id) == whole
    os.truncate(adapters.inspector.path_of(parts[2][0].store_key), 5)
    again = await adapters.store.create_upload(NAME, NewUpload(), NO_PRECONDITIONS)
    with pytest.raises(CorruptFile):
        await adapters.store.join_parts(again, parts, digest.update, seen.append)


# Disks and databases that fail.


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let writes beyond this size fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_is_reported_and_what_was_durable_stays(adapters: FilesAdapters) -> None:
    data = os.urandom(8 * CHUNK_SIZE)
    upload = await adapters.store.create_upload(NAME, new_tus_upload("a"))
    await adapters.store.write_blocks(upload, 0, [data[:CHUNK_SIZE]])
    await adapters.store.set_offset(upload, CHUNK_SIZE, b"", None, keep_lease=True)
    blocks = [data[start : start + CHUNK_SIZE] for start in range(CHUNK_SIZE, len(data), CHUNK_SIZE)]
    with largest_file(4 * CHUNK_SIZE), pytest.raises(InsufficientStorage):
        await adapters.store.write_blocks(upload, 1, blocks)
    taken = await adapters.store.acquire(upload.upload_id)
    assert isinstance(taken, tuple)
    assert taken[1].offset == CHUNK_SIZE
    await adapters.store.write_blocks(taken[0], 1, blocks)
    event = await adapters.store.commit(taken[0], finished_upload(data))
    assert adapters.inspector.read_current(event.info.id) == data


async def test_a_database_that_is_locked_by_another_process_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 200)
    async with open_files(tmp_path / "store") as adapters:
        await adapters.store_file(b"x")
        with contextlib.closing(sqlite3.connect(tmp_path / "store/gridcast.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(ServiceUnavailable, match="locked by another process"):
                await adapters.store.create_upload(MediaName("", "n"), NewUpload())
            assert await adapters.reader.find(NAME) is not None, "readers do not wait"
            other.execute("ROLLBACK")
        await adapters.store_file(b"y")


@pytest.mark.parametrize("damage", ["overwritten", "not a database"])
async def test_a_damaged_database_is_reported(tmp_path: Path, damage: str) -> None:
    async with open_files(tmp_path / "store") as adapters:
        await adapters.store_file(b"x")
    path = tmp_path / "store/gridcast.sqlite3"
    content = path.read_bytes()
    path.write_bytes(content[:4096] + os.urandom(len(content) - 4096) if damage == "overwritten" else b"x" * 8192)
    files = open_files_database("", str(tmp_path / "store"))
    try:
        with pytest.raises(ServiceUnavailable, match="damaged"):
            await _prepare_and_write(FilesAdapters(files, adapters.inspector))
    finally:
        await files.aclose()


async def _prepare_and_write(adapters: FilesAdapters) -> None:
    await adapters.store.ensure_schema()
    await adapters.store_file(b"y")


async def test_a_database_file_that_was_replaced_is_not_written(adapters: FilesAdapters) -> None:
    """What is written into a file that was deleted would be acknowledged and lost."""
    await adapters.store_file(b"x")
    path = adapters.inspector.folder / "gridcast.sqlite3"
    path.rename(path.with_name("away"))
    with pytest.raises(ServiceUnavailable, match="deleted or replaced"):
        await adapters.store_file(b"y")
    path.with_name("away").rename(path)
    await adapters.store_file(b"y")


UNPRIVILEGED = """
# Python may be in the folder of root, so all modules are imported before the rights are gone: also those that are imported late.
import asyncio, encodings.ascii, os, sqlite3, sys, tempfile
from pathlib import Path
from services.common.errors import GridcastError
from services.common.media import MediaName
from services.common.store.files.files_database import open_files_database
from services.common.store.files.media_reader import FilesMediaReader
from services.common.store.files.upload_store import FilesUploadStore
from services.common.store.preconditions import NO_PRECONDITIONS
from services.common.store.upload_store import (NewUpload,)

async def main():
    files = open_files_database("", sys.argv[1])
    store, reader = FilesUploadStore(files), FilesMediaReader(files)
    async def attempt(call):
        try:
            await call
        except (GridcastError, RuntimeError) as error:
            print(type(error).__name__, error)
        else:
            print("done")
    await attempt(store.ensure_schema())
    await attempt(reader.find(MediaName("f", "n")))
    async def write():
        upload = await store.create_upload(MediaName("f", "n"), NewUpload(), NO_PRECONDITIONS)
        await store.write_blocks(upload, 0, [b"x"])
    await attempt(write())
    await files.aclose()

async def rehearse():
    with tempfile.TemporaryDirectory() as folder:
        files = open_files_database("", folder + "/store")
        store = FilesUploadStore(files)
        await store.ensure_schema()
        upload = await store.create_upload(MediaName("f", "n"), NewUpload(), NO_PRECONDITIONS)
        await store.write_blocks(upload, 0, [b"x"])
        await FilesMediaReader(files).find(MediaName("f", "n"))
        await files.aclose()

asyncio.run(rehearse())
os.setgid(65534); os.setuid(65534)
asyncio.run(main())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("lost", ["database", "folder", "everything"])
async def test_lost_permissions_are_reported(lost: str) -> None:
    """A clear error, and no traceback. In a folder that other users can enter."""
    import tempfile  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="gridcast-") as folder:
        store = Path(folder) / "store"
        os.chmod(folder, 0o755)  # noqa: PTH101  # pathlib's would block the event loop, says the linter
        async with open_files(store) as adapters:
            await adapters.store_file(b"x")
        for path in (store, *store.rglob("*")):
            os.chown(path, 65534, 65534)
        match lost:
            case "database":
                os.chown(store / "gridcast.sqlite3", 0, 0)
                (store / "gridcast.sqlite3").chmod(0o600)
            case "folder":
                os.chown(store / "files", 0, 0)
                (store / "files").chmod(0o755)
                for path in (store / "files").iterdir():
                    os.chown(path, 0, 0)
                    path.chmod(0o700)
            case "everything":
                store.chmod(0o000)
                os.chown(store, 0, 0)
        command = [sys.executable, "-c", UNPRIVILEGED, str(store)]
        run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 3
    assert any(line.startswith(("ServiceUnavailable", "RuntimeError")) for line in lines), lines
    if lost != "folder":
        assert "done" not in lines


# The schema.


async def test_any_number_of_processes_migrate_at_once(tmp_path: Path) -> None:
    stores = [open_files_database("", str(tmp_path / "store")) for _ in range(8)]
    try:
        await asyncio.gather(*(store.prepare() for store in stores))
        await asyncio.gather(*(store.check() for store in stores))
    finally:
        for store in stores:
            await store.aclose()


async def test_any_number_of_processes_migrate_postgresql_at_once(
    postgresql: PostgreSQLServer, postgresql_database: str, tmp_path: Path
) -> None:
    url = postgresql.url(postgresql_database)
    stores = [open_files_database(url, str(tmp_path / "store")) for _ in range(8)]
    try:
        await asyncio.gather(*(store.prepare() for store in stores))
        await asyncio.gather(*(store.check() for store in stores))
    finally:
        for store in stores:
            await store.aclose()


async def test_a_newer_schema_is_refused_with_a_sentence(adapters: FilesAdapters) -> None:
    sql(adapters, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(
        RuntimeError, match=r"the schema '9999' of a newer Gridcast; start that one, or restore a backup"
    ):
        await adapters.store.ensure_schema()
    with pytest.raises(ServiceUnavailable, match="newer Gridcast"):
        await adapters.reader.check_health()


async def test_the_migrations_make_the_tables_of_the_schema(adapters: FilesAdapters, tmp_path: Path) -> None:
    """What the migrations have written out is what `schema` says."""
    from sqlalchemy import create_engine  # noqa: PLC0415

    from services.common.store.files import schema  # noqa: PLC0415

    path = tmp_path / "schema.sqlite3"
    engine = create_engine(f"sqlite:///{path}")
    schema.metadata.create_all(engine)
    engine.dispose()

    def normalized(database: Path) -> dict[str, object]:
        """Indexes by their text, tables by their columns: one that was added stands last, behind the constraints."""
        with contextlib.closing(sqlite3.connect(database)) as connection:
            found = connection.execute("SELECT name, type, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
            return {
                name: re.sub(r"\s+", " ", sql)
                if kind == "index"
                else {row[1:] for row in connection.execute(f"PRAGMA table_info({name})")}
                for name, kind, sql in found
                if name != "alembic_version"
            }

    assert normalized(adapters.inspector.folder / "gridcast.sqlite3") == normalized(path)
    assert migration.newest_revision() == "0009"


async def test_a_connection_to_postgresql_that_is_lost_at_a_commit(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The server is killed again and again: whatever was acknowledged is there, and nothing is there in part."""
    with run_postgresql(tmp_path_factory) as server:
        server.execute("CREATE DATABASE gridcast", "postgres")
        inspector = FilesInspector(tmp_path / "store", lambda statement: server.execute(statement, "gridcast"))
        async with open_files(tmp_path / "store", inspector, server.url("gridcast")) as adapters:
            acknowledged: list[str] = []
            stop = asyncio.Event()

            async def upload(number: int) -> None:
                count = 0
                while not stop.is_set():
                    name = f"{number}-{count}"
                    count += 1
                    try:
                        await adapters.store_file(name.encode(), MediaName("", name))
                        acknowledged.append(name)
                    except GridcastError:
                        await asyncio.sleep(0.05)  # else four of them would take a core from the server that starts

            tasks = [asyncio.create_task(upload(number)) for number in range(4)]
            for _ in range(3):
                before = len(acknowledged)
                await eventually_async(lambda count=before + 10: len(acknowledged) >= count, 30)  # type: ignore[misc]
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            stop.set()
            await asyncio.gather(*tasks)
            for name in acknowledged:
                info = await adapters.reader.find(MediaName("", name))
                assert info is not None, name
                assert await adapters.reader.read_blocks(info, 0, 0) == [name.encode()]
            for document in inspector.list_documents():
                if document["current"]:
                    assert inspector.read_file(document["current"]["file"]) == document["filename"].encode()


async def test_statements_show_no_values(adapters: FilesAdapters) -> None:
    """Errors of the library may be logged: they must not contain what clients have sent."""
    with pytest.raises(Exception, match="hide_parameters") as failed:
        await adapters.files.database.read(
            lambda connection: connection.execute(text("SELECT :x FROM nothing"), {"x": "hush"})
        )
    assert "hush" not in str(failed.value)
