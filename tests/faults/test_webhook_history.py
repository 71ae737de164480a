"""Uploads while the services that relay and deliver are killed: no event without a commit, no commit without an event, and the id
and the bytes of an event are equal at each try.

The seed is printed; FAULT_SEED repeats a run's requests and its kills (their moments depend on the machine).
"""

import json
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.common.webhooks.signing import make_secret
from tests.bench.measurements import OURS, format_table
from tests.bench.webhooks import ALONE, measure
from tests.support.databases import ServerProcess, storage_env
from tests.support.fault_history import choose_seed
from tests.support.processes import ServiceProcess, run_service
from tests.support.store_inspectors import StoreInspector, open_env_inspector
from tests.support.upload_client import run_garbage_collector
from tests.support.waiting import eventually
from tests.support.webhook_receiver import Receiver, run_threaded_receiver

NAMES = 12
WRITERS = 3


@dataclass
class Traffic:
    """PUTs and deletions by several threads, and the commits that were acknowledged."""

    urls: list[str]
    seed: int
    acknowledged: set[tuple[str, int]] = field(default_factory=set)
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self, number: int) -> None:
        dice = random.Random(self.seed * 100 + number)
        with httpx.Client(timeout=15) as client:
            while not self.stopping.is_set():
                name = f"n{dice.randrange(NAMES)}"
                url = f"{dice.choice(self.urls)}/file/stream"
                try:
                    if dice.random() < 0.1:
                        client.delete(url, params={"filename": name})
                    else:
                        answer = client.put(url, params={"filename": name}, content=dice.randbytes(100))
                        if answer.status_code in {200, 201}:
                            self.acknowledged.add((name, answer.json()["revision"]))
                        else:
                            time.sleep(0.05)
                except httpx.HTTPError:
                    time.sleep(0.02)

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self.run, args=(number,)) for number in range(WRITERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopping.set()
            for thread in threads:
                thread.join(30)


def kill(service: ServiceProcess) -> None:
    """Kill a replica, and start it again at its port."""
    service.child.send_signal(signal.SIGKILL)
    assert service.child.wait(10)
    service.child.restart()
    eventually(service.is_ready, 30, "the replica is ready again")


def settle(env: Mapping[str, str], service: ServiceProcess, inspector: StoreInspector) -> None:
    """Relay what killed processes left, and send what they had claimed: without the half minute that each would wait."""

    def is_settled() -> bool:
        inspector.age_events(60)
        run_garbage_collector(env)
        waiting = list_deliveries(service, "waiting")
        for delivery in waiting:
            httpx.post(f"{service.url}/webhooks/replays", json={"id": delivery["id"]})
        unrelayed = [
            entry for document in inspector.list_documents() for entry in document["announce"] if entry.get("unrelayed")
        ]
        return not unrelayed and not waiting

    eventually(is_settled, 120, "everything is relayed and delivered")


def list_deliveries(service: ServiceProcess, state: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{service.url}/webhooks/deliveries", params={"state": state, "limit": 200}, timeout=15)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


def check(receiver: Receiver, acknowledged: set[tuple[str, int]], inspector: StoreInspector) -> int:
    """Compare what was received with what was committed; return the number of events."""
    bodies: dict[str, set[bytes]] = defaultdict(set)
    ids: dict[tuple[str, int], set[str]] = defaultdict(set)
    for request in list(receiver.requests):
        message = json.loads(request.body)
        bodies[request.event_id].add(request.body)
        ids[message["data"]["filename"], message["data"]["revision"]].add(request.event_id)
        assert message["id"] == request.event_id
    assert all(len(found) == 1 for found in bodies.values()), "the same bytes at each try"
    assert all(len(found) == 1 for found in ids.values()), "one id for each change"
    assert acknowledged <= ids.keys(), f"commits without an event: {acknowledged - ids.keys()}"
    for document in inspector.list_documents():
        name, revision = document["filename"], document.get("revision", 0)
        received = {number for filename, number in ids if filename == name}
        assert received == set(range(1, revision + 1)), f"{name}: not one event for each of its {revision} changes"
    return len(ids)


def run_history(env: Mapping[str, str], folder: Path, kills: int, events: int, database: ServerProcess | None) -> None:
    seed = choose_seed()
    print(f"seed {seed}")
    dice = random.Random(seed)
    with ExitStack() as stack:
        receiver = stack.enter_context(run_threaded_receiver())
        endpoint = {"id": "e", "url": receiver.url, "secret": make_secret()}
        env = {**env, "GRIDCAST_WEBHOOKS": json.dumps([endpoint]), "GRIDCAST_GC_INTERVAL": "1"}
        # Names keep their rows, so that revisions can be counted: each replaced version is a tombstone of this age.
        env |= {"GRIDCAST_TOMBSTONE_TTL": "36000"}
        replicas = [stack.enter_context(run_service("services.upload", folder, env)) for _ in range(2)]
        inspector = stack.enter_context(open_env_inspector(env))
        traffic = Traffic([replica.url for replica in replicas], seed)
        with traffic.running():
            for number in range(kills):
                time.sleep(dice.uniform(0.05, 0.5))
                if database is not None and number % 2:
                    database.kill()
                    database.start()
                else:
                    kill(dice.choice(replicas))
            eventually(lambda: len({one.event_id for one in list(receiver.requests)}) >= events, 600, "enough events")
        settle(env, replicas[0], inspector)
        count = check(receiver, traffic.acknowledged, inspector)
        again = len(receiver.requests) - count
        print(
            f"{count} events over {kills} kills, {len(traffic.acknowledged)} acknowledged PUTs, {again} deliveries again"
        )
        assert count >= events


def files_env(redis: ServerProcess, folder: Path) -> dict[str, str]:
    files = str(folder / "stores" / "files")
    return {"GRIDCAST_STORE": "files", "GRIDCAST_FILES_DIR": files, "GRIDCAST_REDIS_URL": redis.url}


def test_a_short_history(redis_server: ServerProcess, tmp_path: Path) -> None:
    run_history(files_env(redis_server, tmp_path), tmp_path, kills=4, events=60, database=None)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("store", ["gridfs", "files"])
def test_two_thousand_events_over_a_hundred_kills(
    request: pytest.FixtureRequest, redis_server: ServerProcess, tmp_path: Path, store: str
) -> None:
    """50 of upload replicas and 50 of mongod; over the files store 100 of upload replicas."""
    if store == "files":
        run_history(files_env(redis_server, tmp_path), tmp_path, kills=100, events=2000, database=None)
        return
    mongod = request.getfixturevalue("dedicated_mongod")
    env = storage_env(mongod, redis_server.url, "history")
    run_history(env, tmp_path, kills=100, events=2000, database=mongod)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("store", ["gridfs", "files"])
def test_latency_one_dead_endpoint_and_the_upload_hook(tmp_path: Path, store: str) -> None:
    """The figures of the benchmark meet their targets."""
    figures = list(measure(tmp_path, store, events=300, rounds=3))
    print("", *format_table(figures, (OURS, ALONE)), sep="\n")
    assert all(one.all_targets_met for one in figures)
