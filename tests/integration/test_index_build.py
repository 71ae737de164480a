"""Index builds over a large restored dump outlast an operation timeout: MongoDB continues to build, and the store waits for it."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest

from deploy.local.processes import Program
from services.common.errors import ServiceUnavailable
from services.common.store.gridfs import mongo
from services.common.store.gridfs.mongo import MongoDriver, open_mongo_database
from services.common.store.gridfs.upload_store import GridFSUploadStore
from tests.support.databases import ServerProcess, run_server, small_mongod_program

HANG_FAIL_POINT = "hangAfterStartingIndexBuild"


def mongod_with_test_commands(folder: Path, port: int) -> Program:
    """A mongod whose index builds can be paused."""
    usual = small_mongod_program(folder, port)
    return dataclasses.replace(usual, command=(*usual.command, "--setParameter=enableTestCommands=1"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with run_server(tmp_path / "mongod", mongod_with_test_commands) as server:
        yield server


@pytest.mark.anyio
@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_index_build_may_take_longer_than_an_operation_timeout(
    server: ServerProcess, driver: MongoDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not ready during the build, even where the index is listed already; ready, without another build, once it is finished."""
    monkeypatch.setattr(mongo, "OPERATION_TIMEOUT_MS", 1000)
    with pymongo.MongoClient[dict[str, Any]](server.url) as client:
        client.gridcast["fs.chunks"].insert_many([{"files_id": number, "n": 0} for number in range(100)])
        client.admin.command({"configureFailPoint": HANG_FAIL_POINT, "mode": "alwaysOn"})
        opened = open_mongo_database(server.url, "gridcast", driver)
        store = GridFSUploadStore(opened)
        for _ in range(3):
            with pytest.raises(ServiceUnavailable):
                await store.ensure_schema()
            with pytest.raises(ServiceUnavailable):
                await store.check_health()
        assert "files_id_1_n_1" in await opened.list_indexes("fs.chunks")
        client.admin.command({"configureFailPoint": HANG_FAIL_POINT, "mode": "off"})
        await store.ensure_schema()
        await store.check_health()
        await opened.aclose()
    # The log has no start of a build for empty collections.
    assert server.log_path.read_text("utf-8").count('"Index build: starting"') == 1
