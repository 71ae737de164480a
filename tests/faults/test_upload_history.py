"""Uploads while everything is killed, paused and disconnected: nothing acknowledged is lost, no file is visible in
part, no garbage is left.

The seed is printed; FAULT_SEED repeats a run's requests and its faults (their moments depend on the machine).
"""

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.databases import ServerProcess
from tests.support.fault_history import (
    SHORT_TTLS,
    FaultScenario,
    ShortHistory,
    choose_seed,
    random_faults,
    run_history,
    run_services,
)
from tests.support.fault_proxy import run_fault_proxy
from tests.support.store_inspectors import open_inspector
from tests.support.upload_history import History

DATABASE = "test_faults"


@contextlib.contextmanager
def run_scenario(
    mongod: ServerProcess, redis: ServerProcess, folder: Path, seed: int
) -> Iterator[tuple[FaultScenario, dict[str, str]]]:
    """A fault proxy before mongod, and a replica with either driver."""
    with run_fault_proxy(mongod.port, seed) as wire:
        env = {
            "GRIDCAST_MONGODB_URI": f"mongodb://127.0.0.1:{wire.port}",
            "GRIDCAST_MONGODB_DATABASE": DATABASE,
            "GRIDCAST_REDIS_URL": redis.url,
            **SHORT_TTLS,
        }
        motor, pymongo = ({**env, "GRIDCAST_MONGODB_DRIVER": driver} for driver in ("motor", "pymongo"))
        with run_services(folder, (motor, pymongo), seed) as (replicas, front, gateways):
            yield FaultScenario(replicas, front, gateways, random.Random(seed), mongod, wire), env


ALL_FAULTS = [
    *("kill_database", "kill_service", "kill_gateway"),
    *("stop_database", "stop_service", "stop_gateway"),
    *("add_latency", "add_latency", "close_connections", "close_connections"),
]


@pytest.mark.timeout(180)
def test_a_short_history_with_every_fault(
    dedicated_mongod: ServerProcess, redis_server: ServerProcess, tmp_path: Path
) -> None:
    seed = choose_seed()
    print(f"seed {seed}")
    with run_scenario(dedicated_mongod, redis_server, tmp_path, seed) as (scene, env):
        short = ShortHistory(scene, ALL_FAULTS, seed)
        opened = open_inspector(dedicated_mongod.url, DATABASE)
        run_history(scene, opened, env, tmp_path, seed, short.is_done, short.choose_faults())


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_thousand_acknowledged_uploads_over_a_hundred_kills(
    dedicated_mongod: ServerProcess, redis_server: ServerProcess, tmp_path: Path
) -> None:
    """P1 and P2: half of the kills hit mongod, half the service."""
    seed = choose_seed()
    print(f"seed {seed}")
    faults = ["kill_database", "kill_service", *ALL_FAULTS]
    with run_scenario(dedicated_mongod, redis_server, tmp_path, seed) as (scene, env):

        def enough(history: History) -> bool:
            return min(scene.kills["database"], scene.kills["service"]) >= 50 and history.count("ok") >= 2000

        run_history(
            scene,
            open_inspector(dedicated_mongod.url, DATABASE),
            env,
            tmp_path,
            seed,
            enough,
            random_faults(scene, faults),
        )
