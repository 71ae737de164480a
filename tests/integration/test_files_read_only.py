"""A disk that becomes read-only, as file systems do after an error: files are read on, writes are refused with a clear error."""

import asyncio
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.store_adapters import open_files

pytestmark = pytest.mark.anyio


def cannot_mount() -> bool:
    """Whether this process may not mount folders in a namespace of its own."""
    program = shutil.which("unshare")
    command = [program or "unshare", "--mount", "true"]
    return program is None or subprocess.run(command, capture_output=True, check=False).returncode != 0


needs_mounts = pytest.mark.skipif(cannot_mount(), reason="may not mount: needs root, or CAP_SYS_ADMIN in a container")

SCRIPT = """
import asyncio, hashlib, subprocess, sys
from services.common.errors import GridcastError
from services.common.media import MediaName
from services.common.store.files.files_database import open_files_database
from services.common.store.files.garbage_collector import FilesGarbageCollector
from services.common.store.files.media_reader import FilesMediaReader
from services.common.store.files.upload_store import FilesUploadStore
from services.common.store.timings import StoreTimings
from services.common.store.preconditions import NO_PRECONDITIONS
from services.common.store.upload_store import (NewUpload, StoredFile,)

folder, database = sys.argv[1:]
NAME = MediaName("f", "n")

def mount(option):
    subprocess.run(["mount", "-o", f"remount,bind,{option}", folder], check=True)

async def attempt(what, call):
    try:
        done = await call
        print(what, done if isinstance(done, str) else "done")
    except (GridcastError, RuntimeError) as error:
        print(what, type(error).__name__, error)

async def main():
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    if not database:
        mount("ro")
    files = open_files_database(database, folder)
    timings = StoreTimings(tombstone_ttl=0)
    store, reader, keeper = FilesUploadStore(files, timings), FilesMediaReader(files), FilesGarbageCollector(files, timings)

    async def put(data):
        upload = await store.create_upload(NAME, NewUpload(), NO_PRECONDITIONS)
        await store.write_blocks(upload, 0, [data])
        stored = StoredFile(len(data), "text/plain", hashlib.sha256(data).hexdigest())
        await store.commit(upload, stored, NO_PRECONDITIONS)

    async def read():
        info = await reader.find(NAME)
        return b"".join(await reader.read_blocks(info, 0, 0)).decode()

    async def collect():
        async for media_id in keeper.list_due():
            await keeper.collect(media_id)

    await attempt("prepare", files.prepare())
    await attempt("put", put(b"first"))
    if database:
        mount("ro")
        await attempt("read", read())
        await attempt("put", put(b"second"))
        await attempt("delete", store.delete(NAME))
        await attempt("collect", collect())
        mount("rw")
        await attempt("collect", collect())
        await attempt("put", put(b"third"))
    await attempt("read", read())
    await files.aclose()

asyncio.run(main())
"""


async def run_script(folder: Path, database: str) -> list[str]:
    command = ["unshare", "--mount", sys.executable, "-c", SCRIPT, str(folder), database]
    run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    return run.stdout.splitlines()


@needs_mounts
async def test_files_on_a_disk_that_became_read_only_are_read_on(tmp_path: Path) -> None:
    """The database is on another disk. What could not be deleted is deleted when the disk can be written again."""
    folder = tmp_path / "store"
    folder.mkdir()
    prepared, put, read, refused, deleted, uncollected, collected, again, last = await run_script(
        folder, f"sqlite:///{tmp_path}/other.sqlite3"
    )
    assert (prepared, put, read) == ("prepare done", "put done", "read first")
    assert refused == "put ServiceUnavailable the files cannot be read or written"
    assert deleted == "delete done", "only the database says what is visible"
    assert uncollected == "collect ServiceUnavailable the files cannot be read or written"
    assert (collected, again, last) == ("collect done", "put done", "read third")
    contents = [path.read_bytes() for path in (folder / "files").rglob("*") if path.is_file()]
    assert contents == [b"third"]


@needs_mounts
@pytest.mark.parametrize("filled", [False, True])
async def test_a_store_on_a_read_only_disk_does_not_start(tmp_path: Path, *, filled: bool) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    if filled:
        async with open_files(folder) as adapters:
            await adapters.store_file(b"x")
    before = sorted(path.name for path in folder.rglob("*"))
    prepared, put, read = await run_script(folder, "")
    what = "the folder of the database" if filled else "GRIDCAST_FILES_DIR"
    assert prepared == f"prepare RuntimeError {what} cannot be written: {os.strerror(errno.EROFS)}"
    assert put.startswith("put ServiceUnavailable the database file ")
    assert read == "read ServiceUnavailable the database file cannot be opened"
    assert sorted(path.name for path in folder.rglob("*")) == before
