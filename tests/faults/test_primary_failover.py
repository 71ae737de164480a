"""Case 94, mongod killed at each phase of an upload, and case 103, a primary that steps down during uploads."""

import contextlib
import os
import threading
from collections.abc import Iterator
from functools import partial

import httpx
import pymongo.errors
import pytest

from services.common.store.limits import BLOCK_SIZE
from tests.support.databases import ServerProcess, storage_env
from tests.support.fragmented_mp4 import fragment, init
from tests.support.live_client import LiveClient, make_stream, media_of, read_file
from tests.support.processes import StartService
from tests.support.replica_set import ReplicaSet, run_replica_set
from tests.support.sizes import BATCH_SIZE, CHUNK_SIZE
from tests.support.store_inspectors import open_inspector
from tests.support.upload_client import (
    TusUpload,
    put_file,
    repr_digest,
    start_partial_put,
)
from tests.support.waiting import eventually

DATABASE = "test_primary"
SHORT_INTERVALS = {
    "GRIDCAST_LEASE_TTL": "3",
    "GRIDCAST_SECOND_PURGE_DELAY": "1",
    "GRIDCAST_TOMBSTONE_TTL": "0",
    "GRIDCAST_GC_INTERVAL": "0.5",
}
SIZE = 2 * BATCH_SIZE + CHUNK_SIZE + 5
PHASES = {"begun": 0, "first-block": CHUNK_SIZE + 1, "first-batch": BATCH_SIZE + 1, "last-byte": SIZE - 1}


def test_mongod_is_killed_at_each_phase(
    start_service: StartService, dedicated_mongod: ServerProcess, redis_url: str
) -> None:
    """One kill hits four uploads in different phases. 201: the file is stored whole; else nothing of it is stored."""
    # The lease must outlive the restart of mongod, which takes up to 5 s on a busy machine: a lost lease would be a 409.
    env = storage_env(dedicated_mongod, redis_url, DATABASE, **{**SHORT_INTERVALS, "GRIDCAST_LEASE_TTL": "15"})
    service = start_service("services.upload", **env)
    data = {phase: os.urandom(SIZE) for phase in PHASES}
    with open_inspector(dedicated_mongod.url, DATABASE) as store, contextlib.ExitStack() as connections:
        under_way = {
            phase: connections.enter_context(start_partial_put(service, phase, SIZE, data[phase][:sent]))
            for phase, sent in PHASES.items()
        }
        eventually(
            lambda: len(store.list_documents()) == 4 and store.count_chunks() >= 3 * 8, 20, "all are at their place"
        )
        dedicated_mongod.kill()
        dedicated_mongod.start()
        told = {}
        for phase, connection in under_way.items():
            with contextlib.suppress(ConnectionError):
                connection.sendall(data[phase][PHASES[phase] :])
            told[phase] = connection.recv(4096)[9:12]
        print(told)
        assert set(told.values()) <= {b"201", b"503"}
        eventually(lambda: put_file(service, "after", b"x").status_code == 201, 10)
        eventually(store.has_no_garbage, 45)
        files = {one["filename"]: one["current"] for one in store.list_documents()}
        for phase, status in told.items():
            assert (status == b"201") == (phase in files)
            assert phase not in files or store.read_file(files[phase]["file"]) == data[phase]
    assert "Traceback" not in service.log


@pytest.fixture(scope="module")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    with run_replica_set(tmp_path_factory.mktemp("set")) as members:
        yield members


@pytest.mark.timeout(600)
@pytest.mark.parametrize("times", [1, pytest.param(10, marks=[pytest.mark.long])])
def test_the_primary_steps_down(
    start_service: StartService, replica_set: ReplicaSet, redis_url: str, times: int
) -> None:
    """Connections stay and writes are rejected, unlike after a kill. Nothing acknowledged is lost, nothing else is visible."""
    database = f"{DATABASE}_{times}"
    env = {**SHORT_INTERVALS, "GRIDCAST_MONGODB_URI": replica_set.uri, "GRIDCAST_MONGODB_DATABASE": database}
    service = start_service("services.upload", **env, GRIDCAST_REDIS_URL=redis_url, GRIDCAST_MIN_FREE_SPACE="0")
    ending, told = threading.Event(), dict[str, tuple[bytes, int]]()

    def send(number: int) -> None:
        for serial in range(10_000):
            if ending.is_set():
                return
            name, data = f"{number}-{serial}", os.urandom(BATCH_SIZE + 7)
            with contextlib.suppress(httpx.HTTPError):
                told[name] = data, 0
                told[name] = data, put_file(service, name, data, if_none_match="*").status_code

    def has_stored_since(earlier_requests: int) -> bool:
        return sum(status == 201 for _, status in [*told.values()][earlier_requests:]) > 3

    senders = [threading.Thread(target=send, args=(number,), daemon=True) for number in range(3)]
    for sender in senders:
        sender.start()
    resumed = os.urandom(SIZE)
    tus = TusUpload(service)
    with tus.client:
        assert tus.create("resumed", SIZE).status_code == 201
        with tus.open_patch(service, 0, SIZE) as patching:
            patching.sendall(resumed[: BATCH_SIZE + 1])
            eventually(lambda: sum(status == 201 for _, status in told.values()) > 3, 30)
            for _ in range(times):
                primary = eventually(replica_set.find_primary, 30.0, "there is a primary")
                with replica_set.connect_to(primary) as client, contextlib.suppress(pymongo.errors.AutoReconnect):
                    client.admin.command("replSetStepDown", 5, secondaryCatchUpPeriodSecs=4)
                before = len(told)
                eventually(partial(has_stored_since, before), 60.0)
                eventually(replica_set.is_healthy, 60.0)
        offset = eventually(lambda: tus.offset() or None, 40.0, "the resumable upload is known")
        assert tus.patch(offset, resumed[offset:]).headers["repr-digest"] == repr_digest(resumed)
    ending.set()
    for sender in senders:
        sender.join(60)
    with open_inspector(replica_set.uri, database) as store:
        eventually(store.has_no_garbage, 60.0, "the janitor has swept")
        files = {one["filename"]: one["current"] for one in store.list_documents()}
        statuses = [status for _, status in told.values()]
        print({status: statuses.count(status) for status in set(statuses)})
        assert set(statuses) <= {0, 201, 503}
        for name, (data, status) in told.items():
            assert status != 201 or name in files, name
            assert name not in files or store.read_file(files[name]["file"]) == data, name
        assert store.read_file(files["resumed"]["file"]) == resumed
    assert "Traceback" not in service.log


@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", ["step down", "kill"])
def test_a_live_stream_outlives_an_election(
    start_service: StartService, replica_set: ReplicaSet, redis_url: str, how: str
) -> None:
    """Row 24 of live streams: the publisher waits or comes again, and the file has each byte once."""
    env = {
        "GRIDCAST_MONGODB_URI": replica_set.uri,
        "GRIDCAST_MONGODB_DATABASE": f"{DATABASE}_live_{how[:4]}".replace(" ", ""),
        "GRIDCAST_REDIS_URL": redis_url,
        "GRIDCAST_MIN_FREE_SPACE": "0",
        "GRIDCAST_LIVE_INTAKE_FACTOR": "0",
    }
    live, library = start_service("services.live", **env), start_service("services.stream", **env)
    client = make_stream(live)
    fragments = [fragment(at, 1, fill=20_000) for at in range(24)]
    sent = init() + b"".join(fragments)
    sizes = [len(init()) + len(fragments[0]), *map(len, fragments[1:])]
    killed: ServerProcess | None = None
    acknowledged = 0
    for number in range(len(sizes)):
        if number == len(sizes) // 2:
            primary = eventually(replica_set.find_primary, 30.0, "there is a primary")
            if how == "kill":
                killed = replica_set.kill_primary()
            else:
                with replica_set.connect_to(primary) as direct, contextlib.suppress(pymongo.errors.AutoReconnect):
                    direct.admin.command("replSetStepDown", 5, secondaryCatchUpPeriodSecs=4)
        end = sum(sizes[: number + 1])
        acknowledged = eventually(partial(send_to, client, acknowledged, sent[:end]), 60.0, "it goes on")
    if killed is not None:
        killed.start()
    eventually(lambda: client.patch(len(sent), b"", len(sent)).status_code == 204, 60.0, "it ends")
    eventually(replica_set.is_healthy, 60.0)
    described = client.get()
    assert (described["state"], described["duration"]) == ("ended", 24)
    assert read_file(library, client)[BLOCK_SIZE:] == media_of(sent)
    assert "Traceback" not in live.log


def send_to(client: LiveClient, acknowledged: int, sent: bytes) -> int | None:
    """Send what is missing; the offset where all of it is acknowledged. What was acknowledged never falls back."""
    told = client.head()
    if told.status_code != 200:
        assert told.status_code == 503
        return None
    offset = int(told.headers["upload-offset"])
    assert offset >= acknowledged, "acknowledged bytes were lost"
    answer = client.patch(offset, sent[offset:])
    assert answer.status_code in {204, 409, 503}
    return len(sent) if answer.status_code == 204 and int(answer.headers["upload-offset"]) == len(sent) else None
