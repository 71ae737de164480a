"""Databases that are slow, away or emptied while a stream is received: what is acknowledged is there afterwards."""

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.store.limits import BLOCK_SIZE
from tests.support.databases import ServerProcess, needs_server, storage_env
from tests.support.fragmented_mp4 import fragment, init
from tests.support.live_client import LiveClient, make_stream, media_of, read_file
from tests.support.processes import ServiceProcess, run_service
from tests.support.waiting import eventually

FRAGMENTS = [fragment(at, 1, fill=20_000) for at in range(8)]


@pytest.fixture
def services(
    dedicated_mongod: ServerProcess, dedicated_redis: ServerProcess, tmp_path: Path
) -> Iterator[tuple[ServiceProcess, ServiceProcess]]:
    """A live service and a stream service on databases of their own."""
    more = {"GRIDCAST_LIVE_INTAKE_FACTOR": "0", "GRIDCAST_MIN_FREE_SPACE": "0"}
    env = storage_env(dedicated_mongod, dedicated_redis.url, "live_faults", **more)
    with run_service("services.live", tmp_path, env) as live, run_service("services.stream", tmp_path, env) as library:
        yield live, library


def send_rest(client: LiveClient, sent: bytes) -> None:
    """Go on where the service is, and end the stream."""

    def is_complete() -> bool:
        offset = int(client.head().headers["upload-offset"])
        answer = client.patch(offset, sent[offset:], len(sent))
        return (answer.status_code, answer.headers["upload-offset"]) == (204, str(len(sent)))

    eventually(is_complete, 40, "the service goes on")


@needs_server
@pytest.mark.parametrize("fault", ["paused", "killed"])
def test_a_database_that_is_away_for_a_moment_loses_nothing(
    services: tuple[ServiceProcess, ServiceProcess], dedicated_mongod: ServerProcess, fault: str
) -> None:
    """Rows 23 and 24: the publisher waits, and nothing that was acknowledged is lost."""
    live, library = services
    client = make_stream(live)
    sent = init() + b"".join(FRAGMENTS)
    half = len(init() + b"".join(FRAGMENTS[:4]))
    assert client.patch(0, sent[:half]).status_code == 204
    change, undo = {
        "paused": (dedicated_mongod.pause, dedicated_mongod.resume),
        "killed": (dedicated_mongod.kill, dedicated_mongod.start),
    }[fault]
    change()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answering = pool.submit(client.patch, half, sent[half:])
        with pytest.raises(TimeoutError):
            answering.result(1)  # the publisher waits
        undo()  # in this thread: a process that a thread has started ends with it
        answer = answering.result()
    assert answer.status_code in {204, 503}
    send_rest(client, sent)
    assert read_file(library, client)[BLOCK_SIZE:] == media_of(sent)


def test_redis_that_is_away_makes_no_difference_to_a_publisher(
    services: tuple[ServiceProcess, ServiceProcess], dedicated_redis: ServerProcess
) -> None:
    """Row 25."""
    live, library = services
    client = make_stream(live)
    sent = init() + b"".join(FRAGMENTS)
    dedicated_redis.kill()
    for start in range(0, len(sent), 50_000):
        assert client.patch(start, sent[start : start + 50_000]).status_code == 204
    send_rest(client, sent)
    described = client.get()
    assert (described["state"], described["segments"], described["viewers"]) == ("ended", 4, None)
    assert read_file(library, client)[BLOCK_SIZE:] == media_of(sent)
    dedicated_redis.start()
