"""Backup and restore of the files store: dump during uploads, wipe, restore; every file's SHA-256 is unchanged.

Three ways: the job of deploy/compose.files.yml, a copy of the folder of stopped services, and pg_dump with a copy of the folder.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deploy.containers.backup_files import DumpedFile
from deploy.local.ports import HOST
from deploy.local.processes import PROJECT_ROOT
from services.common.store.files.ids import make_id
from services.common.store.files.media_folder import folders_of
from tests.support.postgresql import USER, PostgreSQLServer, find_program
from tests.support.processes import StartService
from tests.support.stored_files import FOLDER, StoredFiles

JOB = PROJECT_ROOT / "deploy/containers/backup_files.py"
SIZES = (0, 1, 261_119, 261_120, 261_121, 3_000_000, 10_000_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def shelf(folder: Path, redis_url: str, start_service: StartService) -> StoredFiles:
    return StoredFiles(start_service, environment(folder, redis_url))


def environment(folder: Path, redis_url: str, **more: str) -> dict[str, str]:
    return {
        "GRIDCAST_STORE": "files",
        "GRIDCAST_FILES_DIR": str(folder),
        "GRIDCAST_REDIS_URL": redis_url,
        "GRIDCAST_MIN_FREE_SPACE": "0",
        **more,
    }


def run_job(verb: str, folder: Path, directory: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", str(JOB), verb, str(directory)],
        env={**os.environ, "GRIDCAST_FILES_DIR": str(folder), **more},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def start_tus_upload(shelf: StoredFiles, length: int, data: bytes) -> str:
    """Create an unfinished upload with these first bytes and return its address."""
    metadata = "filename dHVzLmJpbg==,folder c2hlbGY="
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(length), "Upload-Metadata": metadata}
    created = httpx.post(f"{shelf.upload.url}/file/tus", headers=headers)
    assert created.status_code == 201, created.text
    address = created.headers["location"]
    path = address if address.startswith("/") else httpx.URL(address).raw_path.decode()
    append(shelf, path, 0, data)
    return path


def append(shelf: StoredFiles, path: str, offset: int, data: bytes) -> None:
    headers = {
        "Tus-Resumable": "1.0.0",
        "Upload-Offset": str(offset),
        "Content-Type": "application/offset+octet-stream",
    }
    patched = httpx.patch(f"{shelf.upload.url}{path}", headers=headers, content=data, timeout=60)
    assert patched.status_code == 204, patched.text
    assert int(patched.headers["upload-offset"]) == offset + len(data)


def test_dump_wipe_restore(shelf: StoredFiles, folder: Path, tmp_path: Path) -> None:
    """An upload that was unfinished resumes."""
    for number, size in enumerate(SIZES):
        shelf.put(f"file-{number}", size)
    content = os.urandom(2_000_000)
    upload = start_tus_upload(shelf, len(content), content[:700_000])
    before = dict(shelf.sha256_by_name)
    with shelf.busy():
        dumped = run_job("dump", folder, tmp_path / "dump")
    assert dumped.returncode == 0, dumped.stderr
    shelf.stop_services()
    shutil.rmtree(folder)
    restored = run_job("restore", folder, tmp_path / "dump")
    assert restored.returncode == 0, restored.stderr
    assert restored.stdout.partition(": ")[2] == dumped.stdout.partition(": ")[2]
    shelf.start_services()
    assert {name: shelf.read(name) for name in before} == before
    meanwhile = [name for name in shelf.sha256_by_name if name not in before]
    assert all(shelf.read(name) in {shelf.sha256_by_name[name], "404"} for name in meanwhile)
    append(shelf, upload, 700_000, content[700_000:])
    query = {"filename": "tus.bin", "folder": FOLDER}
    assert httpx.get(f"{shelf.stream.url}/file/stream", params=query).content == content
    shelf.put("file-1", 2_000_000)
    shelf.put("afterwards", 500_000)
    assert shelf.read("file-1") == shelf.sha256_by_name["file-1"] != before["file-1"]


def test_copy_of_the_folder_of_stopped_services(shelf: StoredFiles, folder: Path, tmp_path: Path) -> None:
    for number, size in enumerate(SIZES):
        shelf.put(f"file-{number}", size)
    shelf.stop_services()
    subprocess.run(["cp", "-a", folder, tmp_path / "copy"], check=True)
    shutil.rmtree(folder)
    subprocess.run(["cp", "-a", tmp_path / "copy", folder], check=True)
    shelf.start_services()
    assert {name: shelf.read(name) for name in shelf.sha256_by_name} == shelf.sha256_by_name


def test_pg_dump_and_a_copy_of_the_folder(
    postgresql: PostgreSQLServer,
    postgresql_database: str,
    redis_url: str,
    start_service: StartService,
    folder: Path,
    tmp_path: Path,
) -> None:
    """In the order of docs/operations.md, while uploads go on."""
    url = postgresql.url(postgresql_database)
    shelf = StoredFiles(start_service, environment(folder, redis_url, GRIDCAST_DATABASE_URL=url))
    for number, size in enumerate(SIZES):
        shelf.put(f"file-{number}", size)
    before = dict(shelf.sha256_by_name)

    def run(program: str, *arguments: str) -> None:
        path = find_program(program)
        assert path is not None
        server = ("--host", HOST, "--port", str(postgresql.port), "--username", USER)
        done = subprocess.run([path, *server, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr

    with shelf.busy():
        run("pg_dump", "--format=custom", f"--file={tmp_path / 'database'}", postgresql_database)
        subprocess.run(["cp", "-a", folder, tmp_path / "copy"], check=True)
    shelf.stop_services()
    shutil.rmtree(folder)
    postgresql.execute(f"DROP DATABASE {postgresql_database} WITH (FORCE)", "postgres")
    postgresql.execute(f"CREATE DATABASE {postgresql_database}", "postgres")
    subprocess.run(["cp", "-a", tmp_path / "copy", folder], check=True)
    run("pg_restore", f"--dbname={postgresql_database}", "--no-owner", "--exit-on-error", str(tmp_path / "database"))
    shelf.start_services()
    assert {name: shelf.read(name) for name in before} == before
    shelf.put("afterwards", 500_000)
    assert shelf.read("afterwards") == shelf.sha256_by_name["afterwards"]


def test_job_refuses_what_would_lose_something(shelf: StoredFiles, folder: Path, tmp_path: Path) -> None:
    """A store with files, a directory with a dump, a dump without its database, and a database that is no SQLite."""
    shelf.put("one", 1000)
    assert run_job("dump", folder, tmp_path / "dump").returncode == 0
    refused = run_job("restore", folder, tmp_path / "dump")
    assert (refused.returncode, shelf.read("one")) == (1, shelf.sha256_by_name["one"])
    assert "exists: restore into an empty folder" in refused.stderr
    assert run_job("dump", folder, tmp_path / "dump").returncode == 1, "a dump never writes over another"
    (tmp_path / "dump" / "gridcast.sqlite3").rename(tmp_path / "dump" / "gridcast.sqlite3.part")
    incomplete = run_job("restore", tmp_path / "new", tmp_path / "dump")
    assert "is not a complete dump" in incomplete.stderr
    assert not (tmp_path / "new").exists()
    url = "postgresql+asyncpg://hush@host/gridcast"
    other = run_job("dump", folder, tmp_path / "other", GRIDCAST_DATABASE_URL=url)
    assert other.returncode == 1
    assert "pg_dump" in other.stderr
    assert "hush" not in other.stderr


@pytest.mark.parametrize("damage", ["missing", "truncated", "longer", "changed", "linked"])
@pytest.mark.parametrize("verb", ["dump", "restore"])
def test_file_that_is_not_as_its_row_says_is_reported(
    shelf: StoredFiles, folder: Path, tmp_path: Path, verb: str, damage: str
) -> None:
    """And nothing of the result is taken for complete."""
    shelf.put("one", 300_000)
    shelf.put("two", 300_000)
    shelf.stop_services()
    if verb == "restore":
        assert run_job("dump", folder, tmp_path / "dump").returncode == 0
    with sqlite3.connect(folder / "gridcast.sqlite3") as database:
        (file_id,) = database.execute("SELECT file_id FROM media WHERE filename = 'two'").fetchone()
    database.close()
    place = folder if verb == "dump" else tmp_path / "dump"
    path = place / "files" / DumpedFile(file_id, 0, None).path
    match damage:
        case "missing":
            path.unlink()
        case "truncated":
            os.truncate(path, 299_999)
        case "longer":
            os.truncate(path, 300_001)
        case "changed":
            path.write_bytes(b"x" + path.read_bytes()[1:])
        case _:
            path.rename(tmp_path / "elsewhere")
            path.symlink_to(tmp_path / "elsewhere")
    if verb == "restore":
        shutil.rmtree(folder)
    done = run_job(verb, folder, tmp_path / "dump")
    assert done.returncode == 1
    assert f"file {file_id}: " in done.stderr
    assert not ((tmp_path / "dump" if verb == "dump" else folder) / "gridcast.sqlite3").exists()


def ids() -> Iterator[str]:
    for _ in range(50):
        yield make_id()


def test_job_and_store_agree_on_paths() -> None:
    for identifier in ids():
        assert DumpedFile(identifier, 0, None).path == Path(*folders_of(identifier), identifier)
