"""Brings the schema of the database to that of this program, under a lock: any number of processes may start at once."""

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from services.common.errors import ServiceUnavailable
from services.common.store.files.database import Database

MIGRATIONS_FOLDER = Path(__file__).parent / "migrations"
MIGRATION_LOCK_TIMEOUT_SECONDS = 60.0
"""How long a process waits for another one that migrates."""
ADVISORY_LOCK = 0x67726964
"""The key of the lock in PostgreSQL: "grid" in ASCII."""


def newest_revision() -> str:
    """The revision of the schema that this program is made for."""
    return _read_revisions(MIGRATIONS_FOLDER)[0]


@cache
def _read_revisions(folder: Path) -> tuple[str, frozenset[str]]:
    """The newest revision of the migrations, and all of them. To open a store their files were read three times: 8 of 19 ms."""
    scripts = ScriptDirectory(str(folder))
    newest = scripts.get_current_head()
    if newest is None:
        raise RuntimeError("this program has no migrations")
    return newest, frozenset(script.revision for script in scripts.walk_revisions())


async def migrate(database: Database, revision: str = "head") -> None:
    """Create the tables, or migrate an older schema to `revision`. Idempotent.

    Raises RuntimeError where the schema is that of a newer program, ServiceUnavailable.
    """
    async with _sqlite_lock(database.path):
        await database.migrate(lambda connection: _upgrade(connection, revision))
        if database.path is not None:
            _sync_folder(database.path.parent)


async def check_schema(database: Database, expected: str) -> None:
    """Raise ServiceUnavailable while the schema is another than `expected`, or missing."""
    found = await database.read(_read_revision)
    if found is None:
        raise ServiceUnavailable("the tables are not created yet")
    if found != expected:
        try:
            _require_known(found)
        except RuntimeError as error:
            raise ServiceUnavailable(str(error)) from error
        raise ServiceUnavailable("the tables are not migrated yet")


def _upgrade(connection: Connection, revision: str) -> None:
    if connection.dialect.name == "postgresql":
        # Waits no longer than this even where the server's own limit is shorter.
        connection.execute(text(f"SET LOCAL lock_timeout TO '{int(MIGRATION_LOCK_TIMEOUT_SECONDS)}s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None:
        _require_known(found)
    if found == (newest_revision() if revision == "head" else revision):
        return
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _read_revision(connection: Connection) -> str | None:
    row = connection.execute(text("SELECT version_num FROM alembic_version")).first()
    return None if row is None else str(row[0])


def _require_known(revision: str) -> None:
    if revision not in _read_revisions(MIGRATIONS_FOLDER)[1]:
        raise RuntimeError(
            f"the database has the schema {revision!r:.40} of a newer Gridcast; start that one, or restore a backup made before it"
        )


@asynccontextmanager
async def _sqlite_lock(path: Path | None) -> AsyncIterator[None]:
    """Hold a lock beside the database file: SQLite's own does not cover the switch to WAL. PostgreSQL has one of its own."""
    if path is None:
        yield
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise RuntimeError(f"the folder of the database cannot be written: {error.strerror}") from error
    try:
        deadline = time.monotonic() + MIGRATION_LOCK_TIMEOUT_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise ServiceUnavailable("another process migrates the database") from error
            await asyncio.sleep(0.05)
        yield
    finally:
        os.close(lock)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
