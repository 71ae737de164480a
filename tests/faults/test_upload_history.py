"""Uploads while everything is killed, paused and disconnected: nothing acknowledged is lost, no file is visible in
part, no garbage is left.

The seed is printed; FAULT_SEED repeats a run's requests and its faults (their moments depend on the machine).
"""

import contextlib
import hashlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import httpx
import pytest

from deploy.local.ports import free_ports
from tests.support.databases import TEST_STORE, FilesFolder, ServerProcess, storage_env
from tests.support.fault_proxy import Fault, FaultProxy, run_fault_proxy
from tests.support.processes import ServiceProcess, run_service
from tests.support.store_inspectors import MongoInspector, open_inspector
from tests.support.upload_client import run_garbage_collector
from tests.support.upload_history import ConsistencyReader, History, UploadClient, find_violations
from tests.support.waiting import eventually

DATABASE = "test_faults"
LEASE = 3.0
CLIENT_COUNT = 6
SAMPLED_FILES = 50
"""Files that are read through a stream service at the end."""


class RestartableService:
    """A service that can be killed and started again on the same port."""

    def __init__(self, module: str, folder: Path, env: dict[str, str]) -> None:
        (self.port,) = free_ports(1)
        self._module, self._folder, self._env = module, folder, env
        self._running = contextlib.ExitStack()
        self.service: ServiceProcess
        self.start()

    def start(self) -> None:
        ready = self._module != "gateway"  # which misses the services that this history does not need
        again = run_service(self._module, self._folder, self._env, port=self.port, ready=ready)
        self.service = self._running.enter_context(again)
        eventually(lambda: httpx.get(f"{self.service.url}/livez").is_success, 30)

    def kill(self) -> None:
        self.service.child.send_signal(signal.SIGKILL)
        assert self.service.child.wait(10)

    def send_signal(self, number: signal.Signals) -> None:
        self.service.child.send_signal(number)

    def close(self) -> None:
        self.send_signal(signal.SIGCONT)
        self._running.close()


class FaultScenario:
    """mongod, a fault proxy before it, two replicas, a fault proxy before one of them, two gateways: and the faults of each.

    With the files store there is no mongod and no proxy before it: the faults are those of the processes.
    """

    def __init__(
        self,
        mongod: ServerProcess,
        wires: list[FaultProxy],
        replicas: list[RestartableService],
        gateways: list[RestartableService],
        dice: random.Random,
    ) -> None:
        self.mongod, self.replicas, self.gateways, self.rng = mongod, replicas, gateways, dice
        self.wires = wires
        self.kills = Counter[str]()

    def urls(self) -> list[str]:
        """URLs for clients: half of them of a replica directly."""
        return [process.service.url for process in (*self.replicas, *self.gateways)]

    def kill_mongod(self) -> None:
        self.mongod.kill()
        time.sleep(self.rng.choice((0, 0.3)))
        self.mongod.start()
        self.kills["mongod"] += 1

    def kill_service(self) -> None:
        replica = self.rng.choice(self.replicas)
        replica.kill()
        replica.start()
        self.kills["service"] += 1

    def kill_gateway(self) -> None:
        gateway = self.rng.choice(self.gateways)
        gateway.kill()
        gateway.start()
        self.kills["gateway"] += 1

    def stop_gateway(self) -> None:
        gateway = self.rng.choice(self.gateways)
        gateway.send_signal(signal.SIGSTOP)
        time.sleep(self.rng.choice((0.3, 2)))
        gateway.send_signal(signal.SIGCONT)

    def stop_mongod(self) -> None:
        self.mongod.pause()
        time.sleep(self.rng.uniform(0.2, 1.5))
        self.mongod.resume()

    def stop_service(self) -> None:
        """Pause a replica past its lease: others collect its upload, and it resumes."""
        replica = self.rng.choice(self.replicas)
        replica.send_signal(signal.SIGSTOP)
        time.sleep(self.rng.choice((0.3, LEASE + 2)))
        replica.send_signal(signal.SIGCONT)

    def add_latency(self) -> None:
        wire = self.rng.choice(self.wires)
        wire.latency = self.rng.choice((0.02, 0.2))
        wire.fault = self.rng.choice((Fault.LATENCY, Fault.LATENCY, Fault.BLACK_HOLE, Fault.REFUSE))
        time.sleep(self.rng.uniform(0.3, 2))
        if wire.fault is Fault.BLACK_HOLE and self.rng.random() < 0.5:
            # Delayed bytes arrive after all, when their senders are gone.
            wire.close_connections(reset=False)
        wire.fault = Fault.NONE

    def close_connections(self) -> None:
        self.rng.choice(self.wires).close_connections(reset=self.rng.random() < 0.5)


@contextlib.contextmanager
def run_scenario(
    mongod: ServerProcess, redis: ServerProcess, folder: Path, seed: int
) -> Iterator[tuple[FaultScenario, dict[str, str]]]:
    with contextlib.ExitStack() as stack:
        env, wires = storage_env(mongod, redis.url, DATABASE), []
        if not isinstance(mongod, FilesFolder):
            wires.append(stack.enter_context(run_fault_proxy(mongod.port, seed)))
            env["GRIDCAST_MONGODB_URI"] = f"mongodb://127.0.0.1:{wires[0].port}"
        env |= {
            "GRIDCAST_LEASE_TTL": str(LEASE),
            "GRIDCAST_TOMBSTONE_TTL": "2",
            "GRIDCAST_SECOND_PURGE_DELAY": "2",
            "GRIDCAST_UNFINISHED_UPLOAD_TTL": "8",
            "GRIDCAST_GC_INTERVAL": "1",
            "GRIDCAST_LOG_LEVEL": "warning",
        }
        replicas = []
        for driver in ("motor", "pymongo"):
            replica = RestartableService("services.upload", folder, {**env, "GRIDCAST_MONGODB_DRIVER": driver})
            stack.callback(replica.close)
            replicas.append(replica)
        front = stack.enter_context(run_fault_proxy(replicas[0].port, seed))
        upstreams = f"http://127.0.0.1:{front.port},{replicas[1].service.url}"
        gateways = []
        for _ in range(2):
            gateway = RestartableService(
                "gateway", folder, {"GRIDCAST_UPLOAD_URLS": upstreams, "GRIDCAST_LOG_LEVEL": "warning"}
            )
            stack.callback(gateway.close)
            gateways.append(gateway)
        yield FaultScenario(mongod, [*wires, front], replicas, gateways, random.Random(seed)), env


def collect_garbage_until_done(store: MongoInspector, env: dict[str, str], timeout_seconds: float) -> None:
    """Run the garbage collector until nothing is due."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        run_garbage_collector(env)
        if not any(document["uploads"] or document["doomed"] for document in store.list_documents()):
            return
        left = [document for document in store.list_documents() if document["uploads"] or document["doomed"]]
        assert time.monotonic() < deadline, f"left: {left}"
        time.sleep(0.5)


def find_misread_files(store: MongoInspector, env: dict[str, str], folder: Path, rng: random.Random) -> list[str]:
    """Files that a stream service, started now, serves otherwise than acknowledged: whole files, and ranges of them."""
    files = [document for document in store.list_documents() if document["current"]]
    faults = []
    with run_service("services.stream", folder, env) as stream, httpx.Client(base_url=stream.url) as client:
        for document in rng.sample(files, min(len(files), SAMPLED_FILES)):
            query = {"folder": document["folder"], "filename": document["filename"]}
            whole = client.get("/file/stream", params=query).content
            if hashlib.sha256(whole).hexdigest() != document["current"]["sha256"]:
                faults.append(f"{query}: another file is served")
            for _ in range(10 if whole else 0):
                first, last = sorted(rng.randrange(len(whole)) for _ in range(2))
                part = client.get("/file/stream", params=query, headers={"range": f"bytes={first}-{last}"})
                if (part.status_code, part.content) != (206, whole[first : last + 1]):
                    faults.append(f"{query}: bytes {first} to {last} are others")
    return faults


def run_history(
    scenario: FaultScenario,
    env: dict[str, str],
    folder: Path,
    seed: int,
    is_done: Callable[[History], bool],
    faults: Iterator[str],
) -> str:
    history = History()
    clients = [UploadClient(number, seed, scenario.urls(), history) for number in range(CLIENT_COUNT)]
    with open_inspector(scenario.mongod.url, DATABASE) as store:
        reader = ConsistencyReader(store, seed)
        threads: list[UploadClient | ConsistencyReader] = [*clients, reader]
        for thread in threads:
            thread.start()
        try:
            while not is_done(history):
                time.sleep(scenario.rng.uniform(0.1, 1.0))
                getattr(scenario, next(faults))()
        finally:
            for thread in threads:
                thread.stop()
            for thread in threads:
                thread.join(60)
        assert [client.error for client in clients if client.error] == []
        collect_garbage_until_done(store, env, 60)
        wrong = [
            *reader.violations,
            *find_violations(history, store),
            *find_misread_files(store, env, folder, scenario.rng),
        ]
        counts = {outcome: history.count(outcome) for outcome in ("ok", "fail", "unknown")}
        said = f"seed {seed}: {counts}, kills {dict(scenario.kills)}, {reader.reads} looks, {len(wrong)} faults"
        print(said)
        for replica in (*scenario.replicas, *scenario.gateways):
            assert "Traceback" not in replica.service.log, replica.service.log
        assert wrong == [], said
        assert reader.reads > 0
    return said


def choose_seed() -> int:
    return int(os.environ.get("FAULT_SEED") or random.SystemRandom().randrange(2**32))


ALL_FAULTS = [
    *("kill_mongod", "kill_service", "kill_gateway"),
    *("stop_mongod", "stop_service", "stop_gateway"),
    *("add_latency", "add_latency", "close_connections", "close_connections"),
]
if TEST_STORE == "files":
    ALL_FAULTS = [fault for fault in ALL_FAULTS if "mongod" not in fault]


@pytest.mark.timeout(180)
def test_a_short_history_with_every_fault(
    dedicated_mongod: ServerProcess, redis_server: ServerProcess, tmp_path: Path
) -> None:
    seed = choose_seed()
    print(f"seed {seed}")
    with run_scenario(dedicated_mongod, redis_server, tmp_path, seed) as (scene, env):
        deadline = time.monotonic() + 25
        # Each fault once in an order given by the seed, then random ones.
        faults = chain(random.Random(seed).sample(ALL_FAULTS, len(ALL_FAULTS)), random_faults(scene, ALL_FAULTS))
        run_history(scene, env, tmp_path, seed, lambda _: time.monotonic() > deadline, faults)


def random_faults(scenario: FaultScenario, faults: list[str]) -> Iterator[str]:
    while True:
        yield scenario.rng.choice(faults)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_thousand_acknowledged_uploads_over_a_hundred_kills(
    dedicated_mongod: ServerProcess, redis_server: ServerProcess, tmp_path: Path
) -> None:
    """P1 and P2: half of the kills hit mongod, half the service; all of them where there is no mongod."""
    seed = choose_seed()
    print(f"seed {seed}")
    killed = ["service"] if TEST_STORE == "files" else ["mongod", "service"]
    faults = [*(f"kill_{name}" for name in killed), *ALL_FAULTS]
    with run_scenario(dedicated_mongod, redis_server, tmp_path, seed) as (scene, env):

        def enough(history: History) -> bool:
            return min(scene.kills[name] for name in killed) >= 50 and history.count("ok") >= 2000

        run_history(scene, env, tmp_path, seed, enough, random_faults(scene, faults))
