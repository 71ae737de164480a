"""Case 98: a janitor that is killed in the middle, and several at once, come to the same end as one that is left in peace."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support.databases import Server
from tests.support.media_library import environment
from tests.support.processes import Service, Start
from tests.support.upload_client import CHUNK, Store, Tus, opened, put
from tests.support.waiting import eventually

FILES = 12
BLOCKS = 12


@pytest.fixture
def env(mongod: Server, redis_url: str, database: str) -> dict[str, str]:
    more = {
        "GRIDCAST_GC_INTERVAL": "0",
        "GRIDCAST_TOMBSTONE_TTL": "0",
        "GRIDCAST_UNFINISHED_UPLOAD_TTL": "1",
        "GRIDCAST_SECOND_PURGE_DELAY": "0",
    }
    return {**environment(mongod, redis_url, database), **more}


@pytest.fixture
def store(mongod: Server, database: str) -> Iterator[Store]:
    with opened(mongod.uri, database) as store:
        yield store


def janitor(env: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "services.upload.collect_garbage"]
    return subprocess.Popen(command, env={**os.environ, **env}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def litter(service: Service) -> None:
    """Replaced files, deleted ones, and uploads that nobody goes on with: all of it due within a second."""
    data = os.urandom(BLOCKS * CHUNK)
    for number in range(FILES):
        assert put(service, f"replaced-{number}", data).status_code == 201
        assert put(service, f"replaced-{number}", b"new").status_code == 200
        tus = Tus(service)
        with tus.client:
            assert tus.create(f"left-{number}", length=len(data) + 1).status_code == 201
            assert tus.patch(0, data).status_code == 204


def settled(store: Store) -> bool:
    media = store.media()
    return len(media) == FILES and not any(one["uploads"] or one["doomed"] for one in media) and not store.orphans()


@pytest.mark.parametrize("kills", [6, pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_killed_in_the_middle(start_service: Start, env: dict[str, str], store: Store, kills: int) -> None:
    litter(start_service("services.upload", **env))
    before = store.chunks()
    hit = 0
    for number in range(kills):
        began, there = time.monotonic(), store.chunks()
        running = janitor(env)
        # Each lives a little longer into its work than the one before.
        eventually(lambda there=there, it=running: store.chunks() < there or it.poll() is not None, 30)
        until = time.monotonic() + 0.002 * (number % 10)
        eventually(lambda until=until: time.monotonic() >= until, 5)
        running.send_signal(signal.SIGKILL)
        running.communicate()
        hit += running.returncode == -signal.SIGKILL and store.chunks() < there
        assert time.monotonic() - began < 60
        if store.chunks() <= FILES:
            break
    print(f"{hit} of {number + 1} killed while they deleted; {before} chunks, then {store.chunks()}")
    assert hit > 0

    def swept() -> bool:
        last = janitor(env)
        _, said = last.communicate(timeout=60)
        assert last.returncode == 0, said.decode()
        assert b"Traceback" not in said
        return settled(store)

    eventually(swept, 30)
    assert store.chunks() == FILES


def test_three_at_once(start_service: Start, env: dict[str, str], store: Store) -> None:
    service = start_service("services.upload", **env)
    litter(service)

    def swept() -> bool:
        for one in [janitor(env) for _ in range(3)]:
            _, said = one.communicate(timeout=60)
            assert one.returncode == 0, said.decode()
            assert b"Traceback" not in said
        return settled(store)

    eventually(swept, 60)
    assert store.chunks() == FILES
    assert {store.bytes_in(one["current"]["file"]) for one in store.media()} == {b"new"}
