"""Backup and restore: dump during uploads, wipe, restore; every file's SHA-256 is unchanged.

Three ways: the job of docker-compose.yml, MongoDB's own tools where they are installed, and a copy of a stopped server.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pymongo
import pytest
from bson.raw_bson import RawBSONDocument

from deploy.containers import backup
from deploy.local.processes import PROJECT_ROOT
from tests.support.databases import ServerProcess
from tests.support.processes import StartService
from tests.support.store_inspectors import open_inspector
from tests.support.stored_files import StoredFiles

JOB = PROJECT_ROOT / "deploy/containers/backup.py"
COLLECTIONS = ("live_messages", "live", "live_segments", "media", "fs.files", "fs.chunks", "revisions", "posters")


def run_job(verb: str, uri: str, database: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GRIDCAST_MONGODB_URI": uri, "GRIDCAST_MONGODB_DATABASE": database}
    return subprocess.run(
        [sys.executable, str(JOB), verb, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def back_up_with_job(verb: str, uri: str, database: str, folder: Path) -> None:
    done = run_job(verb, uri, database, folder)
    assert done.returncode == 0, done.stderr


def back_up_with_mongodump(verb: str, uri: str, database: str, folder: Path) -> None:
    """Live streams and `media` are dumped first and restored last, as docs/operations.md says."""
    tool = "mongodump" if verb == "dump" else "mongorestore"
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    if verb == "dump":
        each = [
            [tool, f"--uri={uri}", f"--db={database}", f"--collection={name}", f"--out={folder}"]
            for name in COLLECTIONS
        ]
    else:
        each = [[tool, f"--uri={uri}", f"--nsInclude={database}.{name}", str(folder)] for name in reversed(COLLECTIONS)]
    for command in each:
        subprocess.run(command, check=True, capture_output=True, timeout=100)


def stored_files(start: StartService, uri: str, database: str, redis: str) -> StoredFiles:
    return StoredFiles(
        start,
        {
            "GRIDCAST_MONGODB_URI": uri,
            "GRIDCAST_MONGODB_DATABASE": database,
            "GRIDCAST_REDIS_URL": redis,
            "GRIDCAST_MIN_FREE_SPACE": "0",
        },
    )


@pytest.mark.parametrize("tool", [back_up_with_job, back_up_with_mongodump])
def test_dump_wipe_restore(
    tool: Callable[..., None],
    mongod: ServerProcess,
    database_name: str,
    redis_url: str,
    start_service: StartService,
    tmp_path: Path,
) -> None:
    shelf = stored_files(start_service, mongod.url, database_name, redis_url)
    for number, size in enumerate([0, 1, 261_119, 261_120, 261_121, 3_000_000, 10_000_000]):
        shelf.put(f"file-{number}", size)
    before = dict(shelf.sha256_by_name)
    with shelf.busy():
        tool("dump", mongod.url, database_name, tmp_path / "dump")
    shelf.stop_services()

    with open_inspector(mongod.url, database_name) as store:
        store.client.drop_database(database_name)
        tool("restore", mongod.url, database_name, tmp_path / "dump")
        shelf.start_services()
        assert {name: shelf.read(name) for name in before} == before
        meanwhile = [name for name in shelf.sha256_by_name if name not in before]
        assert meanwhile
        assert all(shelf.read(name) in {shelf.sha256_by_name[name], "404"} for name in meanwhile)
        shelf.put("file-1", 2_000_000)
        shelf.put("afterwards", 500_000)
        assert shelf.read("file-1") == shelf.sha256_by_name["file-1"] != before["file-1"]
        if tool is back_up_with_job:
            assert store.list_orphans() == []


@pytest.mark.parametrize("old_dump", [False, True])
def test_revisions_are_restored(
    mongod: ServerProcess,
    database_name: str,
    redis_url: str,
    start_service: StartService,
    tmp_path: Path,
    *,
    old_dump: bool,
) -> None:
    """A dump of an earlier version has no such collection."""
    shelf = stored_files(start_service, mongod.url, database_name, redis_url)
    shelf.put("one", 1000)
    floors = [{"_id": number, "floor": 7} for number in range(3)]
    with open_inspector(mongod.url, database_name) as store:
        store.db["revisions"].insert_many(floors)
        back_up_with_job("dump", mongod.url, database_name, tmp_path / "dump")
        shelf.stop_services()
        store.client.drop_database(database_name)
        if old_dump:
            (tmp_path / "dump" / database_name / "revisions.bson").unlink()
        back_up_with_job("restore", mongod.url, database_name, tmp_path / "dump")
        assert list(store.db["revisions"].find().sort("_id")) == ([] if old_dump else floors)
        assert store.only_document()["revision"] == 1


def test_restore_refuses_a_database_with_data(
    mongod: ServerProcess, database_name: str, redis_url: str, start_service: StartService, tmp_path: Path
) -> None:
    shelf = stored_files(start_service, mongod.url, database_name, redis_url)
    shelf.put("one", 1000)
    back_up_with_job("dump", mongod.url, database_name, tmp_path / "dump")
    refused = run_job("restore", mongod.url, database_name, tmp_path / "dump")
    assert (refused.returncode, shelf.read("one")) == (1, shelf.sha256_by_name["one"])
    assert "is not empty" in refused.stderr
    again = run_job("dump", mongod.url, database_name, tmp_path / "dump")
    assert again.returncode == 1, "a dump never writes over another"


def test_truncated_dump_is_refused_before_anything_is_written(
    mongod: ServerProcess, database_name: str, redis_url: str, start_service: StartService, tmp_path: Path
) -> None:
    shelf = stored_files(start_service, mongod.url, database_name, redis_url)
    shelf.put("one", 1000)
    back_up_with_job("dump", mongod.url, database_name, tmp_path / "dump")
    shelf.stop_services()
    (tmp_path / "dump" / database_name / "fs.chunks.bson").unlink()
    with open_inspector(mongod.url, database_name) as store:
        store.client.drop_database(database_name)
        refused = run_job("restore", mongod.url, database_name, tmp_path / "dump")
        assert refused.returncode == 1
        assert "fs.chunks.bson is missing" in refused.stderr
        assert store.client[database_name].list_collection_names() == []


@pytest.mark.parametrize(
    ("lost", "said"), [(0, "chunk 0 is missing"), (5, "chunk 5 is missing"), (11, "found 2872320 of 3000000 bytes")]
)
def test_dump_reports_a_file_with_a_missing_chunk(
    mongod: ServerProcess,
    database_name: str,
    redis_url: str,
    start_service: StartService,
    tmp_path: Path,
    lost: int,
    said: str,
) -> None:
    shelf = stored_files(start_service, mongod.url, database_name, redis_url)
    shelf.put("one", 3_000_000)
    shelf.stop_services()
    with open_inspector(mongod.url, database_name) as store:
        assert store.count_chunks() == 12
        file = store.only_document()["current"]["file"]
        store.db["fs.chunks"].delete_one({"files_id": file, "n": lost})
    done = run_job("dump", mongod.url, database_name, tmp_path / "dump")
    assert done.returncode == 1
    assert f"file {file}: {said}" in done.stderr
    assert list((tmp_path / "dump").rglob("*.bson")) == []


def test_dump_reads_from_the_primary_despite_the_read_preference() -> None:
    address = "mongodb://127.0.0.1:1/?replicaSet=x&readPreference=secondaryPreferred"
    with pymongo.MongoClient[RawBSONDocument](address, document_class=RawBSONDocument, connect=False) as client:
        collections = backup.open_collections(client, "gridcast")
        assert all(one.read_preference == pymongo.ReadPreference.PRIMARY for one in collections.values())
        assert {one.write_concern.document["w"] for one in collections.values()} == {"majority"}


@pytest.fixture
def rehearse_cold_copy(dedicated_mongod: ServerProcess, tmp_path: Path) -> Callable[[], None]:
    """Stop the server, copy its files, delete them, restore the copy, start the server."""

    def rehearse() -> None:
        dedicated_mongod.terminate()
        shutil.copytree(dedicated_mongod.data_dir / "data", tmp_path / "copy")
        shutil.rmtree(dedicated_mongod.data_dir / "data")
        shutil.copytree(tmp_path / "copy", dedicated_mongod.data_dir / "data")
        dedicated_mongod.start()

    return rehearse


def test_cold_copy_of_a_stopped_server(
    dedicated_mongod: ServerProcess, rehearse_cold_copy: Callable[[], None], redis_url: str, start_service: StartService
) -> None:
    shelf = stored_files(start_service, dedicated_mongod.url, "gridcast", redis_url)
    for number, size in enumerate([0, 261_121, 3_000_000]):
        shelf.put(f"file-{number}", size)
    rehearse_cold_copy()
    with pymongo.MongoClient[dict[str, object]](dedicated_mongod.url) as client:
        client.admin.command("ping")
    assert {name: shelf.read(name) for name in shelf.sha256_by_name} == shelf.sha256_by_name
