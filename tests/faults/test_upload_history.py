"""Uploads while everything is killed, stopped and cut: nothing acknowledged is lost, nothing else is seen, nothing is left over.

The seed is printed; GRIDCAST_FAULT_SEED repeats a run's requests and its faults (their moments depend on the machine).
"""

import contextlib
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

import pytest

from deploy.local.ports import free_ports
from tests.faults.history import Client, History, Reader, verdicts
from tests.faults.wire import Fault, Wire, wired
from tests.launch import Service, launched
from tests.servers import Server
from tests.uploads import Store, opened

DATABASE = "test_faults"
LEASE = 3.0
CLIENTS = 6


class Replica:
    """An upload service that can be killed and comes back at its address."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        (self.port,) = free_ports(1)
        self._folder, self._env = folder, env
        self._running = contextlib.ExitStack()
        self.service: Service
        self.start()

    def start(self) -> None:
        self.service = self._running.enter_context(launched("services.upload", self._folder, self._env, port=self.port))

    def kill(self) -> None:
        self.service.child.send(signal.SIGKILL)
        assert self.service.child.wait(10)

    def send(self, number: signal.Signals) -> None:
        self.service.child.send(number)

    def close(self) -> None:
        self.send(signal.SIGCONT)
        self._running.close()


class Field:
    """mongod, a wire before it, two replicas: and what can happen to them."""

    def __init__(self, mongod: Server, wire: Wire, replicas: list[Replica], dice: random.Random) -> None:
        self.mongod, self.wire, self.replicas, self.dice = mongod, wire, replicas, dice
        self.kills = Counter[str]()

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
        self.wire.latency = self.dice.choice((0.02, 0.2))
        self.wire.fault = self.dice.choice((Fault.LATENCY, Fault.LATENCY, Fault.BLACK_HOLE, Fault.REFUSE))
        time.sleep(self.dice.uniform(0.3, 2))
        if self.wire.fault is Fault.BLACK_HOLE and self.dice.random() < 0.5:
            # What was under way arrives after all, when its senders are gone.
            self.wire.cut(reset=False)
        self.wire.fault = Fault.NONE

    def cut(self) -> None:
        self.wire.cut(reset=self.dice.random() < 0.5)


@contextlib.contextmanager
def field(mongod: Server, redis: Server, folder: Path, seed: int) -> Iterator[tuple[Field, dict[str, str]]]:
    with wired(mongod.port, seed) as wire, contextlib.ExitStack() as stack:
        env = {
            "GRIDCAST_MONGODB_URI": f"mongodb://127.0.0.1:{wire.port}",
            "GRIDCAST_MONGODB_DATABASE": DATABASE,
            "GRIDCAST_REDIS_URL": redis.url,
            "GRIDCAST_LEASE": str(LEASE),
            "GRIDCAST_GRACE": "2",
            "GRIDCAST_LATE": "2",
            "GRIDCAST_UPLOAD_EXPIRY": "8",
            "GRIDCAST_JANITOR_EVERY": "1",
            "GRIDCAST_LOG_LEVEL": "warning",
        }
        replicas = []
        for driver in ("motor", "pymongo"):
            replica = Replica(folder, {**env, "GRIDCAST_MONGO_DRIVER": driver})
            stack.callback(replica.close)
            replicas.append(replica)
        yield Field(mongod, wire, replicas, random.Random(seed)), env


def settle(store: Store, env: dict[str, str], within: float) -> None:
    """The janitor by itself until nothing is due any more."""
    deadline = time.monotonic() + within
    command = [sys.executable, "-m", "services.upload.janitor"]
    while True:
        subprocess.run(command, env={**os.environ, **env}, check=True, timeout=60, capture_output=True)
        if not any(document["uploads"] or document["doomed"] for document in store.media()):
            return
        assert time.monotonic() < deadline, [d for d in store.media() if d["uploads"] or d["doomed"]]
        time.sleep(0.5)


def run(scene: Field, env: dict[str, str], seed: int, until: Callable[[History], bool], faults: Iterator[str]) -> str:
    history = History()
    urls = [replica.service.url for replica in scene.replicas]
    clients = [Client(number, seed, urls, history) for number in range(CLIENTS)]
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
        wrong = [*reader.broken, *verdicts(history, store)]
        counts = {outcome: history.count(outcome) for outcome in ("ok", "fail", "unknown")}
        said = f"seed {seed}: {counts}, kills {dict(scene.kills)}, {reader.looks} looks, {len(wrong)} faults"
        print(said)
        for replica in scene.replicas:
            assert "Traceback" not in replica.service.log, replica.service.log
        assert wrong == [], said
        assert reader.looks > 0
    return said


def chosen_seed() -> int:
    return int(os.environ.get("GRIDCAST_FAULT_SEED") or random.SystemRandom().randrange(2**32))


ALL = ["kill_mongod", "kill_service", "stop_mongod", "stop_service", "hinder", "cut", "cut"]


@pytest.mark.timeout(180)
def test_a_short_history_with_every_fault(own_mongod: Server, redis_server: Server, tmp_path: Path) -> None:
    seed = chosen_seed()
    print(f"seed {seed}")
    with field(own_mongod, redis_server, tmp_path, seed) as (scene, env):
        deadline = time.monotonic() + 20
        # Each fault once in an order of this seed, then whatever comes.
        faults = chain(random.Random(seed).sample(ALL, len(ALL)), whatever(scene, ALL))
        run(scene, env, seed, lambda _: time.monotonic() > deadline, faults)


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
    faults = ["kill_mongod", "kill_service", "kill_mongod", "kill_service", *ALL[2:]]
    with field(own_mongod, redis_server, tmp_path, seed) as (scene, env):

        def enough(history: History) -> bool:
            return min(scene.kills["mongod"], scene.kills["service"]) >= 50 and history.count("ok") >= 2000

        run(scene, env, seed, enough, whatever(scene, faults))
