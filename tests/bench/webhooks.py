"""Webhooks in one run: from a commit to a receiver, what a dead endpoint costs the others, and what the upload hook adds.

`.venv/bin/python -m tests.bench.webhooks [--events N --rounds R] [--quick] [--store gridfs|files]`. Files of one byte over
loopback; the receivers are in this process. Rounds take turns, and the first one warms up.

A commit is taken to be when the client has its answer, which is a little later. What the hook adds is the difference of two uploads
less the same question asked by this process: the rest is our own.
"""

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from deploy.local import databases
from services.common.webhooks.signing import make_secret
from tests.bench.measurements import OURS, Measurement, Target, describe_machine, format_table
from tests.support.databases import run_server, small_mongod_program, storage_env
from tests.support.processes import ServiceProcess, run_service
from tests.support.waiting import eventually
from tests.support.webhook_receiver import Receiver, answering, run_threaded_receiver, silent

ALONE = "alone"
"""The contender whose only endpoint is healthy; ours has one that never answers beside it."""
WRITERS = 4
"""Concurrent uploads while the rate of deliveries is measured."""
DELIVERY_TIMEOUT_SECONDS = 60.0

StoreEnv = Callable[[str], dict[str, str]]
"""The settings of a service on the empty store of a name."""


@contextlib.contextmanager
def run_store_envs(folder: Path, store: str) -> Iterator[StoreEnv]:
    """Redis, and a mongod where the store needs one."""
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(run_server(folder / "redis", databases.redis_server))
        if store == "files":
            yield lambda name: {
                "GRIDCAST_STORE": "files",
                "GRIDCAST_FILES_DIR": str(folder / "stores" / name),
                "GRIDCAST_REDIS_URL": redis.url,
            }
            return
        mongod = stack.enter_context(run_server(folder / "mongod", small_mongod_program))
        yield lambda name: storage_env(mongod, redis.url, name)


@contextlib.contextmanager
def run_upload(folder: Path, env: dict[str, str], *receivers: Receiver) -> Iterator[ServiceProcess]:
    """An upload service with an endpoint for each receiver."""
    endpoints = [
        {"id": f"e{number}", "url": receiver.url, "secret": make_secret()} for number, receiver in enumerate(receivers)
    ]
    with run_service("services.upload", folder, {**env, "GRIDCAST_WEBHOOKS": json.dumps(endpoints)}) as service:
        yield service


def put(client: httpx.Client, service: ServiceProcess, name: str) -> None:
    """Upload a file of one byte."""
    client.put(f"{service.url}/file/stream", params={"filename": name}, content=b"1").raise_for_status()


def wait_for_requests(receiver: Receiver, count: int) -> None:
    eventually(lambda: len(receiver.requests) >= count, DELIVERY_TIMEOUT_SECONDS, f"{count} deliveries")


def percentile_99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[-1]


def measure_latency(folder: Path, env: StoreEnv, events: int) -> Iterator[Measurement]:
    """Milliseconds from the answer to an upload to the arrival of its event, one upload after the other."""
    delays: list[float] = []
    with (
        run_threaded_receiver() as receiver,
        run_upload(folder, env("latency"), receiver) as service,
        httpx.Client(timeout=30) as client,
    ):
        warm_up = max(10, events // 20)
        for number in range(warm_up + events):
            put(client, service, f"n{number}")
            committed_at = time.monotonic()
            wait_for_requests(receiver, number + 1)
            if number >= warm_up:
                delays.append(max(receiver.requests[number].at - committed_at, 0.0) * 1000)
    median = Measurement("commit to receiver", "ms", [Target(50)])
    tail = Measurement("the same, 99th percentile", "ms", [Target(1000)])
    median.rounds[OURS] = delays
    tail.add(OURS, percentile_99(delays))
    yield from (median, tail)


def measure_dead_endpoint(folder: Path, env: StoreEnv, events: int, rounds: int) -> Iterator[Measurement]:
    """Events per second at a healthy endpoint, until the last one has come, with and without one that never answers beside it."""
    rates = Measurement("a dead endpoint beside", "events/s", [Target(0.9, ALONE, is_minimum=True)])
    with contextlib.ExitStack() as stack:
        dead = stack.enter_context(run_threaded_receiver(silent))
        contenders: dict[str, tuple[ServiceProcess, Receiver]] = {}
        for who, beside in ((OURS, [dead]), (ALONE, [])):
            receiver = stack.enter_context(run_threaded_receiver())
            name = "dead" if beside else "alone"
            contenders[who] = stack.enter_context(run_upload(folder, env(name), receiver, *beside)), receiver
        client = stack.enter_context(httpx.Client(timeout=30))
        pool = stack.enter_context(ThreadPoolExecutor(WRITERS))
        for number in range(-1, rounds):
            # Who begins changes, because the end of one turn costs the beginning of the next.
            for who in sorted(contenders, reverse=bool(number % 2)):
                service, receiver = contenders[who]
                seen, began = len(receiver.requests), time.monotonic()
                uploads = [pool.submit(put, client, service, f"r{number}-{one}") for one in range(events)]
                for upload in uploads:
                    upload.result()
                wait_for_requests(receiver, seen + events)
                if number >= 0:
                    rates.add(who, events / (receiver.requests[-1].at - began))
    yield rates


def measure_hook(folder: Path, env: StoreEnv, uploads: int) -> Iterator[Measurement]:
    """Milliseconds of an upload without a hook and with one, of the question alone, and of what remains."""
    taken: dict[str, list[float]] = {"none": [], "hook": [], "question": []}
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(run_threaded_receiver(answering(200, b'{"allow": true}')))
        hook = {"GRIDCAST_UPLOAD_HOOK": json.dumps({"url": receiver.url, "secret": make_secret()})}
        plain = stack.enter_context(run_service("services.upload", folder, env("plain")))
        asking = stack.enter_context(run_service("services.upload", folder, {**env("asking"), **hook}))
        client = stack.enter_context(httpx.Client(timeout=30))
        requests: dict[str, Callable[[str], object]] = {
            "none": lambda name: put(client, plain, name),
            "hook": lambda name: put(client, asking, name),
            "question": lambda name: client.post(receiver.url, content=receiver.requests[-1].body).raise_for_status(),
        }
        warm_up = max(10, uploads // 20)
        for number in range(warm_up + uploads):
            for kind, request in requests.items():
                began = time.perf_counter()
                request(f"n{number}")
                if number >= warm_up:
                    taken[kind].append((time.perf_counter() - began) * 1000)
    medians = {kind: statistics.median(values) for kind, values in taken.items()}
    names = {"none": "upload without a hook", "hook": "upload with a hook", "question": "the question alone"}
    for kind, name in names.items():
        yield Measurement(name, "ms", rounds={OURS: taken[kind]})
    own = medians["hook"] - medians["none"] - medians["question"]
    yield Measurement("what the hook adds", "ms", [Target(3)], {OURS: [own]})


def measure(folder: Path, store: str, events: int, rounds: int) -> Iterator[Measurement]:
    """All figures, one after the other."""
    with run_store_envs(folder, store) as env:
        yield from measure_latency(folder, env, events)
        yield from measure_dead_endpoint(folder, env, events, rounds)
        yield from measure_hook(folder, env, events)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    parser.add_argument("--store", default="gridfs", choices=["gridfs", "files"])
    options = parser.parse_args()
    events, rounds = (100, 3) if options.quick else (options.events, options.rounds)
    for line in describe_machine():
        print(line)
    print(f"{events} events, {rounds} rounds, store {options.store}")
    with tempfile.TemporaryDirectory() as folder:
        for line in format_table(list(measure(Path(folder), options.store, events, rounds)), (OURS, ALONE)):
            print(line)


if __name__ == "__main__":
    main()
