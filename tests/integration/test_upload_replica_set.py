"""Uploads into a real replica set whose primary is killed meanwhile: what was acknowledged stays, no file is visible in part."""

import contextlib
import hashlib
import os
import random
import threading
import time
from collections.abc import Iterator
from functools import partial

import httpx
import pytest
from pymongo import ReadPreference

from services.common.store.gridfs.mongo import MongoDriver, open_mongo_database
from tests.support.databases import ServerProcess
from tests.support.processes import ServiceProcess, StartService
from tests.support.replica_set import ReplicaSet, run_replica_set
from tests.support.store_inspectors import open_inspector
from tests.support.upload_client import TusUpload, throttled
from tests.support.waiting import eventually

DATABASE = "gridcast"
SIZE = 1_000_000
UPLOADERS = 4


class UploadLoad:
    """Uploads with unique names, each content derived from its name, and a reader that requests the names of active uploads."""

    def __init__(self, upload: ServiceProcess, stream: ServiceProcess) -> None:
        self.upload = upload
        self.stream = stream
        self.acknowledged: list[str] = []
        self.refused: list[str] = []
        self.under_way: dict[int, str] = {}
        self.reads = 0
        self.partial_reads: list[str] = []
        self._stop = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._upload_continuously, args=(number,)) for number in range(UPLOADERS)]
        threads.append(threading.Thread(target=self._read_continuously))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(60)

    def _upload_continuously(self, number: int) -> None:
        count = 0
        with httpx.Client(base_url=self.upload.url, timeout=40) as client:
            while not self._stop.is_set():
                count += 1
                name = self.under_way[number] = f"{number}-{count}"
                try:
                    answer = client.put(
                        "/file/stream",
                        params={"filename": name},
                        content=throttled(make_content(name), SIZE // 8, 0.02),
                    )
                    done = answer.status_code == 201
                except httpx.HTTPError:
                    done = False
                (self.acknowledged if done else self.refused).append(name)

    def _read_continuously(self) -> None:
        with httpx.Client(base_url=self.stream.url, timeout=40) as client:
            while not self._stop.is_set():
                for name in list(self.under_way.values()):
                    self.reads += 1
                    with contextlib.suppress(httpx.TransportError):
                        answer = client.get("/file/stream", params={"filename": name})
                        if answer.status_code == 200 and answer.content != make_content(name):
                            self.partial_reads.append(name)
                time.sleep(0.01)

    def read(self, name: str) -> bytes | None:
        """The stored bytes; None where there are none."""
        answer = httpx.get(f"{self.stream.url}/file/stream", params={"filename": name}, timeout=40)
        assert answer.status_code in {200, 404}, answer.text
        return answer.content if answer.status_code == 200 else None


def make_content(name: str) -> bytes:
    return random.Random(name).randbytes(SIZE)


def sha256_hex(data: bytes | None) -> str:
    return hashlib.sha256(data or b"").hexdigest()


@pytest.fixture(scope="module")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    with run_replica_set(tmp_path_factory.mktemp("set")) as members:
        yield members


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [pytest.param(1, id="one"), pytest.param(20, id="twenty", marks=pytest.mark.long)])
def test_uploads_survive_the_death_of_the_primary(
    replica_set: ReplicaSet, redis_url: str, start_service: StartService, kills: int
) -> None:
    seed = int.from_bytes(os.urandom(4))
    rng = random.Random(seed)
    database = f"{DATABASE}_{kills}"
    env = {
        "GRIDCAST_MONGODB_URI": replica_set.uri,
        "GRIDCAST_MONGODB_DATABASE": database,
        "GRIDCAST_REDIS_URL": redis_url,
        "GRIDCAST_MIN_FREE_SPACE": "0",
        "GRIDCAST_LEASE_TTL": "3",
        "GRIDCAST_GC_INTERVAL": "1",
        "GRIDCAST_SECOND_PURGE_DELAY": "1",
    }
    load = UploadLoad(start_service("services.upload", **env), start_service("services.stream", **env))
    outages = []

    def has_acknowledged(count: int) -> bool:
        return len(load.acknowledged) > count

    with load.running():
        for _ in range(kills):
            before = len(load.acknowledged)
            eventually(partial(has_acknowledged, before + 3), 30.0, "uploads go through")
            time.sleep(rng.uniform(0, 0.3))
            began = time.monotonic()
            assert len(load.under_way) == UPLOADERS
            killed: ServerProcess = replica_set.kill_primary()
            told = len(load.acknowledged)
            eventually(partial(has_acknowledged, told + UPLOADERS), 60.0, "a new primary takes uploads")
            outages.append(time.monotonic() - began)
            killed.start()
            eventually(replica_set.is_healthy, 60.0, "the killed member is in step again")
    lost = [name for name in load.acknowledged if sha256_hex(load.read(name)) != sha256_hex(make_content(name))]
    partly = [name for name in load.refused if (there := load.read(name)) is not None and there != make_content(name)]
    print(
        f"\nseed {seed}: {kills} kills, {len(load.acknowledged)} acknowledged, {len(load.refused)} refused, "
        f"{load.reads} looks at names under way; back after {min(outages):.1f} to {max(outages):.1f} s"
    )
    assert (lost, partly, load.partial_reads) == ([], [], [])
    with open_inspector(replica_set.uri, database) as store:
        eventually(lambda: store.list_orphans() == [], 60.0, "the janitor has swept")


@pytest.mark.timeout(300)
def test_resumable_upload_survives_its_primary(
    replica_set: ReplicaSet, redis_url: str, start_service: StartService
) -> None:
    """Offsets only grow: bytes that were reported as stored are never requested again, and the file is whole."""
    env = {
        "GRIDCAST_MONGODB_URI": replica_set.uri,
        "GRIDCAST_MONGODB_DATABASE": f"{DATABASE}_tus",
        "GRIDCAST_REDIS_URL": redis_url,
        "GRIDCAST_MIN_FREE_SPACE": "0",
    }
    upload, stream = start_service("services.upload", **env), start_service("services.stream", **env)
    data = random.Random(7).randbytes(6_000_000)
    tus = TusUpload(upload)
    assert tus.create("film", len(data)).status_code == 201
    offset = 0
    for piece in range(3):
        end = (piece + 1) * len(data) // 3
        while offset < end:
            patching = threading.Thread(target=_patch_ignoring_errors, args=(tus, offset, data[offset:end]))
            patching.start()
            killed = None
            if piece == 1 and offset == len(data) // 3:
                time.sleep(0.15)
                killed = replica_set.kill_primary()
            patching.join(60)
            told = eventually(lambda: tus.head() if tus.head().status_code == 200 else None, 40.0, "an offset")
            now = int(told.headers["upload-offset"])
            assert now >= offset
            offset = now
            if killed:
                killed.start()
                eventually(replica_set.is_healthy, 60.0, "the killed member is in step again")
    answer = httpx.get(f"{stream.url}/file/stream?filename=film", timeout=60)
    assert sha256_hex(answer.content) == sha256_hex(data)


def _patch_ignoring_errors(tus: TusUpload, offset: int, content: bytes) -> None:
    """Send; HEAD shows what became of it."""
    with contextlib.suppress(httpx.HTTPError, AssertionError):
        tus.patch(offset, throttled(content, SIZE // 8, 0.02))


@pytest.mark.anyio
@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_reads_go_to_the_primary_despite_the_read_preference(
    replica_set: ReplicaSet, driver: MongoDriver
) -> None:
    mongo = open_mongo_database(f"{replica_set.uri}&readPreference=secondary", DATABASE, driver)
    try:
        assert mongo.collection("media").read_preference == ReadPreference.PRIMARY
        await mongo.collection("media").insert_one({"_id": "mine"})
        assert await mongo.collection("media").find_one({"_id": "mine"})
        await mongo.collection("media").delete_one({"_id": "mine"})
        await mongo.ping()
    finally:
        await mongo.aclose()
