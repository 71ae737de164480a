"""Concurrency, interruptions and memory with figures. Each has a short form; `-m long` runs the full figures."""

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.databases import ServerProcess, storage_env
from tests.support.process_stats import resident_memory
from tests.support.processes import ServiceProcess, StartService
from tests.support.sizes import BATCH_SIZE, CHUNK_SIZE, MIB
from tests.support.store_inspectors import MongoInspector, open_inspector
from tests.support.upload_client import (
    FORM_CONTENT_TYPE,
    OFFSET_CONTENT_TYPE,
    TUS_HEADERS,
    TusUpload,
    form_body,
    form_part,
    repr_digest,
    tus_metadata,
    unread_socket_bytes,
)
from tests.support.waiting import eventually


@pytest.fixture
def env(mongod: ServerProcess, redis_server: ServerProcess, database_name: str) -> dict[str, str]:
    return {
        **storage_env(mongod, redis_server.url, database_name),
        "GRIDCAST_SECOND_PURGE_DELAY": "0",
        "GRIDCAST_GC_INTERVAL": "1",
        "GRIDCAST_LOG_LEVEL": "warning",
    }


@pytest.fixture
def inspector(mongod: ServerProcess, database_name: str) -> Iterator[MongoInspector]:
    with open_inspector(mongod.url, database_name) as store:
        yield store


# P3: one file for one name.


def upload_concurrently(services: list[ServiceProcess], workers: int, names: int) -> None:
    """Forms, PUTs and tus creations with upload, on all replicas, all of one name concurrently."""
    limits = httpx.Limits(max_connections=workers)
    with httpx.Client(timeout=60, limits=limits) as client, ThreadPoolExecutor(workers) as pool:

        def one(name: str, number: int) -> tuple[int, bytes]:
            data = f"{name} {number}".encode() * (1 + number % 3)
            url = services[number % len(services)].url
            if number % 3 == 0:
                body = form_body(form_part("file", data, name), form_part("folder", b""))
                return client.post(
                    f"{url}/file/upload", content=body, headers={"content-type": FORM_CONTENT_TYPE}
                ).status_code, data
            if number % 3 == 1:
                answer = client.put(f"{url}/file/stream?filename={name}", content=data, headers={"if-none-match": "*"})
                return {412: 409}.get(answer.status_code, answer.status_code), data
            head = {
                **TUS_HEADERS,
                **OFFSET_CONTENT_TYPE,
                "upload-length": str(len(data)),
                "upload-metadata": tus_metadata(filename=name),
            }
            return client.post(f"{url}/file/tus", headers=head, content=data).status_code, data

        total: Counter[int] = Counter()
        for number in range(names):
            name = f"name-{number}"
            results = list(pool.map(lambda racer, name=name: one(name, racer), range(workers)))
            statuses = Counter(status for status, _ in results)
            assert statuses == {201: 1, 409: workers - 1}, f"{name}: {statuses}"
            total += statuses
    print(f"{workers} racers on each of {names} names: {dict(total)}")


def check_one_winner_each(store: MongoInspector, names: int) -> None:
    eventually(lambda: not any(document["uploads"] or document["doomed"] for document in store.list_documents()), 30)
    assert len(store.list_documents()) == names
    assert store.count_chunks() == names
    assert store.list_orphans() == []
    if isinstance(store, MongoInspector):
        assert store.db["fs.files"].count_documents({}) == names


def test_concurrent_uploads_of_one_name_have_one_winner(
    start_service: StartService, env: dict[str, str], inspector: MongoInspector
) -> None:
    upload_concurrently([start_service("services.upload", **env) for _ in range(2)], 50, 3)
    check_one_winner_each(inspector, 3)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_fifty_concurrent_uploads_of_each_of_a_hundred_names(
    start_service: StartService, env: dict[str, str], inspector: MongoInspector
) -> None:
    upload_concurrently([start_service("services.upload", **env) for _ in range(2)], 50, 100)
    check_one_winner_each(inspector, 100)


# P5: resumed after any interruption.


def resume_across_replicas(
    services: list[ServiceProcess], store: MongoInspector, size: int, cuts: int, *, read: bool
) -> None:
    """An upload interrupted at random offsets, each time resumed at another replica; bytes sent again are counted.

    With `read` the connection ends when the service has read what was sent. Without, a request may still lie unread at one replica
    while its client has resumed at the other: then the older one may even supersede the newer, and the client sends more again.
    """
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    data = os.urandom(size)
    tus = TusUpload(*services)
    name = f"{seed}.bin"
    assert tus.create(name, length=size).status_code == 201
    offset, at, again = 0, 0, 0
    for place in sorted(dice.sample(range(1, size), cuts)):
        sent = max(place, offset)
        with tus.open_patch(services[at], offset, size - offset) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(data[offset:sent])
            while read and unread_socket_bytes(services[at].port, connection):
                time.sleep(0.001)
        at = 1 - at
        # The first response counts: a client does not repeat the request.
        durable = tus.offset(at)
        assert durable >= offset
        offset, again = durable, max(again, sent - durable)
    while offset < size:
        answer = tus.patch(offset, data[offset:], at)
        assert answer.status_code in {204, 409}, answer.text
        offset = int(answer.headers["upload-offset"]) if answer.status_code == 204 else tus.offset(at)
    assert tus.head(at).headers["repr-digest"] == repr_digest(data)
    document = store.find_document(name)
    assert document is not None
    assert store.read_file(document["current"]["file"]) == data
    assert store.list_orphans() == []
    print(f"seed {seed}: {cuts} cuts of {size} bytes, {read=}: at most {again} bytes are sent again")
    assert not read or again <= CHUNK_SIZE


@pytest.mark.parametrize("read", [True, False])
def test_upload_is_interrupted_at_random_offsets(
    start_service: StartService, env: dict[str, str], inspector: MongoInspector, *, read: bool
) -> None:
    resume_across_replicas(
        [start_service("services.upload", **env) for _ in range(2)], inspector, 8 * MIB + 5, 10, read=read
    )


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("read", [True, False])
def test_256_mib_upload_interrupted_at_a_hundred_offsets(
    start_service: StartService, env: dict[str, str], inspector: MongoInspector, *, read: bool
) -> None:
    services = [start_service("services.upload", **env) for _ in range(2)]
    resume_across_replicas(services, inspector, 256 * MIB, 100, read=read)


def test_at_most_two_batches_are_sent_again_after_a_kill(
    start_service: StartService, env: dict[str, str], inspector: MongoInspector
) -> None:
    """Of the bytes that the service had read; here it reads all that was sent before it is killed."""
    other = start_service("services.upload", **env)
    data = os.urandom(6 * BATCH_SIZE)
    tus = TusUpload(other)
    tus.create(length=len(data) + 1)
    offset = 0
    for sent in (BATCH_SIZE + 5, 3 * BATCH_SIZE - 1, 5 * BATCH_SIZE + CHUNK_SIZE):
        killed = start_service("services.upload", **env)
        with tus.open_patch(killed, offset, len(data) + 1 - offset) as connection:
            connection.sendall(data[offset:sent])
            time.sleep(0.05)
            killed.child.send_signal(signal.SIGSTOP)
            read = sent - unread_socket_bytes(killed.port, connection)
            killed.child.send_signal(signal.SIGKILL)
            assert killed.child.wait(5)
        durable = tus.offset()
        print(f"killed after {read} bytes: {read - durable} are sent again")
        assert read - durable <= 2 * BATCH_SIZE + 4 * 65536  # the last term is what our HTTP server buffers
        offset = durable
    assert tus.patch(offset, data[offset:] + b"!").headers["repr-digest"] == repr_digest(data + b"!")


# P6: memory.


def memory_growth(service: ServiceProcess, sizes: list[int]) -> int:
    """The largest growth of the service's memory while files of these sizes are uploaded concurrently."""
    with httpx.Client(timeout=60) as client:  # warm up: every code path and thread has been used
        client.put(f"{service.url}/file/stream?filename=warm", content=bytes(3 * BATCH_SIZE))
    base = peak = resident_memory(service.pid)
    block = os.urandom(MIB)

    def send(number: int) -> int:
        pieces = (block for _ in range(sizes[number] // MIB))
        url = f"{service.url}/file/stream?filename=m{number}"
        return httpx.put(url, content=pieces, timeout=600).status_code

    with ThreadPoolExecutor(len(sizes)) as pool:
        sending = [pool.submit(send, number) for number in range(len(sizes))]
        while not all(task.done() for task in sending):
            peak = max(peak, resident_memory(service.pid))
            time.sleep(0.02)
        assert {task.result() for task in sending} <= {200, 201}
    print(f"{len(sizes)} of {sizes[0] // MIB} MiB: grew by {(peak - base) / MIB:.0f} MiB from {base / MIB:.0f}")
    return peak - base


def test_memory_of_concurrent_uploads_is_bounded(start_service: StartService, env: dict[str, str]) -> None:
    service = start_service("services.upload", **env)
    assert memory_growth(service, [192 * MIB]) <= 64 * MIB
    assert memory_growth(service, [16 * MIB] * 8) <= 120 * MIB


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_memory_for_one_5_gb_upload_and_for_twenty_uploads(
    start_service: StartService, env: dict[str, str], inspector: MongoInspector
) -> None:
    service = start_service("services.upload", **env)
    assert memory_growth(service, [5 * 1024 * MIB]) <= 64 * MIB
    inspector.clear()
    service = start_service("services.upload", **env)
    assert memory_growth(service, [256 * MIB] * 20) <= 200 * MIB
