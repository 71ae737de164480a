"""Case 98: killed and concurrent garbage collectors reach the same result as a single one."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.databases import ServerProcess, storage_env
from tests.support.processes import ServiceProcess, StartService
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_inspectors import MongoInspector, open_inspector
from tests.support.upload_client import TusUpload, put_file, start_garbage_collector
from tests.support.waiting import eventually

FILES = 12
BLOCKS = 12


@pytest.fixture
def env(mongod: ServerProcess, redis_url: str, database_name: str) -> dict[str, str]:
    more = {
        "GRIDCAST_GC_INTERVAL": "0",
        "GRIDCAST_TOMBSTONE_TTL": "0",
        "GRIDCAST_UNFINISHED_UPLOAD_TTL": "1",
        "GRIDCAST_SECOND_PURGE_DELAY": "0",
    }
    return {**storage_env(mongod, redis_url, database_name), **more}


@pytest.fixture
def inspector(mongod: ServerProcess, database_name: str) -> Iterator[MongoInspector]:
    with open_inspector(mongod.url, database_name) as store:
        yield store


def create_garbage(service: ServiceProcess) -> None:
    """Replaced files, deleted ones, and abandoned uploads: all of it due within a second."""
    data = os.urandom(BLOCKS * CHUNK_SIZE)
    for number in range(FILES):
        assert put_file(service, f"replaced-{number}", data).status_code == 201
        assert put_file(service, f"replaced-{number}", b"new").status_code == 200
        tus = TusUpload(service)
        with tus.client:
            assert tus.create(f"left-{number}", length=len(data) + 1).status_code == 201
            assert tus.patch(0, data).status_code == 204


def is_fully_collected(store: MongoInspector) -> bool:
    media = store.list_documents()
    return (
        len(media) == FILES and not any(one["uploads"] or one["doomed"] for one in media) and not store.list_orphans()
    )


def check_ends(collector: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for its end, without an error."""
    code = collector.wait(60)
    said = log.read_text("utf-8")
    assert code == 0, said
    assert "Traceback" not in said


@pytest.mark.parametrize("kills", [6, pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_garbage_collector_is_killed_while_deleting(
    start_service: StartService, env: dict[str, str], inspector: MongoInspector, kills: int, tmp_path: Path
) -> None:
    create_garbage(start_service("services.upload", **env))
    before = inspector.count_chunks()
    hit = 0

    def has_begun(collector: subprocess.Popen[bytes], chunks_before: int) -> bool:
        return inspector.count_chunks() < chunks_before or collector.poll() is not None

    for number in range(kills):
        began, there = time.monotonic(), inspector.count_chunks()
        running = start_garbage_collector(env, tmp_path / "killed")
        # Each is killed a little later in its work than the one before.
        eventually(partial(has_begun, running, there), 30)
        time.sleep(0.002 * (number % 10))
        running.send_signal(signal.SIGKILL)
        running.wait()
        hit += running.returncode == -signal.SIGKILL and inspector.count_chunks() < there
        assert time.monotonic() - began < 60
        if inspector.count_chunks() <= FILES:
            break
    print(f"{hit} of {number + 1} killed while they deleted; {before} chunks, then {inspector.count_chunks()}")
    assert hit > 0

    log = tmp_path / "last"

    def swept() -> bool:
        check_ends(start_garbage_collector(env, log), log)
        return is_fully_collected(inspector)

    eventually(swept, 30)
    assert inspector.count_chunks() == FILES


def test_three_garbage_collectors_run_concurrently(
    start_service: StartService, env: dict[str, str], inspector: MongoInspector, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    service = start_service("services.upload", **env)
    create_garbage(service)

    def swept() -> bool:
        for one in [start_garbage_collector(env, log) for _ in range(3)]:
            check_ends(one, log)
        return is_fully_collected(inspector)

    eventually(swept, 60)
    assert inspector.count_chunks() == FILES
    assert {inspector.read_file(one["current"]["file"]) for one in inspector.list_documents()} == {b"new"}
