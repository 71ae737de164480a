"""Opens the SQL database and runs transactions in it. Engines are opened here and in `postgresql` only.

A transaction is a plain function that gets a connection. It runs to its end, also where its caller is cancelled: a statement that
was given up half-way would leave a connection in an unknown state.

SQLite has one writer: the transactions of this process take turns, and those of other processes are waited for by SQLite itself. A
commit is synced to the disk before it is acknowledged; where `durable` is false it is not, and the next durable one makes it so.
"""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, Engine, Executable, QueuePool, create_engine, event, exc, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from services.common.errors import ServiceUnavailable
from services.common.store.files.clock import CLOCK_RESOLUTION_MS, StoreClock, read_clock, record_clock
from services.common.store.files.database_errors import OPERATION_TIMEOUT_SECONDS, map_database_errors, map_errors
from services.common.store.files.postgresql import (
    LOCK_NOT_AVAILABLE_STATE,
    create_postgresql_engine,
    end_stalled_sessions,
)

BUSY_TIMEOUT_MS = 5000
"""How long a transaction waits for a lock: in SQLite for another process that writes, in PostgreSQL for a row."""
READ_CONNECTIONS = 4
"""Of SQLite, in each process."""
SQLITE_FILENAME = "gridcast.sqlite3"
"""The database file in the folder of the store, where no other database is chosen."""

T = TypeVar("T")
Execute = Callable[[Executable, Mapping[str, object]], Sequence[Any] | None]
"""Runs a statement with its parameters and returns its first row."""


class Transaction:
    """A transaction that has begun: its connection, and the clocks as they were at its first reading."""

    __slots__ = ("_clock", "connection")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._clock: StoreClock | None = None

    def execute(self, statement: Executable, parameters: Mapping[str, object]) -> Sequence[Any] | None:
        """Run a statement and return its first row."""
        return self.connection.execute(statement, parameters).first()

    @property
    def clock(self) -> StoreClock:
        """The clocks, read once."""
        if self._clock is None:
            self._clock = read_clock(self.connection)
        return self._clock

    @property
    def now(self) -> int:
        """The lease clock in milliseconds."""
        return self.clock.now


class Connections(Protocol):
    """Connections of one kind to a database."""

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` with a connection of its own."""

    async def aclose(self) -> None:
        """Close all connections."""


class SQLiteConnections:
    """Connections to an SQLite file, each used by one thread at a time: one switch of threads for each transaction.

    Through an asyncio driver every statement takes four: 200 small uploads took 3.4 s of CPU time then, and take 1.6 s now.
    """

    def __init__(self, engine: Engine, connections: int) -> None:
        self._engine = engine
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="sqlite")

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.run_here, work)

    def run_here(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in the calling thread, which waits for a connection where all are in use."""
        with self._engine.connect() as connection:
            return work(connection)

    def execute_here(self, statement: Executable, parameters: Mapping[str, object]) -> Sequence[Any] | None:
        """Run one statement in the calling thread, which is a transaction of its own, and return its first row."""
        with closing(self._engine.raw_connection()) as connection:
            rows: list[Sequence[Any]] = connection.cursor().execute(_sqlite_text(statement), parameters).fetchall()
        return rows[0] if rows else None

    async def aclose(self) -> None:
        """Close all connections, after the transactions in progress."""
        await asyncio.to_thread(self._threads.shutdown)
        self._engine.dispose()


class AsyncConnections:
    """Connections through an asyncio driver."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a greenlet, which waits for each statement without a thread."""
        async with self._engine.connect() as connection:
            return await connection.run_sync(work)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._engine.dispose()


class BlockingConnections:
    """Runs single statements of SQLite in the calling thread, for threads that have more to do: no switch of threads for them.

    They go past SQLAlchemy's execution: a read takes 20 us of CPU instead of 108, a write 50 instead of 290.
    """

    def __init__(self, readers: SQLiteConnections, writer: SQLiteConnections, before_write: Callable[[], None]) -> None:
        self._readers = readers
        self._writer = writer
        self._before_write = before_write

    def read(self, statement: Executable, parameters: Mapping[str, object]) -> Sequence[Any] | None:
        """Return the first row. Raises ServiceUnavailable."""
        with map_errors():
            return self._readers.execute_here(statement, parameters)

    def write(self, statement: Executable, parameters: Mapping[str, object]) -> Sequence[Any] | None:
        """Return the first row of what was changed; as `Database.write` without `durable`. Raises ServiceUnavailable."""
        with map_errors():
            self._before_write()
            return self._writer.execute_here(statement, parameters)


class Database:
    """An opened database. It connects with the first call."""

    def __init__(self, url: URL) -> None:
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.path = Path(os.fsdecode(url.database or "")).absolute() if self.is_sqlite else None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._turn = asyncio.Lock()
        self._clock_recorded_at = 0.0
        self._file_identity: tuple[int, int] | None = None
        self._durable: Connections
        self._relaxed: Connections
        self._reader: Connections
        self.blocking: BlockingConnections | None = None
        if self.path is not None:
            self._durable = _sqlite_connections(self.path, "rw", "FULL")
            self._relaxed = relaxed = _sqlite_connections(self.path, "rw", "NORMAL")
            self._reader = readers = _sqlite_connections(self.path, "rw", "NORMAL", READ_CONNECTIONS, read_only=True)
            self.blocking = BlockingConnections(readers, relaxed, self._before_blocking_write)
        else:
            engine = create_postgresql_engine(url, OPERATION_TIMEOUT_SECONDS, BUSY_TIMEOUT_MS)
            self._durable = self._relaxed = AsyncConnections(engine)
            self._reader = AsyncConnections(engine.execution_options(isolation_level="AUTOCOMMIT"))

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run statements that only read, each by itself. Raises ServiceUnavailable."""
        async with map_database_errors():
            return await self._run_to_end(self._reader.run(work))

    async def write(self, work: Callable[[Transaction], T], *, durable: bool = True) -> T:
        """Run a transaction and commit it. An exception of `work` rolls it back and is raised.

        With `durable` it survives a power loss once this has returned, and so does all that was committed before it. Raises
        ServiceUnavailable, where the outcome may be unknown, and InsufficientStorage.
        """
        async with map_database_errors():
            if not self.is_sqlite:
                await self._record_clock()
                return await self._run_to_end(_transact(self._durable, work, relaxed=not durable))
            async with self._turn:
                self._check_file()
                await self._record_clock()
                return await self._run_to_end(_transact(self._durable if durable else self._relaxed, work))

    async def migrate(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction that may create the database file and change the schema.

        The caller holds the lock of the migrations. No time limit: a migration may rewrite a table.
        """
        async with map_database_errors(limit=None):
            if self.path is None:
                return await self._run_to_end(
                    _transact(self._durable, lambda transaction: work(transaction.connection))
                )
            connections = _sqlite_connections(self.path, "rwc", "FULL", create=True)
            try:
                result = await self._run_to_end(
                    _transact(connections, lambda transaction: work(transaction.connection))
                )
            finally:
                await connections.aclose()
            self._file_identity = _identity(self.path)
            return result

    async def aclose(self) -> None:
        """Wait for the transactions in progress and close all connections."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=OPERATION_TIMEOUT_SECONDS)
        for connections in (self._durable, self._relaxed, self._reader):
            await connections.aclose()

    def _check_file(self) -> None:
        """Refuse to write into a file that was deleted or replaced: what is written there would be acknowledged and lost."""
        if self.path is None:
            return
        identity = _identity(self.path)
        if self._file_identity is None:
            self._file_identity = identity
        if identity is None or identity != self._file_identity:
            raise ServiceUnavailable("the database file was deleted or replaced; restart this service")

    async def _record_clock(self) -> None:
        if self._is_clock_due():
            await self._run_to_end(_transact(self._relaxed, _record, relaxed=not self.is_sqlite))

    def _is_clock_due(self) -> bool:
        now = time.monotonic()
        due = now - self._clock_recorded_at >= CLOCK_RESOLUTION_MS / 1000
        if due:
            self._clock_recorded_at = now
        return due

    def _before_blocking_write(self) -> None:
        self._check_file()
        if self._is_clock_due() and isinstance(self._relaxed, SQLiteConnections):
            self._relaxed.run_here(_in_transaction(_record))

    async def _run_to_end(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_retrieve_exception)
            raise


def open_database(database_url: str, files_dir: str) -> Database:
    """Open the database of the settings. Must be called in a running event loop."""
    if database_url:
        return Database(make_url(database_url))
    return Database(URL.create("sqlite", database=str(Path(files_dir) / SQLITE_FILENAME)))


def _retrieve_exception(task: asyncio.Task[Any]) -> None:
    """Retrieve the exception of a task whose caller was cancelled, or asyncio would log it."""
    if not task.cancelled():
        task.exception()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


async def _transact(connections: Connections, work: Callable[[Transaction], T], *, relaxed: bool = False) -> T:
    return await connections.run(_in_transaction(work, relaxed=relaxed))


def _record(transaction: Transaction) -> None:
    record_clock(transaction.connection)


def _in_transaction(work: Callable[[Transaction], T], *, relaxed: bool = False) -> Callable[[Connection], T]:
    def run(connection: Connection) -> T:
        try:
            with connection.begin():
                if relaxed:
                    connection.execute(_RELAX)
                return work(Transaction(connection))
        except exc.DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE_STATE:
                with suppress(exc.DBAPIError), connection.begin():  # the role may not be allowed to
                    end_stalled_sessions(connection)
            raise

    return run


@cache
def _sqlite_text(statement: Any) -> str:
    return str(statement.compile(dialect=sqlite.dialect(paramstyle="named")))


_RELAX = text("SET LOCAL synchronous_commit TO off")


def _sqlite_connections(
    path: Path, mode: str, synchronous: str, connections: int = 1, *, read_only: bool = False, create: bool = False
) -> SQLiteConnections:
    """Open SQLite. Writing transactions begin with the lock for writing, so that none fails half-way because of another one."""
    engine = create_engine(
        URL.create("sqlite", database=f"file:{quote(str(path))}", query={"mode": mode, "uri": "true"}),
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=OPERATION_TIMEOUT_SECONDS,
        pool_reset_on_return=None if read_only else "rollback",
        connect_args={"check_same_thread": False},
        hide_parameters=True,
        **({"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True} if read_only else {}),
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver would begin transactions of its own
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        if create:
            cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute(f"PRAGMA synchronous = {synchronous}")
        cursor.execute("PRAGMA foreign_keys = ON")
        if read_only:
            cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    if not read_only:

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return SQLiteConnections(engine, connections)
