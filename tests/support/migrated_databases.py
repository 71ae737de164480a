"""Databases of the files store whose tables exist, as copies of one that was migrated once: a migration takes longer than a test.

Fixtures: `migrated_postgresql` has them in PostgreSQL, `create_migrated_sqlite` creates one in a new folder.
Tests of migrations and of the services begin with empty databases.
"""

import contextlib
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from services.common.store.files import migration
from services.common.store.files.database import SQLITE_FILENAME, open_database
from services.common.store.files.files_database import open_files_database
from tests.support.databases import run_in_thread
from tests.support.postgresql import PostgreSQLServer

CreateSQLite = Callable[[Path], None]


async def migrate(url: str, folder: Path) -> None:
    """Create the tables in PostgreSQL, or in SQLite where `url` is empty."""
    database = open_database(url, str(folder))
    try:
        await migration.migrate(database)
    finally:
        await database.aclose()


def prepare_store(env: Mapping[str, str]) -> None:
    """Create what a service that only reads waits for: the tables and the folder of a files store with these variables."""
    if env.get("GRIDCAST_STORE") == "files":
        run_in_thread(_prepare(env.get("GRIDCAST_DATABASE_URL", ""), env["GRIDCAST_FILES_DIR"]))


async def _prepare(url: str, folder: str) -> None:
    files = open_files_database(url, folder)
    try:
        await files.prepare()
    finally:
        await files.aclose()


def set_new_id() -> str:
    """The statement that gives a copy an id of its own: by it a folder and its database find each other."""
    return f"UPDATE store SET store_id = '{secrets.token_hex(12)}'"


SCHEMA_QUERY = """SELECT string_agg(line, chr(10) ORDER BY line) AS schema FROM (
  SELECT concat_ws(' ', c.oid::regclass, c.relkind, attname, atttypid::regtype, atttypmod, attnotnull, pg_get_expr(adbin, adrelid))
    AS line
  FROM pg_class AS c JOIN pg_attribute ON attrelid = c.oid
  LEFT JOIN pg_attrdef ON adrelid = c.oid AND adnum = attnum
  WHERE relnamespace = 'public'::regnamespace AND relkind <> 'i' AND NOT attisdropped
  UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
  UNION ALL SELECT concat(conrelid::regclass, ' ', pg_get_constraintdef(oid)) FROM pg_constraint
  WHERE connamespace = 'public'::regnamespace
  UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
  UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
  UNION ALL SELECT array_to_string(setconfig, ' ') FROM pg_db_role_setting
  UNION ALL SELECT version_num FROM alembic_version
) AS lines"""
"""Everything that a test could have changed, besides rows."""
TABLE_BYTES = """SELECT max(pg_table_size(oid)) FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"""
LARGE_TABLE = 128 * 1024
"""Bytes of a table from which on all are truncated, because deleted rows stay in its file. That takes ten times as long."""
DISCONNECT_OTHERS = """SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()"""
"""A connection that a test has left may hold a lock."""


class MigratedPostgreSQL:
    """Databases with tables and without rows. Each is emptied after its test and used again, unless the test has changed a table.

    To create and drop one, with its 300 files, takes PostgreSQL longer than most tests.
    """

    def __init__(self, server: PostgreSQLServer) -> None:
        self._server = server
        self._free: list[str] = []
        server.create_database("migrated")
        with tempfile.TemporaryDirectory() as folder:
            run_in_thread(migrate(server.url("migrated"), Path(folder)))
        (row,) = server.execute(SCHEMA_QUERY, "migrated")
        self._schema = row["schema"]
        rows = server.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", "migrated")
        tables = {str(row["tablename"]) for row in rows} - {"alembic_version", "store"}
        (row,) = server.execute("SELECT * FROM store", "migrated")
        first = ", ".join(f"{name} = {value!r}" for name, value in row.items() if name != "store_id")
        self._reset = f"UPDATE store SET {first}"
        self._truncate = f"TRUNCATE {', '.join(sorted(tables))} RESTART IDENTITY"
        # As with TRUNCATE, no trigger sees it.
        self._delete = "; ".join(
            ["SET session_replication_role = replica", *(f"DELETE FROM {table}" for table in tables)]
        )

    @contextlib.contextmanager
    def use(self) -> Iterator[str]:
        """The name of one, with an id that no other one has had."""
        if self._free:
            name = self._free.pop()
        else:
            name = f"test_{secrets.token_hex(6)}"
            self._server.create_database(name, "migrated")
            self._server.execute(set_new_id(), name)
        try:
            yield name
        finally:
            if run_in_thread(self._empty_again(name)):
                self._free.append(name)
            else:
                self._server.drop_database(name)

    async def _empty_again(self, name: str) -> bool:
        """Delete all rows; False where the schema is not what it was."""
        async with self._server.connect(name) as connection:
            await connection.execute(DISCONNECT_OTHERS)
            if await connection.fetchval(SCHEMA_QUERY) != self._schema:
                return False
            empty = self._delete if await connection.fetchval(TABLE_BYTES) < LARGE_TABLE else self._truncate
            await connection.execute(f"{empty}; {self._reset}; {set_new_id()}")
        return True


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql: PostgreSQLServer) -> MigratedPostgreSQL:
    """Those of the session's PostgreSQL."""
    return MigratedPostgreSQL(postgresql)


@pytest.fixture(scope="session")
def create_migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> CreateSQLite:
    """A function that creates a folder with a database that has the tables."""
    template = tmp_path_factory.mktemp("migrated-sqlite")
    run_in_thread(migrate("", template))

    def create(folder: Path) -> None:
        folder.mkdir(mode=0o700)
        shutil.copy(template / SQLITE_FILENAME, folder)
        with contextlib.closing(sqlite3.connect(folder / SQLITE_FILENAME, isolation_level=None)) as connection:
            connection.execute(set_new_id())

    return create
