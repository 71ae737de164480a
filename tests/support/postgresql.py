"""A real PostgreSQL on a free port, with data in a temporary folder: fixture `postgresql` (session) and `postgresql_url`.

The server refuses to run as root, so it runs as the user `nobody` then.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from deploy.local.ports import HOST, free_ports
from tests.support.databases import run_in_thread
from tests.support.shared_folders import make_once
from tests.support.waiting import eventually

USER = "gridcast"
_FOLDERS = ("/usr/lib/postgresql/17/bin", "/usr/lib/postgresql/16/bin", "/usr/lib/postgresql/15/bin")


def find_program(name: str) -> str | None:
    """The path of one of PostgreSQL's programs, which Debian does not put on the path."""
    return shutil.which(name, path=os.pathsep.join((*_FOLDERS, os.environ.get("PATH", ""))))


def _has_memory(pid: str) -> bool:
    """Whether a process has not ended. One that is to be reaped has; a container's first process may take 2 s for it."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text("utf-8")
    except OSError:
        return False


SERVER_USER = "nobody" if os.getuid() == 0 else None
"""The system user that runs the server: PostgreSQL refuses to run as root. None: the user of the tests."""


def _give_to_server(folder: Path) -> None:
    if SERVER_USER is not None:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, SERVER_USER)


@contextlib.contextmanager
def _server_folder() -> Iterator[Path]:
    """A folder below /tmp that the server may enter: those of pytest cannot be entered by other users."""
    with tempfile.TemporaryDirectory(prefix="postgresql-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        made = Path(folder) / "server"
        made.mkdir()
        _give_to_server(made)
        yield made


def _create_cluster(target: Path) -> None:
    """Create an empty cluster, which takes 0.7 s of CPU, to be copied by each server of a run."""
    program = find_program("initdb")
    assert program is not None
    with _server_folder() as folder:
        command = [program, f"--pgdata={folder}/data", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"]
        command += [f"--username={USER}", "--no-sync"]
        subprocess.run(command, user=SERVER_USER, cwd=folder, check=True, capture_output=True, timeout=60)
        shutil.copytree(folder / "data", target / "data")


class PostgreSQLServer:
    """A server that can be killed and started again on the same data and the same port. `cluster` is copied."""

    def __init__(self, folder: Path, cluster: Path) -> None:
        self.folder = folder
        (self.port,) = free_ports(1)
        shutil.copytree(cluster, folder / "data")
        _give_to_server(folder / "data")
        self.start()

    def url(self, database: str) -> str:
        """The address of a database, as GRIDCAST_DATABASE_URL has it."""
        return f"postgresql+asyncpg://{USER}@{HOST}:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-c listen_addresses={HOST} -c port={self.port} -c unix_socket_directories= -c max_connections=200"
        options += " -c fsync=off"  # its process is killed in tests, the machine is not
        program = find_program("postgres")
        assert program is not None
        with (self.folder.parent / f"{self.folder.name}.out").open("ab") as output:
            self._process = subprocess.Popen(
                [program, "-D", f"{self.folder}/data", *options.split(" ")],
                user=SERVER_USER,
                cwd=self.folder,
                stdout=output,
                stderr=output,
            )
        eventually(self._answers, 30, "PostgreSQL answers")

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1", "postgres")
        except (OSError, asyncpg.PostgresError):
            return False
        return True

    def kill(self) -> None:
        """Send SIGKILL to all its processes, and wait for the exit."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text("ascii").split()
        for pid in (self._process.pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(10)
        # A server does not start while a process of the old one has its shared memory.
        eventually(lambda: not any(map(_has_memory, children)), 10, "its children end")

    def stop(self) -> None:
        self._process.send_signal(2)  # SIGINT: fast shutdown
        self._process.wait(30)

    @asynccontextmanager
    async def connect(self, database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """A connection to a database."""
        connection = await asyncpg.connect(host=HOST, port=self.port, user=USER, database=database, timeout=5)
        try:
            yield connection
        finally:
            await connection.close()

    def execute(self, sql: str, database: str) -> list[dict[str, object]]:
        """Run one statement in a connection of its own."""

        async def run() -> list[dict[str, object]]:
            async with self.connect(database) as connection:
                return [dict(row) for row in await connection.fetch(sql)]

        return run_in_thread(run())

    @contextlib.contextmanager
    def open_session(self, database: str) -> Iterator[Callable[[str], list[dict[str, object]]]]:
        """A function as `execute` that keeps its connection: a new one costs more than most statements."""
        connections: list[asyncpg.Connection[asyncpg.Record]] = []

        async def run(sql: str) -> list[dict[str, object]]:
            if not connections:
                connections.append(await asyncpg.connect(host=HOST, port=self.port, user=USER, database=database))
            return [dict(row) for row in await connections[0].fetch(sql)]

        async def close() -> None:
            for connection in connections:
                await connection.close()

        with ThreadPoolExecutor(1) as thread:  # a test may run an event loop in its own
            runner = asyncio.Runner()
            try:
                yield lambda sql: thread.submit(lambda: runner.run(run(sql))).result()
            finally:
                thread.submit(lambda: runner.run(close())).result()
                thread.submit(runner.close).result()

    def create_database(self, name: str, template: str = "template1") -> None:
        """Create a database as a copy of another one; its files are copied, which takes half the time of PostgreSQL's default."""
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY", "postgres")

    def drop_database(self, name: str) -> None:
        """Drop a database, also while it is in use."""
        self.execute(f"DROP DATABASE {name} WITH (FORCE)", "postgres")


@contextlib.contextmanager
def run_postgresql(factory: pytest.TempPathFactory) -> Iterator[PostgreSQLServer]:
    """Run a server."""
    cluster = make_once(factory, "postgresql-cluster", _create_cluster) / "data"
    with _server_folder() as folder:
        server = PostgreSQLServer(folder, cluster)
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQLServer]:
    """The PostgreSQL that the session shares. Do not stop it."""
    if find_program("initdb") is None:
        pytest.skip("PostgreSQL is not installed: Debian's package postgresql")
    with run_postgresql(tmp_path_factory) as server:
        yield server


@pytest.fixture
def postgresql_database(postgresql: PostgreSQLServer) -> Iterator[str]:
    """The name of an empty database on the session's PostgreSQL, dropped after the test."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    postgresql.create_database(name)
    yield name
    postgresql.drop_database(name)
