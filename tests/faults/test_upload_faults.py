"""One fault at a time, each with its specified response: a hanging database, a pause, a kill at every phase, skewed clocks."""

import contextlib
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.databases import ServerProcess, needs_clock_of_a_server, storage_env
from tests.support.fault_proxy import Fault, run_fault_proxy
from tests.support.processes import StartService
from tests.support.sizes import BATCH_SIZE, CHUNK_SIZE
from tests.support.store_inspectors import MongoInspector, open_inspector
from tests.support.upload_client import (
    TusUpload,
    expect_problem,
    put_file,
    repr_digest,
    start_partial_put,
)
from tests.support.waiting import eventually

DATABASE = "test_stops"


@pytest.fixture
def env(dedicated_mongod: ServerProcess, redis_server: ServerProcess) -> dict[str, str]:
    return {
        **storage_env(dedicated_mongod, redis_server.url, DATABASE),
        "GRIDCAST_LEASE_TTL": "2",
        "GRIDCAST_TOMBSTONE_TTL": "0",
        "GRIDCAST_SECOND_PURGE_DELAY": "1",
        "GRIDCAST_GC_INTERVAL": "0.3",
    }


@pytest.fixture
def inspector(dedicated_mongod: ServerProcess) -> Iterator[MongoInspector]:
    with open_inspector(dedicated_mongod.url, DATABASE) as store:
        yield store


def send_until_closed(connection: socket.socket, data: bytes) -> None:
    """Send, although the other side may reject the request and close meanwhile."""
    with contextlib.suppress(OSError):
        connection.sendall(data)


def test_writer_paused_past_its_lease_is_fenced_off(
    start_service: StartService, env: dict[str, str], inspector: MongoInspector
) -> None:
    """It resumes when its upload was collected and its name reused: it neither commits nor deletes, nor leaves a chunk."""
    stopped = start_service("services.upload", **{**env, "GRIDCAST_GC_INTERVAL": "0"})
    other = start_service("services.upload", **env)
    data = os.urandom(3 * BATCH_SIZE)
    with start_partial_put(stopped, "n", len(data), data[: BATCH_SIZE + 5]) as connection:
        eventually(lambda: inspector.count_chunks() == 8)
        stopped.child.send_signal(signal.SIGSTOP)
        assert put_file(other, "n", b"quick").status_code == 201
        eventually(lambda: inspector.count_chunks() == 1 and inspector.only_document()["uploads"] == [], 10)
        # The rest of its body is in its socket when it resumes.
        sender = threading.Thread(target=send_until_closed, args=(connection, data[BATCH_SIZE + 5 :]), daemon=True)
        sender.start()
        stopped.child.send_signal(signal.SIGCONT)
        assert connection.recv(4096).startswith(b"HTTP/1.1 409 ")
    eventually(inspector.has_no_garbage, 10)
    assert inspector.read_file(inspector.only_document()["current"]["file"]) == b"quick"


def test_paused_writer_of_a_resumable_upload_is_fenced_off(
    start_service: StartService, env: dict[str, str], inspector: MongoInspector
) -> None:
    """Another replica takes over and finishes; the one that resumes changes nothing."""
    stopped, other = (start_service("services.upload", **env) for _ in range(2))
    data = os.urandom(3 * BATCH_SIZE)
    tus = TusUpload(stopped, other)
    tus.create(length=len(data))
    with tus.open_patch(stopped, 0, len(data)) as connection:
        connection.sendall(data[:BATCH_SIZE])
        eventually(lambda: tus.offset(1) == BATCH_SIZE)
        stopped.child.send_signal(signal.SIGSTOP)
        offset = tus.offset(1)
        assert tus.patch(offset, data[offset:], 1).headers["repr-digest"] == repr_digest(data)
        sender = threading.Thread(target=send_until_closed, args=(connection, data[BATCH_SIZE:]), daemon=True)
        sender.start()
        stopped.child.send_signal(signal.SIGCONT)
        assert connection.recv(4096).startswith(b"HTTP/1.1 409 ")
    eventually(inspector.has_no_garbage, 10)
    assert inspector.read_file(inspector.only_document()["current"]["file"]) == data


def test_killed_service_leaves_no_garbage(
    start_service: StartService, env: dict[str, str], inspector: MongoInspector
) -> None:
    """Case 97: within the lease and a minute; here the lease is two seconds."""
    killed = start_service("services.upload", **env)
    with start_partial_put(killed, "n", 3 * BATCH_SIZE, bytes(BATCH_SIZE + 5)):
        eventually(lambda: inspector.count_chunks() == 8)
        killed.child.send_signal(signal.SIGKILL)
        assert killed.child.wait(5)
    start_service("services.upload", **env)
    eventually(lambda: inspector.count_chunks() == 0 and inspector.list_documents() == [], 15)


def test_hanging_mongodb_times_out(
    start_service: StartService, env: dict[str, str], dedicated_mongod: ServerProcess, inspector: MongoInspector
) -> None:
    """Case 95: 503 within 10 s for active and for new uploads; afterwards all succeed again within 5 s."""
    service = start_service("services.upload", **env)
    tus = TusUpload(service)
    tus.create(length=10)
    took: list[float] = []

    def timed(doing: object) -> httpx.Response:
        began = time.monotonic()
        answer: httpx.Response = doing()  # type: ignore[operator]
        took.append(time.monotonic() - began)
        return answer

    with start_partial_put(service, "half", 2 * BATCH_SIZE, b"") as connection, ThreadPoolExecutor(4) as pool:
        eventually(lambda: len(inspector.list_documents()) == 2)
        dedicated_mongod.pause()
        try:
            connection.sendall(bytes(BATCH_SIZE + 1))
            answers = list(
                pool.map(
                    timed,
                    [
                        lambda: put_file(service, "new", b"x"),
                        lambda: put_file(service, "new2", bytes(3 * BATCH_SIZE)),
                        lambda: tus.patch(0, b"x"),
                        lambda: httpx.delete(f"{service.url}/file/stream?filename=x", timeout=30),
                    ],
                )
            )
            connection.settimeout(15)
            assert connection.recv(4096).startswith(b"HTTP/1.1 503 ")
        finally:
            dedicated_mongod.resume()
    for answer in answers:
        expect_problem(answer, 503)
        assert int(answer.headers["retry-after"]) > 0
    assert max(took) < 10
    eventually(lambda: put_file(service, "later", b"x").is_success, 5)
    assert tus.delete().status_code == 204
    eventually(inspector.has_no_garbage, 20)
    assert "Traceback" not in service.log


@pytest.mark.parametrize("after", [0.0, 0.005, 0.01])
def test_mongod_killed_around_the_commit(
    start_service: StartService,
    env: dict[str, str],
    dedicated_mongod: ServerProcess,
    inspector: MongoInspector,
    after: float,
) -> None:
    """Case 94: a small upload takes about as long as these delays. 201: it is there afterwards; else it is whole or absent."""
    service = start_service("services.upload", **env)
    put_file(service, "warm", b"x")
    told: dict[str, int] = {}
    for number in range(2):
        name, data = f"n{number}", os.urandom(CHUNK_SIZE + 7)
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(put_file, service, name, data, if_none_match="*")
            time.sleep(after)
            dedicated_mongod.kill()
            dedicated_mongod.start()
            told[name] = sending.result().status_code
        document = inspector.find_document(name)
        current = document and document["current"]
        assert told[name] in {201, 503}
        assert current or told[name] != 201
        assert not current or inspector.read_file(current["file"]) == data
    eventually(inspector.has_no_garbage, 15)


@pytest.mark.parametrize("fault", [Fault.BLACK_HOLE, Fault.REFUSE, Fault.LATENCY])
def test_upload_survives_mongodb_network_faults(
    start_service: StartService,
    env: dict[str, str],
    dedicated_mongod: ServerProcess,
    inspector: MongoInspector,
    fault: Fault,
) -> None:
    """Case 96. Half a second of latency is no failure; the others are 503, and what arrives late changes nothing."""
    with run_fault_proxy(dedicated_mongod.port) as wire:
        service = start_service(
            "services.upload",
            **{**env, "GRIDCAST_MONGODB_URI": f"mongodb://127.0.0.1:{wire.port}", "GRIDCAST_LEASE_TTL": "6"},
        )
        assert put_file(service, "before", b"x").status_code == 201
        data = os.urandom(2 * BATCH_SIZE)
        with start_partial_put(service, "n", len(data), data[:BATCH_SIZE]) as connection:
            eventually(lambda: inspector.count_chunks() == 9)
            wire.latency = 0.5
            wire.fault = fault
            if fault is Fault.REFUSE:
                wire.close_connections(reset=True)
            connection.sendall(data[BATCH_SIZE:])
            answer = connection.recv(4096)
        wire.fault = Fault.NONE
        if fault is Fault.LATENCY:
            assert answer.startswith(b"HTTP/1.1 201 ")
            assert inspector.read_file(inspector.list_documents()[1]["current"]["file"]) == data
        elif not answer.startswith(b"HTTP/1.1 201 "):
            assert answer.startswith(b"HTTP/1.1 503 ")
            eventually(lambda: put_file(service, "after", b"x").is_success, 10)
        eventually(inspector.has_no_garbage, 20)
        assert "Traceback" not in service.log


@needs_clock_of_a_server
@pytest.mark.parametrize("hours", [-1, 1])
def test_skewed_clock_deletes_no_live_upload(
    start_service: StartService, env: dict[str, str], inspector: MongoInspector, tmp_path: Path, hours: int
) -> None:
    """Case 99: leases and expiries use MongoDB's clock alone."""
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(
        f"import time, datetime\nreal = time.time\ntime.time = lambda: real() + {hours * 3600}\n"
        "class shifted(datetime.datetime):\n"
        "    @classmethod\n"
        "    def now(cls, tz=None):\n"
        "        return datetime.datetime.fromtimestamp(time.time(), tz)\n"
        "datetime.datetime = shifted\n"
    )
    wrong = start_service("services.upload", **{**env, "PYTHONPATH": str(tmp_path / "clock")})
    right = start_service("services.upload", **env)
    tus = TusUpload(right, wrong)
    tus.create(length=20)
    with start_partial_put(right, "n", 10, b"12345") as connection:
        eventually(lambda: len(inspector.list_documents()) == 2)
        time.sleep(3)
        assert tus.patch(0, b"x" * 10, 1).status_code == 204
        connection.sendall(b"67890")
        assert connection.recv(4096).startswith(b"HTTP/1.1 201 ")
    assert tus.patch(10, b"x" * 10).status_code == 204
    assert len(inspector.list_documents()) == 2
    assert put_file(wrong, "m", b"x").status_code == 201


def test_descriptor_exhaustion_is_survived(
    start_service: StartService, env: dict[str, str], inspector: MongoInspector
) -> None:
    """Case 101: rejected or served, never aborted; afterwards all succeed."""
    service = start_service("services.upload", **env)
    resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (64, 64))
    held: list[socket.socket] = []
    try:
        for _ in range(100):
            held += [socket.create_connection(("127.0.0.1", service.port), timeout=5)]
    finally:
        for connection in held:
            connection.close()
    eventually(lambda: put_file(service, "n", b"x" * CHUNK_SIZE).is_success, 10)
    eventually(inspector.has_no_garbage, 10)
