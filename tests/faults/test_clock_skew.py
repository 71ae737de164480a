"""Case 99: a process whose clock is wrong by an hour (libfaketime). Leases, expiries and presence use the databases' clocks."""

import ctypes.util
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.databases import ServerProcess, needs_clock_of_a_server, storage_env
from tests.support.processes import StartService
from tests.support.store_inspectors import MongoInspector, open_inspector
from tests.support.upload_client import TusUpload, put_file
from tests.support.waiting import eventually
from tests.support.websocket_client import WebSocketClient, http_client, push_message, run_socket_replicas

FAKETIME_LIBRARY = "libfaketime.so.1"


@pytest.fixture(params=["-1h", "+1h"])
def skewed_clock_env(request: pytest.FixtureRequest) -> dict[str, str]:
    """Variables of a process with that clock; its timers run normally.

    With PyMongo instead of Motor, whose driver has threads: libfaketime 0.9.10 lets `time.sleep` fail there.
    """
    found = next(
        (path for folder in ("/usr/lib", "/usr/local/lib") for path in Path(folder).rglob(FAKETIME_LIBRARY)), None
    )
    if found is None and not ctypes.util.find_library("faketime"):
        pytest.skip("libfaketime, package faketime, is not installed")
    env = {"LD_PRELOAD": str(found or FAKETIME_LIBRARY), "FAKETIME": request.param, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    env["GRIDCAST_MONGODB_DRIVER"] = "pymongo"
    told = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"], env=env, capture_output=True, check=True
    )
    assert abs(abs(float(told.stdout) - time.time()) - 3600) < 60
    return env


@pytest.fixture
def inspector(mongod: ServerProcess, database_name: str) -> Iterator[MongoInspector]:
    with open_inspector(mongod.url, database_name) as store:
        yield store


@needs_clock_of_a_server
def test_garbage_collector_with_a_skewed_clock_deletes_no_live_data(
    start_service: StartService,
    mongod: ServerProcess,
    redis_url: str,
    database_name: str,
    inspector: MongoInspector,
    skewed_clock_env: dict[str, str],
) -> None:
    env = {**storage_env(mongod, redis_url, database_name), "GRIDCAST_LEASE_TTL": "3", "GRIDCAST_TOMBSTONE_TTL": "60"}
    right = start_service("services.upload", **env, GRIDCAST_GC_INTERVAL="0")
    other = start_service("services.upload", **env, **skewed_clock_env, GRIDCAST_GC_INTERVAL="0.2")
    tus = TusUpload(right, other)
    with tus.client:
        assert tus.create("slow", length=20).status_code == 201
        assert put_file(right, "replaced", b"old").status_code == 201
        assert put_file(right, "replaced", b"new").status_code == 200
        with tus.open_patch(right, 0, 20) as connection:
            connection.sendall(b"x" * 10)
            # Longer than the lease, which the writer renews meanwhile.
            until = time.monotonic() + 4
            eventually(lambda: time.monotonic() > until, 10)
            connection.sendall(b"x" * 10)
            assert connection.recv(4096).startswith(b"HTTP/1.1 204 ")
        # The skewed one writes as well, and takes over as well.
        assert tus.create("taken", length=20).status_code == 201
        assert tus.patch(0, b"y" * 10).status_code == 204
        assert tus.patch(10, b"y" * 10, replica=1).status_code == 204
    assert put_file(other, "new", b"z").status_code == 201
    named = {one["filename"]: one for one in inspector.list_documents()}
    assert inspector.read_file(named["slow"]["current"]["file"]) == b"x" * 20
    assert inspector.read_file(named["taken"]["current"]["file"]) == b"y" * 20
    # Replaced chunks that readers may still need stay for an hour by the database's clock.
    assert [len(one["doomed"]) for one in inspector.list_documents() if one["filename"] == "replaced"] == [1]
    assert inspector.count_chunks() == 5
    assert "Traceback" not in right.log + other.log


@pytest.mark.anyio
async def test_replica_with_a_skewed_clock_keeps_its_sockets(tmp_path: Path, skewed_clock_env: dict[str, str]) -> None:
    with run_socket_replicas(tmp_path, 1) as made:
        right, odd = made[0], made.start(skewed_clock_env)
        client, other = await WebSocketClient.connect(odd, topics="a"), await WebSocketClient.connect(right, topics="a")
        for number, service in enumerate((right, odd)):
            for target in (client.sid, other.sid, "topic:a", "all"):
                assert (await push_message(service, target, {"type": "t", "data": number})).json()["status"] == "sent"
        for browser in (client, other):
            assert [(await browser.receive_event("t"))["data"] for _ in range(6)] == [0, 0, 0, 1, 1, 1]
        async with http_client(right) as asking:
            said = (await asking.get(f"/sockets/{client.sid}")).json()
            assert said["state"] == "online"
            assert abs(said["since"] - time.time()) < 600
        # Disconnected briefly, resumed at the other replica: nothing has expired.
        for browser, service in ((client, right), (other, odd)):
            browser.abort()
            assert (await push_message(right, "topic:a", {"type": "missed"})).status_code == 200
            again = await browser.reconnect(service)
            assert (again.sid, again.first_frame["recovered"]) == (browser.sid, True)
            assert (await again.receive_event("missed"))["type"] == "missed"
            await again.close()
