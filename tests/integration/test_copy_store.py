"""`python -m services.upload.copy_store`: from GridFS into files and back, killed in the middle, and what it says about faults."""

import asyncio
import contextlib
import functools
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.common.media import MediaInfo, MediaName
from services.common.settings import StoreSettings
from services.common.store.factory import MediaStore
from services.common.store.media_reader import ListQuery, PageKey
from services.common.store.preconditions import NO_PRECONDITIONS
from services.common.store.upload_store import (
    NewUpload,
    StoredFile,
)
from services.upload import copy_store
from tests.support.opened_stores import opened_store, with_stores
from tests.support.process_stats import peak_memory
from tests.support.processes import run_module, start_module
from tests.support.secret_leaks import MALFORMED_MONGODB_URIS, SECRET, find_leaks
from tests.support.sizes import CHUNK_SIZE, MIB
from tests.support.waiting import eventually, eventually_async

pytestmark = pytest.mark.anyio
FILE_COUNTS = [300, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(3600)])]
MEMORY_LIMIT = 220 * MIB
"""Of the command, of which about 90 MiB are the interpreter, the drivers and SQLAlchemy."""


def address_of(settings: StoreSettings) -> str:
    if settings.store == "gridfs":
        return settings.mongodb_uri.get_secret_value()
    database = settings.database_url.get_secret_value()
    return f"files:{settings.files_dir}" + (f"?database={database}" if database else "")


BOTH_STORES = ("services.common.store.files", "services.common.store.gridfs")


def command(source: StoreSettings, target: StoreSettings) -> list[str]:
    databases = [f"--from-database={source.mongodb_database}", f"--to-database={target.mongodb_database}"]
    return command_with(address_of(source), address_of(target), *databases)


def command_with(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "services.upload.copy_store", *arguments]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("GRIDCAST_")}


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return run_module(*arguments[2:], env=environment(), packages=BOTH_STORES, timeout=1200)


def copy(source: StoreSettings, target: StoreSettings) -> str:
    """Run the command, which must succeed; returns its last line."""
    done = run(command(source, target))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()[-1]


async def put(store: MediaStore, name: MediaName, data: bytes, metadata_json: str = "{}") -> None:
    upload = await store.uploads.create_upload(name, NewUpload(), NO_PRECONDITIONS)
    blocks = [data[start : start + CHUNK_SIZE] for start in range(0, len(data), CHUNK_SIZE)]
    if blocks:
        await store.uploads.write_blocks(upload, 0, blocks)
    sha256 = hashlib.sha256(data).hexdigest()
    stored = StoredFile(len(data), "text/plain", sha256, metadata_json=metadata_json)
    event = await store.uploads.commit(upload, stored, NO_PRECONDITIONS)
    await store.uploads.ack_event(event)


async def fill(settings: StoreSettings, count: int) -> None:
    """Store small files with all sorts of names, revisions and metadata, and some that are not to be copied."""
    chance = random.Random(count)

    async def put_one(store: MediaStore, number: int) -> None:
        name = MediaName(["", "f", "f/ü", "日本"][number % 4], f"{number} é.bin")
        for _ in range(1 + (number % 9 == 0)):  # some are replaced
            size = 3 * CHUNK_SIZE + 1 if number % 100 == 0 else chance.randrange(2000)
            await put(store, name, chance.randbytes(size), f'{{"number":"{number}"}}' if number % 2 else "{}")
        if number % 50 == 7:
            await store.uploads.delete(name)
            await put(store, name, b"again")

    async with opened_store(settings) as store:
        for start in range(0, count, 16):
            await asyncio.gather(*(put_one(store, number) for number in range(start, min(count, start + 16))))
        await put(store, MediaName("", "deleted"), b"x")
        await store.uploads.delete(MediaName("", "deleted"))
        unfinished = await store.uploads.create_upload(MediaName("", "unfinished"), NewUpload(ttl=3600))
        await store.uploads.write_blocks(unfinished, 0, [b"x" * CHUNK_SIZE])


async def list_all(store: MediaStore) -> list[MediaInfo]:
    found: list[MediaInfo] = []
    after: PageKey | None = None
    while True:
        page = await store.reader.list_files(ListQuery(after=after, limit=500))
        found += page.files
        if (after := page.next_key) is None:
            return found


async def read_store(settings: StoreSettings) -> list[tuple[MediaInfo, str]]:
    """All files as they are described and with the digest of the bytes that are read, in the order of the list."""
    async with opened_store(settings) as store:
        described = []
        for info in await list_all(store):
            digest = hashlib.sha256()
            for block in range(-(-info.length // CHUNK_SIZE)):
                digest.update((await store.reader.read_blocks(info, block, block))[0])
            described.append((info, digest.hexdigest()))
        return described


@pytest.mark.parametrize("count", FILE_COUNTS)
@with_stores(*(("gridfs-motor", f"files-{database}", "gridfs-pymongo") for database in ("sqlite", "postgresql")))
async def test_files_are_the_same_after_a_copy_into_files_and_back(stores: list[StoreSettings], count: int) -> None:
    """All SHA-256, metadata, ids, revisions and times, and the order of the list."""
    source, files, back = stores
    await fill(source, count)
    original = await read_store(source)
    assert len(original) == count
    assert all(info.sha256 == digest for info, digest in original)
    for start, end in ((source, files), (files, back)):
        began = time.monotonic()
        assert copy(start, end).startswith(f"{count} files: {count} copied with ")
        print(f"{count} files in {time.monotonic() - began:.1f} s")
        assert await read_store(end) == original
    # Both directions again: nothing is left to copy.
    for start, end in ((source, files), (files, source)):
        assert copy(start, end).startswith(f"{count} files: 0 copied with 0 bytes, {count} were there")


@pytest.mark.parametrize("count", FILE_COUNTS)
@with_stores(("gridfs-motor", "files-sqlite"), ("files-sqlite", "gridfs-motor"))
async def test_a_killed_copy_is_continued(stores: list[StoreSettings], count: int, tmp_path: Path) -> None:
    source, target = stores
    await fill(source, count)
    original = await read_store(source)
    async with opened_store(target) as store:
        for share in (0.1, 0.6) if count < 1000 else (0.05, 0.1, 0.4, 0.5, 0.8):
            with forked(command(source, target), tmp_path / "output") as child:
                await eventually_async(functools.partial(holds, store, share * count), 600)
                assert child.poll() is None
                child.kill()
            partial = {info.file_id: info for info in await list_all(store)}
            assert share * count <= len(partial) < count
            assert partial.items() <= {info.file_id: info for info, _ in original}.items()
    assert " 0 not copied" in copy(source, target)
    assert await read_store(target) == original


async def holds(store: MediaStore, count: float) -> bool:
    return len(await list_all(store)) >= count


def forked(arguments: list[str], output: Path) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """The command in a fork of a process that has imported its modules: a second of CPU less."""
    return ended(start_module(*arguments[2:], env=environment(), output=output, packages=BOTH_STORES))


def executed(arguments: list[str]) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """The command in a new interpreter: the memory of a fork includes what its parent has imported."""
    return ended(subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))


@contextlib.contextmanager
def ended(child: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Kill the child process at the end of the block."""
    try:
        yield child
    finally:
        child.kill()
        child.wait(10)


@pytest.mark.parametrize(
    "size", [96 * MIB, pytest.param(1024 * MIB, marks=[pytest.mark.long, pytest.mark.timeout(600)])]
)
@with_stores(("gridfs-motor", "files-sqlite"), ("files-sqlite", "gridfs-motor"))
async def test_memory_is_bounded(stores: list[StoreSettings], size: int) -> None:
    """As many large files as are copied at the same time."""
    source, target = stores
    async with opened_store(source) as store:
        block = os.urandom(CHUNK_SIZE)
        count = size // 8 // CHUNK_SIZE
        sha256 = hashlib.sha256(block * count).hexdigest()
        for number in range(8):
            upload = await store.uploads.create_upload(MediaName("", str(number)), NewUpload())
            for first in range(0, count, 16):
                await store.uploads.write_blocks(upload, first, [block] * min(16, count - first))
            await store.uploads.commit(upload, StoredFile(count * CHUNK_SIZE, "a/b", sha256))
    peaks = [0]
    with executed(command(source, target)) as child:
        watcher = threading.Thread(target=watch_memory, args=(child, peaks))
        watcher.start()
        assert await asyncio.to_thread(child.wait, 500) == 0
        watcher.join()
    print(f"peak {peaks[0] / MIB:.0f} MiB for {size / MIB:.0f} MiB")
    assert 0 < peaks[0] < MEMORY_LIMIT
    assert [digest for _, digest in await read_store(target)] == [sha256] * 8


def watch_memory(child: subprocess.Popen[bytes], peaks: list[int]) -> None:
    while child.poll() is None:
        with contextlib.suppress(OSError, IndexError):
            peaks[0] = max(peaks[0], peak_memory(child.pid))
        time.sleep(0.02)


@with_stores(("files-sqlite", "gridfs-motor"))
async def test_files_that_cannot_be_copied_are_listed_and_the_others_are_copied(stores: list[StoreSettings]) -> None:
    source, target = stores
    async with opened_store(source) as store:
        for name in ("whole", "changed", "short", "missing", "taken", "newer"):
            await put(store, MediaName("f\n", name), b"some bytes")
        infos = {info.filename: info for info in await list_all(store)}
    for name, change in (("changed", b"other data"), ("short", b"some")):
        path_of(source, infos[name]).write_bytes(change)
    path_of(source, infos["missing"]).unlink()
    async with opened_store(target) as store:
        await put(store, MediaName("f\n", "taken"), b"of another file")

        async def blocks_of_newer() -> object:
            yield b"some bytes"

        newer = replace(infos["newer"], file_id="5cde24a5" + "0" * 16, revision=9)
        await store.importer.import_file(newer, blocks_of_newer())  # type: ignore[arg-type]
    done = run(command(source, target))
    assert done.returncode == 1
    lines = sorted(done.stderr.splitlines())
    assert [line.partition(": ")[2].partition(":")[0] for line in lines] == [
        f"'f\\n' {name!r}" for name in ("changed", "missing", "short", "taken")
    ]
    assert "another SHA-256" in lines[0]
    *_, kept, last = done.stdout.splitlines()
    assert kept == "kept, newer in TO: 'f\\n' 'newer'"
    assert last == "6 files: 1 copied with 10 bytes, 0 were there, 1 newer in TO, 4 not copied"
    async with opened_store(target) as store:
        assert {info.filename for info in await list_all(store)} == {"whole", "taken", "newer"}


def path_of(settings: StoreSettings, info: MediaInfo) -> Path:
    name = info.file_id
    return Path(settings.files_dir) / "files" / name[-2:] / name[-3] / name


@with_stores(("gridfs-motor", "files-sqlite"))
async def test_progress_is_reported_and_a_copy_can_be_interrupted(stores: list[StoreSettings], tmp_path: Path) -> None:
    source, target = stores
    await fill(source, 300)
    output = tmp_path / "output"
    program = (
        "import sys; from services.upload import copy_store; copy_store.PROGRESS_SECONDS = 0.05; "
        "sys.exit(copy_store.main(sys.argv[1:]))"
    )
    arguments = [sys.executable, "-c", program, *command(source, target)[3:]]
    assert await asyncio.to_thread(interrupt, arguments, output) == 130
    text = output.read_text("utf-8")
    assert "Traceback" not in text
    assert text.splitlines()[-1] == "copy_store: interrupted; begin again to continue"


def interrupt(arguments: list[str], output: Path) -> int:
    """Send SIGINT after the first line of progress; return the exit status."""
    with output.open("wb") as file, subprocess.Popen(arguments, stdout=file, stderr=subprocess.STDOUT) as child:
        eventually(lambda: "files so far: " in output.read_text("utf-8"), 30)
        child.send_signal(signal.SIGINT)
        return child.wait(20)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([], 2),
        (["mongodb://host"], 2),
        (["mongodb://host", "files:a", f"mongodb://user:{SECRET}@host"], 2),
        (["mongodb://host", "files:a", f"--{SECRET}"], 2),
        (["mongodb://host", f"ftp://{SECRET}"], 2),
        (["files:", f"mongodb://u:{SECRET}@h"], 2),
        (["files:a?database=", f"mongodb://u:{SECRET}@h"], 2),
        (["files:a\nb", f"mongodb://u:{SECRET}@h"], 2),
        ([f"files:a?database=mysql://user:{SECRET}@host/x", "files:b"], 2),
        ([f"@/nowhere/{SECRET}", "files:b"], 2),
        (["mongodb://host", "files:a", "--from-database="], 1),
        *(([uri, "files:b"], 2) for uri in MALFORMED_MONGODB_URIS.values()),
    ],
)
def test_invalid_arguments_are_explained_without_their_secrets(
    arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        found: object = copy_store.main(arguments)
    except SystemExit as ended:
        # load_settings exits with the text itself.
        found, text = (1, ended.code) if isinstance(ended.code, str) else (ended.code, "")
    else:
        text = ""
    output = capsys.readouterr()
    assert (found, output.out) == (status, "")
    assert text or output.err
    assert find_leaks(f"{text}{output.err}") == []


def test_the_command_explains_itself_and_its_exit_status() -> None:
    done = run(command_with(f"mongodb://user:{SECRET}@host"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: python -m services.upload.copy_store ")
    assert find_leaks(done.stderr) == []


@with_stores(("files-sqlite", "files-postgresql"))
async def test_an_address_may_be_in_a_file(stores: list[StoreSettings], tmp_path: Path) -> None:
    source, target = stores
    async with opened_store(source) as store:
        await put(store, MediaName("", "n"), b"x")
    secret = tmp_path / "address"
    secret.write_text(f"{address_of(target)}\n", "utf-8")
    done = run(command_with(address_of(source), f"@{secret}"))
    assert (done.returncode, done.stderr) == (0, "")
    assert await read_store(target) == await read_store(source)


def test_an_address_that_the_driver_refuses_is_explained(tmp_path: Path) -> None:
    done = run(command_with(f"mongodb://127.0.0.1:1/?tls=true&tlsCAFile=/nowhere/{SECRET}", f"files:{tmp_path}/files"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("copy_store: the connection string of MongoDB has an invalid value")
    assert find_leaks(done.stderr) == []


def test_a_folder_without_a_store_is_no_source(tmp_path: Path) -> None:
    done = run(command_with(f"files:{tmp_path}/nowhere", f"files:{tmp_path}/target"))
    assert done.returncode == 1
    assert done.stderr.startswith("copy_store: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "nowhere").exists()


def test_a_store_that_does_not_answer_is_named_by_its_error(tmp_path: Path) -> None:
    began = time.monotonic()
    done = run(command_with(f"mongodb://user:{SECRET}@127.0.0.1:1/?authSource=admin", f"files:{tmp_path}/files"))
    assert done.returncode == 1
    assert done.stderr == "copy_store: the database is unavailable\n"
    assert time.monotonic() - began < 15
