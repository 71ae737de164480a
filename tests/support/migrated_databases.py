"""Databases of the files store whose tables exist, as copies of one that was migrated once: a migration takes longer than a test.

Fixtures: functions that create one, `create_migrated_postgresql` by its name, `create_migrated_sqlite` in a new folder.
Tests of migrations and of the services begin with empty databases.
"""

import contextlib
import secrets
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from services.common.store.files import migration
from services.common.store.files.database import SQLITE_FILENAME, open_database
from tests.support.databases import run_in_thread
from tests.support.postgresql import PostgreSQLServer

CreatePostgreSQL = Callable[[str], None]
CreateSQLite = Callable[[Path], None]


async def migrate(url: str, folder: Path) -> None:
    """Create the tables in PostgreSQL, or in SQLite where `url` is empty."""
    database = open_database(url, str(folder))
    try:
        await migration.migrate(database)
    finally:
        await database.aclose()


def set_new_id() -> str:
    """The statement that gives a copy an id of its own: by it a folder and its database find each other."""
    return f"UPDATE store SET store_id = '{secrets.token_hex(12)}'"


@pytest.fixture(scope="session")
def create_migrated_postgresql(
    postgresql: PostgreSQLServer, tmp_path_factory: pytest.TempPathFactory
) -> CreatePostgreSQL:
    """A function that creates a database with the tables on the session's PostgreSQL."""
    postgresql.create_database("migrated")
    run_in_thread(migrate(postgresql.url("migrated"), tmp_path_factory.mktemp("migrated")))

    def create(name: str) -> None:
        postgresql.create_database(name, "migrated")
        postgresql.execute(set_new_id(), name)

    return create


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
