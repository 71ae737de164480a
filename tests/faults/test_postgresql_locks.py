"""A replica that stops, or whose network is gone, keeps a row of PostgreSQL locked: for how long others wait for it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from services.common.errors import ServiceUnavailable
from services.common.store.files import schema
from services.common.store.files.database import (
    BUSY_TIMEOUT_MS,
    Database,
    Transaction,
    open_database,
)
from services.common.store.files.database_errors import OPERATION_TIMEOUT_SECONDS
from tests.support.migrated_databases import MigratedPostgreSQL
from tests.support.postgresql import PostgreSQLServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio
SLACK_SECONDS = 2.0
POINTS = ("idle", "parsed")


@pytest.fixture
def database_name(migrated_postgresql: MigratedPostgreSQL) -> Iterator[str]:
    with migrated_postgresql.use() as name:
        yield name


@contextlib.contextmanager
def stalled_writer(url: str, folder: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that has locked the row of `store`, and has stopped."""
    command = [sys.executable, "-m", "tests.support.stalled_writer", url, str(folder), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "holding\n"
            yield child
        finally:
            child.kill()


def touch(transaction: Transaction) -> None:
    transaction.connection.execute(update(schema.store).values(touched=7))


async def write_at_last(database: Database) -> float:
    """Write the row, again and again as clients do, and return the seconds that it took."""
    began = time.monotonic()
    while True:
        try:
            await database.write(touch)
        except ServiceUnavailable:
            assert time.monotonic() - began < 60, "the row is locked for ever"
        else:
            return time.monotonic() - began


@pytest.mark.parametrize(
    ("point", "bound"), [("idle", OPERATION_TIMEOUT_SECONDS), ("parsed", BUSY_TIMEOUT_MS / 1000)], ids=POINTS
)
async def test_a_process_that_has_stopped(
    postgresql: PostgreSQLServer, database_name: str, tmp_path: Path, point: str, bound: float
) -> None:
    """Others write the row soon, and what it would still have written is rolled back."""
    url = postgresql.url(database_name)
    with stalled_writer(url, tmp_path, point) as stopped:
        database = open_database(url, str(tmp_path))
        try:
            assert await write_at_last(database) < bound + SLACK_SECONDS
        finally:
            await database.aclose()
        os.kill(stopped.pid, signal.SIGCONT)
        output, _ = await asyncio.to_thread(stopped.communicate, timeout=30)
    assert output.startswith("the database ")  # "is unavailable", or "does not respond": not "committed"
    assert postgresql.execute("SELECT touched FROM store", database_name) == [{"touched": 7}]


@pytest.mark.parametrize("point", POINTS)
def test_a_process_whose_network_is_gone(
    postgresql: PostgreSQLServer, database_name: str, tmp_path: Path, point: str
) -> None:
    """TCP keepalive ends the session of the process, and releases its row lock; no other transaction has to wait for that lock."""
    sessions = "SELECT pid FROM pg_stat_activity WHERE application_name = 'gridcast' AND datname = current_database()"
    with (
        stalled_writer(postgresql.url(database_name), tmp_path, point, "deaf"),
        postgresql.open_session(database_name) as query,
    ):
        assert query(sessions)
        eventually(lambda: not query(sessions), OPERATION_TIMEOUT_SECONDS + SLACK_SECONDS, "its session is ended")
        query("SET lock_timeout TO '1s'")
        query("UPDATE store SET touched = 7")
