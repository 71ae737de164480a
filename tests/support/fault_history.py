"""Uploads while processes are killed, paused and disconnected: the faults, and the run with its check at the end.

`tests.support.upload_history` has the clients and the comparison.
"""

import contextlib
import hashlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx

from deploy.local.ports import free_ports
from tests.support.databases import ServerProcess
from tests.support.fault_proxy import Fault, FaultProxy, run_fault_proxy
from tests.support.postgresql import PostgreSQLServer
from tests.support.processes import ServiceProcess, run_service
from tests.support.store_inspectors import StoreInspector
from tests.support.upload_client import run_garbage_collector
from tests.support.upload_history import ConsistencyReader, History, UploadClient, find_violations
from tests.support.waiting import eventually

LEASE_SECONDS = 3.0
CLIENT_COUNT = 6
SHORT_UPLOADS = 200
"""Acknowledged by the end of a short history."""
SAMPLED_FILES = 50
"""Files that are read through a stream service at the end."""
SHORT_TTLS = {
    "GRIDCAST_LEASE_TTL": str(LEASE_SECONDS),
    "GRIDCAST_TOMBSTONE_TTL": "2",
    "GRIDCAST_SECOND_PURGE_DELAY": "2",
    "GRIDCAST_UNFINISHED_UPLOAD_TTL": "8",
    "GRIDCAST_GC_INTERVAL": "1",
    "GRIDCAST_LOG_LEVEL": "warning",
}
"""Variables of services whose garbage is collected within seconds."""


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
    """Two upload replicas, a fault proxy before one of them, two gateways, perhaps a database server: and the faults of each.

    `database_proxy` is the one before the database server.
    """

    def __init__(
        self,
        replicas: list[RestartableService],
        replica_proxy: FaultProxy,
        gateways: list[RestartableService],
        dice: random.Random,
        database: ServerProcess | PostgreSQLServer | None = None,
        database_proxy: FaultProxy | None = None,
    ) -> None:
        self.replicas, self.gateways, self.rng = replicas, gateways, dice
        self._database = database
        self._proxies = [replica_proxy, *([database_proxy] if database_proxy else [])]
        self.kills = Counter[str]()

    @property
    def database(self) -> ServerProcess | PostgreSQLServer:
        assert self._database is not None, "this scenario has no database server"
        return self._database

    def urls(self) -> list[str]:
        """URLs for clients: half of them of a replica directly."""
        return [process.service.url for process in (*self.replicas, *self.gateways)]

    def kill_database(self) -> None:
        self.database.kill()
        time.sleep(self.rng.choice((0, 0.3)))
        self.database.start()
        self.kills["database"] += 1

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

    def stop_database(self) -> None:
        assert isinstance(self.database, ServerProcess)
        self.database.pause()
        time.sleep(self.rng.uniform(0.2, 1.5))
        self.database.resume()

    def stop_service(self) -> None:
        """Pause a replica past its lease (3 s): others collect its upload, and it resumes."""
        replica = self.rng.choice(self.replicas)
        replica.send_signal(signal.SIGSTOP)
        time.sleep(self.rng.choice((0.3, LEASE_SECONDS + 2)))
        replica.send_signal(signal.SIGCONT)

    def add_latency(self) -> None:
        wire = self.rng.choice(self._proxies)
        wire.latency = self.rng.choice((0.02, 0.2))
        wire.fault = self.rng.choice((Fault.LATENCY, Fault.LATENCY, Fault.BLACK_HOLE, Fault.REFUSE))
        time.sleep(self.rng.uniform(0.3, 2))
        if wire.fault is Fault.BLACK_HOLE and self.rng.random() < 0.5:
            # Delayed bytes arrive after all, when their senders are gone.
            wire.close_connections(reset=False)
        wire.fault = Fault.NONE

    def close_connections(self) -> None:
        self.rng.choice(self._proxies).close_connections(reset=self.rng.random() < 0.5)


@contextlib.contextmanager
def run_services(
    folder: Path, environments: tuple[dict[str, str], dict[str, str]], seed: int
) -> Iterator[tuple[list[RestartableService], FaultProxy, list[RestartableService]]]:
    """Two upload replicas with these variables, a fault proxy before the first, and two gateways before both."""
    with contextlib.ExitStack() as stack:
        replicas = []
        for env in environments:
            replica = RestartableService("services.upload", folder, env)
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
        yield replicas, front, gateways


def collect_garbage_until_done(store: StoreInspector, env: dict[str, str], timeout_seconds: float) -> None:
    """Run the garbage collector until nothing is due."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        run_garbage_collector(env)
        if not any(document["uploads"] or document["doomed"] for document in store.list_documents()):
            return
        left = [document for document in store.list_documents() if document["uploads"] or document["doomed"]]
        assert time.monotonic() < deadline, f"left: {left}"
        time.sleep(0.5)


def find_misread_files(store: StoreInspector, env: dict[str, str], folder: Path, rng: random.Random) -> list[str]:
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
    opened: AbstractContextManager[StoreInspector],
    env: dict[str, str],
    folder: Path,
    seed: int,
    is_done: Callable[[History], bool],
    faults: Iterator[str],
) -> str:
    """Let clients upload and faults happen until `is_done`, then compare the store with what was acknowledged."""
    history = History()
    clients = [UploadClient(number, seed, scenario.urls(), history) for number in range(CLIENT_COUNT)]
    with opened as store:
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
        assert wrong == [], f"{said}: {wrong[:5]}"
        assert reader.reads > 0
    return said


class ShortHistory:
    """Each fault once in an order given by the seed, then random ones, until SHORT_UPLOADS are acknowledged."""

    def __init__(self, scenario: FaultScenario, faults: list[str], seed: int) -> None:
        self._order = random.Random(seed).sample(faults, len(faults))
        self._scenario = scenario
        self._faults = faults

    def choose_faults(self) -> Iterator[str]:
        """Iterate over the faults without an end."""
        while self._order:
            yield self._order.pop()
        yield from random_faults(self._scenario, self._faults)

    def is_done(self, history: History) -> bool:
        """Whether there were enough of both."""
        return not self._order and history.count("ok") >= SHORT_UPLOADS


def choose_seed() -> int:
    return int(os.environ.get("FAULT_SEED") or random.SystemRandom().randrange(2**32))


def random_faults(scenario: FaultScenario, faults: list[str]) -> Iterator[str]:
    while True:
        yield scenario.rng.choice(faults)
