"""Uploads into the files store while the services that share it are killed, paused and disconnected: nothing acknowledged is lost,
no file is visible in part, no garbage is left, and no file lies in the folder that no row has.

The seed is printed; FAULT_SEED repeats a run's requests and its faults (their moments depend on the machine).
"""

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.store.files.database import SQLITE_FILENAME
from tests.support.databases import ServerProcess
from tests.support.fault_history import (
    SHORT_TTLS,
    FaultScenario,
    ShortHistory,
    choose_seed,
    random_faults,
    run_history,
    run_services,
)
from tests.support.postgresql import PostgreSQLServer, run_postgresql
from tests.support.store_inspectors import FilesInspector, sqlite_query
from tests.support.upload_history import History

DATABASE = "history"
FAULTS = ["kill_service", "stop_service", "kill_gateway", "stop_gateway", "add_latency", "close_connections"]
MIN_KILLS, MIN_UPLOADS = 50, 500


@contextlib.contextmanager
def run_scenario(
    folder: Path, redis: ServerProcess, seed: int, postgresql: PostgreSQLServer | None = None
) -> Iterator[tuple[FaultScenario, FilesInspector, dict[str, str]]]:
    """Two replicas on one folder, with SQLite or PostgreSQL."""
    files = folder / "files"
    env = {"GRIDCAST_STORE": "files", "GRIDCAST_FILES_DIR": str(files), "GRIDCAST_REDIS_URL": redis.url, **SHORT_TTLS}
    query = sqlite_query(files / SQLITE_FILENAME)
    if postgresql is not None:
        postgresql.execute(f"CREATE DATABASE {DATABASE}", "postgres")
        env["GRIDCAST_DATABASE_URL"] = postgresql.url(DATABASE)
        query = lambda sql: postgresql.execute(sql, DATABASE)  # noqa: E731
    with run_services(folder, (env, env), seed) as (replicas, front, gateways):
        scene = FaultScenario(replicas, front, gateways, random.Random(seed), postgresql)
        yield scene, FilesInspector(files, query), env


@pytest.mark.timeout(180)
def test_a_short_history_with_every_fault(redis_server: ServerProcess, tmp_path: Path) -> None:
    seed = choose_seed()
    print(f"seed {seed}")
    with run_scenario(tmp_path, redis_server, seed) as (scene, inspector, env):
        short = ShortHistory(scene, FAULTS, seed)
        opened = contextlib.nullcontext(inspector)
        run_history(scene, opened, env, tmp_path, seed, short.is_done, short.choose_faults())


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_five_hundred_acknowledged_uploads_over_fifty_kills(
    redis_server: ServerProcess, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, database: str
) -> None:
    """PostgreSQL is killed as well."""
    seed = choose_seed()
    print(f"seed {seed}")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(run_postgresql(tmp_path_factory)) if database == "postgresql" else None
        scene, inspector, env = stack.enter_context(run_scenario(tmp_path, redis_server, seed, server))
        faults = ["kill_service", "kill_service", *FAULTS, *(["kill_database"] if server else [])]

        def enough(history: History) -> bool:
            return scene.kills["service"] >= MIN_KILLS and history.count("ok") >= MIN_UPLOADS

        opened = contextlib.nullcontext(inspector)
        run_history(scene, opened, env, tmp_path, seed, enough, random_faults(scene, faults))
