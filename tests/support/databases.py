"""Fixtures: a real mongod and a real redis-server on free ports, with data in a temporary folder.

TEST_STORE=files runs the services with the files store on SQLite: `mongod` is a folder then, in which each database name
has a folder of its own. What tests do to the server itself is skipped, because there is none.

`mongod` and `redis_server` are shared by the session: a test that kills or pauses a server requests `dedicated_mongod` or
`dedicated_redis` instead. `run_server` starts further ones.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pymongo
import pytest

from deploy.local import databases, processes
from deploy.local.log_tail import tail
from deploy.local.ports import free_ports
from deploy.local.processes import Child, Program
from services.common.store.gridfs.mongo import MongoDatabase, open_mongo_database
from services.common.store.gridfs.upload_store import GridFSUploadStore
from tests.support.redis_commands import send_redis_commands
from tests.support.store_inspectors import FILES_PREFIX

T = TypeVar("T")

READY_TIMEOUT = 30.0
TEST_STORE = os.environ.get("TEST_STORE", "gridfs")
"""The store of the services under test: gridfs or files."""
MONGODB_ONLY = frozenset(
    {
        *("test_backup", "test_gridfs_live", "test_gridfs_store", "test_index_build", "test_legacy_data"),
        "test_mongodb_setup",
        *("test_upload_replica_set", "test_primary_failover", "test_network_faults", "test_wrong_credentials"),
        *("test_upload_disk_full", "test_recovery", "test_upload_history_checker"),
    }
)
"""Modules whose subject is MongoDB itself, as a server or by its documents. What they show for files is in test_files_store."""
needs_server = pytest.mark.skipif(TEST_STORE == "files", reason="pauses or kills the server of the database")
needs_clock_of_a_server = pytest.mark.skipif(
    TEST_STORE == "files", reason="SQLite has the clock of its process: there is no other one that could be right"
)


def _thread_state(task: Path) -> str:
    """The state letter of a thread in /proc (T: stopped); T also for a thread that has ended meanwhile."""
    try:
        return (task / "stat").read_text("ascii").rpartition(") ")[2][:1]
    except OSError:
        return "T"


class ServerProcess:
    """A database server that can be killed, paused and started again on the same data and the same port."""

    def __init__(self, data_dir: Path, program: Callable[[Path, int], Program]) -> None:
        self.data_dir = data_dir
        (self.port,) = free_ports(1)
        self.log_path = data_dir / "server.log"
        self._program = program
        self.start()

    @property
    def url(self) -> str:
        """The address as clients take it: mongodb:// or redis://."""
        return self._child.program.url

    @property
    def pid(self) -> int:
        return self._child.pid

    def start(self) -> None:
        """Start it, again on the same data, and wait until it answers."""
        self._child = Child(self._program(self.data_dir / "data", self.port), self.log_path)
        for _ in processes.wait_until_ready([self._child], READY_TIMEOUT, time.sleep):
            pass

    def kill(self) -> None:
        """Send SIGKILL and wait for the exit."""
        self._child.send_signal(signal.SIGKILL)
        assert self._child.wait(10.0)

    def pause(self) -> None:
        """Send SIGSTOP and wait until every thread is stopped: before that, one may still answer."""
        self._child.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self._child.pid}/task")
        deadline = time.monotonic() + 5
        while (
            tasks.exists()
            and any(_thread_state(task) != "T" for task in tasks.iterdir())
            and time.monotonic() < deadline
        ):
            time.sleep(0.005)

    def resume(self) -> None:
        """Send SIGCONT after `pause`."""
        self._child.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Send SIGTERM and wait for the exit."""
        self.resume()
        processes.stop_children([self._child])

    def log_tail(self) -> str:
        return tail(self.log_path, 4000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With the files store, skip what is about MongoDB itself."""
    if TEST_STORE == "files":
        reason = pytest.mark.skip(reason="about MongoDB itself: it runs with STORE=gridfs")
        for item in items:
            if item.path.stem in MONGODB_ONLY or re.search(r"\bgridfs-", item.name.partition("[")[2]):
                item.add_marker(reason)


class FilesFolder(ServerProcess):
    """A folder in the place of a server: `url` names it, and nothing runs."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir

    @property
    def url(self) -> str:
        return f"{FILES_PREFIX}{self.data_dir}"

    def _skip(self) -> NoReturn:
        pytest.skip("the files store has no server of its own")

    @property
    def port(self) -> int:
        self._skip()

    @port.setter
    def port(self, value: int) -> None:
        self._skip()

    @property
    def pid(self) -> int:
        self._skip()

    def start(self) -> None:
        self._skip()

    def kill(self) -> None:
        self._skip()

    def pause(self) -> None:
        self._skip()

    def resume(self) -> None:
        """Nothing was paused."""

    def terminate(self) -> None:
        """Nothing runs."""

    def log_tail(self) -> str:
        return ""


def small_mongod_program(folder: Path, port: int) -> Program:
    """A mongod with a cache of 0.5 GB."""
    return databases.mongod(folder, port, cache_gb=0.5)


@contextlib.contextmanager
def run_server(data_dir: Path, program: Callable[[Path, int], Program]) -> Iterator[ServerProcess]:
    """Run a server in `data_dir` and kill it at the end. `program` makes its command from a data folder and a port."""
    data_dir.mkdir(parents=True, exist_ok=True)
    server = ServerProcess(data_dir, program)
    try:
        yield server
    finally:
        server.kill()  # no checkpoint at shutdown: its data directory is deleted next
        # 300 MB of journal that pytest would keep for three sessions; the log stays.
        shutil.rmtree(data_dir / "data", ignore_errors=True)


@contextlib.contextmanager
def run_store_server(data_dir: Path, program: Callable[[Path, int], Program]) -> Iterator[ServerProcess]:
    """Run a mongod, or make the folder that takes its place where TEST_STORE says so."""
    if TEST_STORE == "files":
        data_dir.mkdir(parents=True, exist_ok=True)
        yield FilesFolder(data_dir)
        shutil.rmtree(data_dir, ignore_errors=True)
    else:
        with run_server(data_dir, program) as server:
            yield server


def storage_env(mongod: ServerProcess, redis_url: str, database: str, **more: str) -> dict[str, str]:
    """The variables with which a service finds its store and Redis, and `more`."""
    if isinstance(mongod, FilesFolder):
        folder = str(mongod.data_dir / database)
        return {"GRIDCAST_STORE": "files", "GRIDCAST_FILES_DIR": folder, "GRIDCAST_REDIS_URL": redis_url, **more}
    return {
        "GRIDCAST_MONGODB_URI": mongod.url,
        "GRIDCAST_MONGODB_DATABASE": database,
        "GRIDCAST_REDIS_URL": redis_url,
        **more,
    }


@pytest.fixture(scope="session")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The MongoDB that the session shares, or the folder in its place. Do not stop it."""
    with run_store_server(tmp_path_factory.mktemp("mongod"), small_mongod_program) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The Redis that the session shares. Do not stop it."""
    with run_server(tmp_path_factory.mktemp("redis"), databases.redis_server) as server:
        yield server


@pytest.fixture
def dedicated_mongod(tmp_path: Path) -> Iterator[ServerProcess]:
    """A MongoDB for this test alone, which it may kill and pause, or the folder in its place."""
    with run_store_server(tmp_path / "mongod", small_mongod_program) as server:
        yield server


@pytest.fixture
def dedicated_redis(tmp_path: Path) -> Iterator[ServerProcess]:
    """A Redis for this test alone, which it may kill and pause."""
    with run_server(tmp_path / "redis", databases.redis_server) as server:
        yield server


@pytest.fixture
def database_name(mongod: ServerProcess) -> Iterator[str]:
    """The name of an empty database on the session's MongoDB, dropped after the test."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield name
    drop_database(mongod, name)


def drop_database(mongod: ServerProcess, name: str) -> None:
    """Drop a database, or delete the folder that stands for it."""
    if isinstance(mongod, FilesFolder):
        shutil.rmtree(mongod.data_dir / name, ignore_errors=True)
        return
    with pymongo.MongoClient[dict[str, object]](mongod.url) as client:
        client.drop_database(name)


class PreparedDatabases:
    """Databases with the collections and indexes of the GridFS store and no document.

    Each is emptied after its test and used again: to create and drop 21 files takes mongod longer than most tests. One in which a
    test has changed a collection or an index is dropped.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = pymongo.MongoClient[dict[str, Any]](url)
        self._free: list[str] = []
        self._schema: dict[str, Any] | None = None

    @contextlib.contextmanager
    def use(self) -> Iterator[str]:
        """The name of one. A store still has to call `ensure_schema`, which creates what is missing in a new one."""
        name = self._free.pop() if self._free else f"test_{uuid.uuid4().hex[:12]}"
        yield name
        if self._schema is None:
            run_in_thread(self._create("test_schema"))
            self._schema = self._read_schema("test_schema")
        if self._read_schema(name) == self._schema:
            for collection in self._schema:
                self._client[name][collection].delete_many({})
            self._free.append(name)
        else:
            self._client.drop_database(name)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    async def _create(self, name: str) -> None:
        mongo = open_mongo_database(self._url, name)
        await GridFSUploadStore(mongo).ensure_schema()
        await mongo.aclose()

    def _read_schema(self, name: str) -> dict[str, Any]:
        database = self._client[name]
        return {
            found["name"]: (found["options"], sorted(map(str, database[found["name"]].list_indexes())))
            for found in database.list_collections()
        }


@pytest.fixture(scope="session")
def prepared_databases(mongod: ServerProcess) -> Iterator[PreparedDatabases]:
    """Those of the session's MongoDB."""
    databases = PreparedDatabases(mongod.url)
    yield databases
    databases.close()


def run_in_thread(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a loop of its own: a test may run an event loop in this thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


@pytest.fixture
def redis_url(redis_server: ServerProcess) -> str:
    """The URL of the shared Redis, flushed before the test."""
    assert send_redis_commands(redis_server.port, "FLUSHALL") == "+OK\r\n"
    return redis_server.url


@pytest.fixture
async def mongo(mongod: ServerProcess, database_name: str) -> AsyncIterator[MongoDatabase]:
    """An empty database with the indexes of the GridFS store, for tests that have the store in their own process."""
    mongo = open_mongo_database(mongod.url, database_name)
    await GridFSUploadStore(mongo).ensure_schema()
    yield mongo
    await mongo.aclose()
