"""Backup and restore, rehearsed: dump while uploads go on, wipe, restore; every file's SHA-256 is what it was.

Three ways: the job of docker-compose.yml, MongoDB's own tools where they are installed, and a copy of a server at rest.
"""

import hashlib
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pymongo
import pytest
from bson.raw_bson import RawBSONDocument

from deploy.containers import backup
from tests.support.databases import Server
from tests.support.processes import Service, Start
from tests.support.upload_client import opened

ROOT = Path(__file__).resolve().parents[2]
JOB = ROOT / "deploy/containers/backup.py"
COLLECTIONS = ("media", "fs.files", "fs.chunks")


def job(verb: str, uri: str, database: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GRIDCAST_MONGODB_URI": uri, "GRIDCAST_MONGODB_DATABASE": database}
    return subprocess.run(
        [sys.executable, str(JOB), verb, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def with_the_job(verb: str, uri: str, database: str, folder: Path) -> None:
    done = job(verb, uri, database, folder)
    assert done.returncode == 0, done.stderr


def with_mongodump(verb: str, uri: str, database: str, folder: Path) -> None:
    """`media` first and back last, as docs/operations.md says."""
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


class Shelf:
    """Files by name, written through the service, and what their bytes were."""

    def __init__(self, start: Start, uri: str, database: str, redis: str) -> None:
        self._start = start
        self._env = {
            "GRIDCAST_MONGODB_URI": uri,
            "GRIDCAST_MONGODB_DATABASE": database,
            "GRIDCAST_REDIS_URL": redis,
            "GRIDCAST_MIN_FREE_SPACE": "0",
        }
        self.stored: dict[str, str] = {}
        self.open()

    def open(self) -> None:
        self.upload: Service = self._start("services.upload", **self._env)
        self.stream: Service = self._start("services.stream", **self._env)

    def close(self) -> None:
        self.upload.stop()
        self.stream.stop()

    def put(self, name: str, size: int) -> None:
        data = random.Random(name).randbytes(size)
        answer = httpx.put(
            f"{self.upload.url}/file/stream", params={"filename": name, "folder": "shelf"}, content=data, timeout=60
        )
        assert answer.status_code in {200, 201}, answer.text
        self.stored[name] = hashlib.sha256(data).hexdigest()

    def read(self, name: str) -> str:
        answer = httpx.get(f"{self.stream.url}/file/stream", params={"filename": name, "folder": "shelf"}, timeout=60)
        return hashlib.sha256(answer.content).hexdigest() if answer.status_code == 200 else str(answer.status_code)


@pytest.mark.parametrize("tool", [with_the_job, with_mongodump])
def test_dump_wipe_restore(
    tool: Callable[..., None], mongod: Server, database: str, redis_url: str, start_service: Start, tmp_path: Path
) -> None:
    shelf = Shelf(start_service, mongod.uri, database, redis_url)
    for number, size in enumerate([0, 1, 261_119, 261_120, 261_121, 3_000_000, 10_000_000]):
        shelf.put(f"file-{number}", size)
    before = dict(shelf.stored)
    stop = threading.Event()

    def busy() -> None:
        count = 0
        while not stop.is_set():
            count += 1
            shelf.put(f"meanwhile-{count}", 400_000)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        tool("dump", mongod.uri, database, tmp_path / "dump")
    finally:
        stop.set()
        thread.join(60)
    shelf.close()

    with opened(mongod.uri, database) as store:
        store.client.drop_database(database)
        tool("restore", mongod.uri, database, tmp_path / "dump")
        shelf.open()
        assert {name: shelf.read(name) for name in before} == before
        meanwhile = [name for name in shelf.stored if name not in before]
        assert meanwhile
        assert all(shelf.read(name) in {shelf.stored[name], "404"} for name in meanwhile)
        shelf.put("file-1", 2_000_000)
        shelf.put("afterwards", 500_000)
        assert shelf.read("file-1") == shelf.stored["file-1"] != before["file-1"]
        if tool is with_the_job:
            assert store.orphans() == []


def test_a_restore_touches_no_database_that_is_in_use(
    mongod: Server, database: str, redis_url: str, start_service: Start, tmp_path: Path
) -> None:
    shelf = Shelf(start_service, mongod.uri, database, redis_url)
    shelf.put("one", 1000)
    with_the_job("dump", mongod.uri, database, tmp_path / "dump")
    refused = job("restore", mongod.uri, database, tmp_path / "dump")
    assert (refused.returncode, shelf.read("one")) == (1, shelf.stored["one"])
    assert "is not empty" in refused.stderr
    again = job("dump", mongod.uri, database, tmp_path / "dump")
    assert again.returncode == 1, "a dump never writes over another"


def test_a_dump_that_was_cut_short_is_refused_before_anything_is_written(
    mongod: Server, database: str, redis_url: str, start_service: Start, tmp_path: Path
) -> None:
    shelf = Shelf(start_service, mongod.uri, database, redis_url)
    shelf.put("one", 1000)
    with_the_job("dump", mongod.uri, database, tmp_path / "dump")
    shelf.close()
    (tmp_path / "dump" / database / "fs.chunks.bson").unlink()
    with opened(mongod.uri, database) as store:
        store.client.drop_database(database)
        refused = job("restore", mongod.uri, database, tmp_path / "dump")
        assert refused.returncode == 1
        assert "fs.chunks.bson is missing" in refused.stderr
        assert store.client[database].list_collection_names() == []


@pytest.mark.parametrize(
    ("lost", "said"), [(0, "block 0 is missing"), (5, "block 5 is missing"), (11, "2872320 of 3000000 bytes are there")]
)
def test_a_file_with_a_lost_block_is_not_dumped_in_silence(
    mongod: Server, database: str, redis_url: str, start_service: Start, tmp_path: Path, lost: int, said: str
) -> None:
    shelf = Shelf(start_service, mongod.uri, database, redis_url)
    shelf.put("one", 3_000_000)
    shelf.close()
    with opened(mongod.uri, database) as store:
        assert store.chunks() == 12
        file = store.one()["current"]["file"]
        store.db["fs.chunks"].delete_one({"files_id": file, "n": lost})
    done = job("dump", mongod.uri, database, tmp_path / "dump")
    assert done.returncode == 1
    assert f"file {file}: {said}" in done.stderr
    assert list((tmp_path / "dump").rglob("*.bson")) == []


def test_a_dump_comes_from_the_primary_whatever_the_address_says() -> None:
    address = "mongodb://127.0.0.1:1/?replicaSet=x&readPreference=secondaryPreferred"
    with pymongo.MongoClient[RawBSONDocument](address, document_class=RawBSONDocument, connect=False) as client:
        collections = backup.open_collections(client, "gridcast")
        assert all(one.read_preference == pymongo.ReadPreference.PRIMARY for one in collections.values())
        assert {one.write_concern.document["w"] for one in collections.values()} == {"majority"}


@pytest.fixture
def copied(own_mongod: Server, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Stops the server, copies its files, loses them, puts the copy in their place, starts it."""

    def rehearse() -> None:
        own_mongod.shut_down()
        shutil.copytree(own_mongod.data / "data", tmp_path / "copy")
        shutil.rmtree(own_mongod.data / "data")
        shutil.copytree(tmp_path / "copy", own_mongod.data / "data")
        own_mongod.start()

    return rehearse


def test_a_copy_of_a_server_at_rest(
    own_mongod: Server, copied: Callable[[], None], redis_url: str, start_service: Start
) -> None:
    shelf = Shelf(start_service, own_mongod.uri, "gridcast", redis_url)
    for number, size in enumerate([0, 261_121, 3_000_000]):
        shelf.put(f"file-{number}", size)
    copied()
    with pymongo.MongoClient[dict[str, object]](own_mongod.uri) as client:
        client.admin.command("ping")
    assert {name: shelf.read(name) for name in shelf.stored} == shelf.stored
