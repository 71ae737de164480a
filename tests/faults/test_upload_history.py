"""Uploads while everything is killed, stopped and cut: nothing acknowledged is lost, nothing else is seen, nothing is left over.

The seed is printed; GRIDCAST_FAULT_SEED repeats a run's requests and its faults (their moments depend on the machine).
"""

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import httpx
import pytest

from deploy.local.ports import free_ports
from tests.faults.network_fault import Fault, Wire, wired
from tests.faults.upload_history import Client, History, Reader, verdicts
from tests.support.databases import Server
from tests.support.processes import Service, launched
from tests.support.upload_client import Store, opened
from tests.support.waiting import eventually

DATABASE = "test_faults"
LEASE = 3.0
CLIENTS = 6
LOOKED_AT = 50
"""Files that are read through a stream service at the end."""


class Replica:
    """A process of ours that can be killed and comes back at its address."""

    def __init__(self, module: str, folder: Path, env: dict[str, str]) -> None:
        (self.port,) = free_ports(1)
        self._module, self._folder, self._env = module, folder, env
        self._running = contextlib.ExitStack()
        self.service: Service
        self.start()

    def start(self) -> None:
        ready = self._module != "gateway"  # which misses the services that this history has no need of
        again = launched(self._module, self._folder, self._env, port=self.port, ready=ready)
        self.service = self._running.enter_context(again)
        eventually(lambda: httpx.get(f"{self.service.url}/livez").is_success, 30)

    def kill(self) -> None:
        self.service.child.send_signal(signal.SIGKILL)
        assert self.service.child.wait(10)

    def send(self, number: signal.Signals) -> None:
        self.service.child.send_signal(number)

    def close(self) -> None:
        self.send(signal.SIGCONT)
        self._running.close()


class Field:
    """mongod, a wire before it, two replicas, a wire before one of them, two gateways: and what can happen to them."""

    def __init__(
        self,
        mongod: Server,
        wires: tuple[Wire, Wire],
        replicas: list[Replica],
        gateways: list[Replica],
        dice: random.Random,
    ) -> None:
        self.mongod, self.replicas, self.gateways, self.dice = mongod, replicas, gateways, dice
        self.wire, self.front = wires
        self.kills = Counter[str]()

    def urls(self) -> list[str]:
        """Where clients go: half of them straight to a replica."""
        return [process.service.url for process in (*self.replicas, *self.gateways)]

    def kill_mongod(self) -> None:
        self.mongod.kill()
        time.sleep(self.dice.choice((0, 0.3)))
        self.mongod.start()
        self.kills["mongod"] += 1

    def kill_service(self) -> None:
        replica = self.dice.choice(self.replicas)
        replica.kill()
        replica.start()
        self.kills["service"] += 1

    def kill_gateway(self) -> None:
        gateway = self.dice.choice(self.gateways)
        gateway.kill()
        gateway.start()
        self.kills["gateway"] += 1

    def stop_gateway(self) -> None:
        gateway = self.dice.choice(self.gateways)
        gateway.send(signal.SIGSTOP)
        time.sleep(self.dice.choice((0.3, 2)))
        gateway.send(signal.SIGCONT)

    def stop_mongod(self) -> None:
        self.mongod.stop()
        time.sleep(self.dice.uniform(0.2, 1.5))
        self.mongod.cont()

    def stop_service(self) -> None:
        """Past its lease: others reap what it holds, and it wakes up."""
        replica = self.dice.choice(self.replicas)
        replica.send(signal.SIGSTOP)
        time.sleep(self.dice.choice((0.3, LEASE + 2)))
        replica.send(signal.SIGCONT)

    def hinder(self) -> None:
        wire = self.dice.choice((self.wire, self.front))
        wire.latency = self.dice.choice((0.02, 0.2))
        wire.fault = self.dice.choice((Fault.LATENCY, Fault.LATENCY, Fault.BLACK_HOLE, Fault.REFUSE))
        time.sleep(self.dice.uniform(0.3, 2))
        if wire.fault is Fault.BLACK_HOLE and self.dice.random() < 0.5:
            # What was under way arrives after all, when its senders are gone.
            wire.cut(reset=False)
        wire.fault = Fault.NONE

    def cut(self) -> None:
        self.dice.choice((self.wire, self.front)).cut(reset=self.dice.random() < 0.5)


@contextlib.contextmanager
def field(mongod: Server, redis: Server, folder: Path, seed: int) -> Iterator[tuple[Field, dict[str, str]]]:
    with wired(mongod.port, seed) as wire, contextlib.ExitStack() as stack:
        env = {
            "GRIDCAST_MONGODB_URI": f"mongodb://127.0.0.1:{wire.port}",
            "GRIDCAST_MONGODB_DATABASE": DATABASE,
            "GRIDCAST_REDIS_URL": redis.url,
            "GRIDCAST_LEASE_TTL": str(LEASE),
            "GRIDCAST_TOMBSTONE_TTL": "2",
            "GRIDCAST_SECOND_PURGE_DELAY": "2",
            "GRIDCAST_UNFINISHED_UPLOAD_TTL": "8",
            "GRIDCAST_GC_INTERVAL": "1",
            "GRIDCAST_LOG_LEVEL": "warning",
        }
        replicas = []
        for driver in ("motor", "pymongo"):
            replica = Replica("services.upload", folder, {**env, "GRIDCAST_MONGODB_DRIVER": driver})
            stack.callback(replica.close)
            replicas.append(replica)
        front = stack.enter_context(wired(replicas[0].port, seed))
        upstreams = f"http://127.0.0.1:{front.port},{replicas[1].service.url}"
        gateways = []
        for _ in range(2):
            gateway = Replica("gateway", folder, {"GRIDCAST_UPLOAD_URLS": upstreams, "GRIDCAST_LOG_LEVEL": "warning"})
            stack.callback(gateway.close)
            gateways.append(gateway)
        yield Field(mongod, (wire, front), replicas, gateways, random.Random(seed)), env


def settle(store: Store, env: dict[str, str], within: float) -> None:
    """The janitor by itself until nothing is due any more."""
    deadline = time.monotonic() + within
    command = [sys.executable, "-m", "services.upload.collect_garbage"]
    while True:
        subprocess.run(command, env={**os.environ, **env}, check=True, timeout=60, capture_output=True)
        if not any(document["uploads"] or document["doomed"] for document in store.media()):
            return
        left = [document for document in store.media() if document["uploads"] or document["doomed"]]
        assert time.monotonic() < deadline, f"left: {left}"
        time.sleep(0.5)


def misread(store: Store, env: dict[str, str], folder: Path, dice: random.Random) -> list[str]:
    """What a stream service, started now, shows otherwise than it was acknowledged: whole files, and ranges of them."""
    files = [document for document in store.media() if document["current"]]
    faults = []
    with launched("services.stream", folder, env) as stream, httpx.Client(base_url=stream.url) as client:
        for document in dice.sample(files, min(len(files), LOOKED_AT)):
            query = {"folder": document["folder"], "filename": document["filename"]}
            whole = client.get("/file/stream", params=query).content
            if hashlib.sha256(whole).hexdigest() != document["current"]["sha256"]:
                faults.append(f"{query}: another file is served")
            for _ in range(10 if whole else 0):
                first, last = sorted(dice.randrange(len(whole)) for _ in range(2))
                part = client.get("/file/stream", params=query, headers={"range": f"bytes={first}-{last}"})
                if (part.status_code, part.content) != (206, whole[first : last + 1]):
                    faults.append(f"{query}: bytes {first} to {last} are others")
    return faults


def run(
    scene: Field,
    env: dict[str, str],
    folder: Path,
    seed: int,
    until: Callable[[History], bool],
    faults: Iterator[str],
) -> str:
    history = History()
    clients = [Client(number, seed, scene.urls(), history) for number in range(CLIENTS)]
    with opened(scene.mongod.uri, DATABASE) as store:
        reader = Reader(store, seed)
        for thread in (*clients, reader):
            thread.start()
        try:
            while not until(history):
                time.sleep(scene.dice.uniform(0.1, 1.0))
                getattr(scene, next(faults))()
        finally:
            for thread in (*clients, reader):
                thread.stop()
            for thread in (*clients, reader):
                thread.join(60)
        assert [client.failed for client in clients if client.failed] == []
        settle(store, env, 60)
        wrong = [*reader.broken, *verdicts(history, store), *misread(store, env, folder, scene.dice)]
        counts = {outcome: history.count(outcome) for outcome in ("ok", "fail", "unknown")}
        said = f"seed {seed}: {counts}, kills {dict(scene.kills)}, {reader.looks} looks, {len(wrong)} faults"
        print(said)
        for replica in (*scene.replicas, *scene.gateways):
            assert "Traceback" not in replica.service.log, replica.service.log
        assert wrong == [], said
        assert reader.looks > 0
    return said


def chosen_seed() -> int:
    return int(os.environ.get("GRIDCAST_FAULT_SEED") or random.SystemRandom().randrange(2**32))


ALL = [
    *("kill_mongod", "kill_service", "kill_gateway"),
    *("stop_mongod", "stop_service", "stop_gateway"),
    *("hinder", "hinder", "cut", "cut"),
]


@pytest.mark.timeout(180)
def test_a_short_history_with_every_fault(own_mongod: Server, redis_server: Server, tmp_path: Path) -> None:
    seed = chosen_seed()
    print(f"seed {seed}")
    with field(own_mongod, redis_server, tmp_path, seed) as (scene, env):
        deadline = time.monotonic() + 25
        # Each fault once in an order of this seed, then whatever comes.
        faults = chain(random.Random(seed).sample(ALL, len(ALL)), whatever(scene, ALL))
        run(scene, env, tmp_path, seed, lambda _: time.monotonic() > deadline, faults)


def whatever(scene: Field, faults: list[str]) -> Iterator[str]:
    while True:
        yield scene.dice.choice(faults)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_thousand_acknowledged_uploads_over_a_hundred_kills(
    own_mongod: Server, redis_server: Server, tmp_path: Path
) -> None:
    """P1 and P2: half of the kills hit mongod, half the service."""
    seed = chosen_seed()
    print(f"seed {seed}")
    faults = ["kill_mongod", "kill_service", *ALL]
    with field(own_mongod, redis_server, tmp_path, seed) as (scene, env):

        def enough(history: History) -> bool:
            return min(scene.kills["mongod"], scene.kills["service"]) >= 50 and history.count("ok") >= 2000

        run(scene, env, tmp_path, seed, enough, whatever(scene, faults))
