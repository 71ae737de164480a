"""A data folder written by commit 58a3874 is served, resumed, deleted and collected."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from deploy.local.processes import PROJECT_ROOT
from tests.support.databases import ServerProcess
from tests.support.legacy_data import (
    COLLECTIONS,
    LEGACY_COMMIT,
    age_documents,
    load_legacy_data,
    verify_legacy_media,
    write_legacy_media,
)
from tests.support.processes import StartService
from tests.support.stack import Stack, run_stack
from tests.support.store_inspectors import MongoInspector, open_inspector
from tests.support.waiting import eventually


def count_stored(inspector: MongoInspector) -> dict[str, int]:
    return {name: inspector.db[name].count_documents({}) for name in COLLECTIONS}


@pytest.fixture
def database(mongod: ServerProcess, database_name: str) -> Iterator[MongoInspector]:
    with open_inspector(mongod.url, database_name) as inspector:
        yield inspector


def test_the_documents_of_the_old_commit(
    start_service: StartService, mongod: ServerProcess, redis_url: str, database: MongoInspector
) -> None:
    env = {
        "GRIDCAST_MONGODB_URI": mongod.url,
        "GRIDCAST_MONGODB_DATABASE": database.db.name,
        "GRIDCAST_REDIS_URL": redis_url,
        "GRIDCAST_GC_INTERVAL": "0",
    }
    paths = load_legacy_data(database.db)
    upload, stream = start_service("services.upload", **env), start_service("services.stream", **env)
    events = sum(len(document["announce"]) for document in database.list_documents())
    tombstones = sum(len(document["doomed"]) for document in database.list_documents())
    assert (events, tombstones) == (6, 2)
    verify_legacy_media(upload.url, stream.url, paths)
    # Longer than any of them is kept: the outbox is published, tombstones and finished uploads are deleted.
    age_documents(database.db, timedelta(days=2))

    def collect() -> bool:
        subprocess.run([sys.executable, "-m", "services.upload.collect_garbage"], env=os.environ | env, check=True)
        return set(count_stored(database).values()) == {0}

    eventually(collect, 60, "everything is collected")


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_media_folder_of_the_old_commit(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    git = shutil.which("git")
    archive = subprocess.run(
        [git or "false", "archive", "--output", str(tmp_path / "old.zip"), LEGACY_COMMIT],
        cwd=PROJECT_ROOT,
        capture_output=True,
        check=False,
    )
    if archive.returncode:
        pytest.skip(f"the history does not reach back to {LEGACY_COMMIT}")
    with zipfile.ZipFile(tmp_path / "old.zip") as files:
        files.extractall(checkout)
    data = tmp_path / "data"
    old_env = {"GRIDCAST_JANITOR_EVERY": "0", "GRIDCAST_GRACE": "0", "GRIDCAST_MIN_FREE": "0"}
    with run_stack(data, env=old_env, cwd=checkout) as old:
        paths = write_legacy_media(old.url)
    env = {"GRIDCAST_GC_INTERVAL": "0.3", "GRIDCAST_TOMBSTONE_TTL": "0", "GRIDCAST_MIN_FREE_SPACE": "0"}
    with run_stack(data, env=env) as stack:
        verify_legacy_media(stack.url, stack.url, paths)
        with open_inspector(f"mongodb://{_address(stack)}", "gridcast") as inspector:
            eventually(lambda: not inspector.count_chunks(), 30, "every tombstone is collected")
            age_documents(inspector.db, timedelta(days=2))
            eventually(lambda: set(count_stored(inspector).values()) == {0}, 30, "everything is collected")
    stack.delete_data()


def _address(stack: Stack) -> str:
    return stack.urls["mongod"].removeprefix("mongodb://")
