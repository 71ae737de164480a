"""The memory limits of our deployments hold under the worst load that docs/operations.md names, with default settings.

After the load the memory comes back to 1.3 times that at rest, and what the caches hold by metric.
"""

import asyncio
import contextlib
import itertools
import os
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import yaml

from deploy.local.ports import free_ports
from gridcast.publish import Publisher
from services.live.settings import LiveSettings
from services.upload.settings import UploadSettings
from tests.support.databases import ServerProcess, storage_env
from tests.support.fragmented_mp4 import fragment, init
from tests.support.process_stats import anonymous_memory
from tests.support.processes import ServiceProcess, StartService
from tests.support.scripted_upstream import open_connection, send_request
from tests.support.waiting import eventually
from tests.support.websocket_client import connect_stalled_reader

MIB = 1 << 20
ROOT = Path(__file__).parents[2]
STOPPED_READERS = 500
"""Clients of one gateway that take nothing of a large file."""
WARM_UP_CONNECTIONS = STOPPED_READERS
"""Connections that a process has had before its memory at rest is measured: Python keeps memory for that many objects."""
DOWNLOADS = 8
"""Downloads at once of files that together are larger than the block cache."""
DOWNLOADED_FILES = 12
"""Of each of them, one after another: 2.3 GB, nine times what the cache holds."""
UPLOADS = UploadSettings.model_fields["max_concurrent_uploads"].default
"""Uploads that one process receives at once, while MongoDB stands still."""
PUBLISHERS = LiveSettings.model_fields["live_max_publishers"].default
"""Publishers of live streams at one process."""
STALLED_SOCKETS = 200
"""WebSocket clients of one replica that read nothing of what is pushed to each of them."""


def memory_limit(service: str) -> int:
    """The smaller one of the limits in docker-compose.yml and in the Kubernetes manifest, in bytes."""
    units = {"m": MIB, "Mi": MIB, "g": 1024 * MIB, "Gi": 1024 * MIB}
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"][service]["mem_limit"]
    manifests = yaml.safe_load_all((ROOT / "deploy/k8s/base" / f"{service}.yaml").read_text())
    containers = [
        container["resources"]["limits"]["memory"]
        for manifest in manifests
        if manifest["kind"] == "Deployment"
        for container in manifest["spec"]["template"]["spec"]["containers"]
    ]
    assert containers
    limits = [re.fullmatch(r"(\d+)(\w+)", text) for text in (compose, *containers)]
    return min(int(limit[1]) * units[limit[2]] for limit in limits if limit is not None)


@pytest.fixture
def env(mongod: ServerProcess, redis_url: str, database_name: str) -> dict[str, str]:
    return storage_env(mongod, redis_url, database_name)


@contextlib.contextmanager
def peak_of(service: ServiceProcess) -> Iterator[list[int]]:
    """Watch the memory of a process for the block; its only element is the largest value so far."""
    peak, ended = [anonymous_memory(service.pid)], threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            peak[0] = max(peak[0], anonymous_memory(service.pid))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield peak
    finally:
        ended.set()
        watching.join(10)


def settled_memory(service: ServiceProcess) -> int:
    """Return the memory once it has not fallen for eleven seconds: what was free at two looks, five seconds apart, is returned."""
    least, since = anonymous_memory(service.pid), time.monotonic()
    while time.monotonic() - since < 11:
        time.sleep(0.1)
        now = anonymous_memory(service.pid)
        if now < least - MIB:
            least, since = now, time.monotonic()
    return least


def wait_for_return(service: ServiceProcess, limit: float) -> None:
    """Wait until the memory is back to this many bytes; the failure states what it is."""

    def is_back() -> bool:
        memory = anonymous_memory(service.pid)
        assert memory <= limit, f"{memory / MIB:.1f} MiB, wanted at most {limit / MIB:.1f}"
        return True

    eventually(is_back, 60, "the memory is returned")


def warm_up(service: ServiceProcess) -> int:
    """Use the process with WARM_UP_CONNECTIONS at once; return the memory at rest."""
    with contextlib.ExitStack() as connections:
        clients = [connections.enter_context(open_connection(service.port)) for _ in range(WARM_UP_CONNECTIONS)]
        for client in clients:
            client.sendall(b"GET /file/stream?filename=0.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for client in clients:
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    return anonymous_memory(service.pid)


@pytest.mark.timeout(300)
def test_gateway_holds_its_limit_with_stopped_readers_and_returns_the_memory(
    start_service: StartService, env: dict[str, str]
) -> None:
    upload, stream = (start_service(f"services.{name}", **env) for name in ("upload", "stream"))
    gateway = start_service("gateway", ready=False, GRIDCAST_UPLOAD_URLS=upload.url, GRIDCAST_STREAM_URLS=stream.url)
    eventually(lambda: "running on" in gateway.log, 10)
    assert send_request(gateway.port, "PUT", "/file/stream?filename=0.bin", b"x").status == 201
    assert send_request(gateway.port, "PUT", "/file/stream?filename=1.bin", os.urandom(20 * MIB)).status == 201
    rest = warm_up(gateway)
    readers: list[socket.socket] = []
    with contextlib.ExitStack() as open_readers, peak_of(gateway) as peak:
        for _ in range(STOPPED_READERS):
            reader = open_readers.enter_context(open_connection(gateway.port))
            reader.sendall(b"GET /file/stream?filename=1.bin HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            readers.append(reader)
            reader.recv(1)
        still_since, before = time.monotonic(), peak[0]
        while time.monotonic() - still_since < 2:  # until no more is buffered
            time.sleep(0.1)
            if peak[0] > before:
                still_since, before = time.monotonic(), peak[0]
    print(f"gateway: rest {rest / MIB:.0f} MiB, {STOPPED_READERS} stopped readers {peak[0] / MIB:.0f} MiB")
    assert peak[0] < 0.9 * memory_limit("gateway")
    wait_for_return(gateway, 1.3 * rest)


@pytest.mark.timeout(300)
def test_stream_holds_its_limit_while_its_cache_overflows_and_returns_the_memory(
    start_service: StartService, env: dict[str, str]
) -> None:
    upload = start_service("services.upload", **env)
    metrics_port = free_ports(1)[0]
    stream = start_service("services.stream", **env, GRIDCAST_METRICS_PORT=str(metrics_port))
    sizes = {"0.bin": 1, **{f"{number}.bin": 24 * MIB for number in range(1, 17)}}
    for name, size in sizes.items():
        assert (
            httpx.put(f"{upload.url}/file/stream?filename={name}", content=os.urandom(size), timeout=60).status_code
            == 201
        )
    rest = warm_up(stream)

    def download(first: int) -> None:
        with httpx.Client(timeout=60) as client:
            for number in (index % 16 + 1 for index in range(first, first + DOWNLOADED_FILES)):
                with client.stream("GET", f"{stream.url}/file/stream?filename={number}.bin") as response:
                    assert sum(len(data) for data in response.iter_raw()) == sizes[f"{number}.bin"]

    def cached_bytes() -> int:
        text = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
        return int(float(text.split("\ngridcast_block_cache_bytes ")[1].split("\n")[0]))

    with ThreadPoolExecutor(DOWNLOADS) as pool, peak_of(stream) as peak:
        downloads = [pool.submit(download, 2 * number) for number in range(DOWNLOADS)]
        for one in downloads:
            one.result()
    cached = cached_bytes()
    print(f"stream: rest {rest / MIB:.0f}, peak {peak[0] / MIB:.0f}, cached {cached / MIB:.0f} MiB")
    assert cached > 200 * MIB
    assert peak[0] < 0.9 * memory_limit("stream")
    wait_for_return(stream, 1.3 * rest + cached)


@pytest.mark.timeout(300)
def test_upload_holds_its_limit_while_mongodb_stands_still_and_returns_the_memory(
    start_service: StartService, dedicated_mongod: ServerProcess, redis_url: str
) -> None:
    """Every upload fills its buffers, from six addresses: one address gets half of the places at most."""
    upload = start_service("services.upload", **storage_env(dedicated_mongod, redis_url, "memory"))
    body = os.urandom(12 * MIB)

    def send(number: int, size: int = len(body)) -> int:
        transport = httpx.HTTPTransport(local_address=f"127.0.0.{2 + number % 6}")
        with httpx.Client(transport=transport, timeout=120) as client:
            return client.put(f"{upload.url}/file/stream?filename={number}.bin", content=body[:size]).status_code

    with ThreadPoolExecutor(UPLOADS) as pool:
        assert set(pool.map(lambda number: send(number, 2 * MIB), range(UPLOADS, 2 * UPLOADS))) == {201}
    rest = settled_memory(upload)
    with ThreadPoolExecutor(UPLOADS) as pool, peak_of(upload) as peak:
        dedicated_mongod.pause()
        try:
            sent = [pool.submit(send, number) for number in range(UPLOADS)]
            still_since, before = time.monotonic(), peak[0]
            while time.monotonic() - still_since < 2:  # until no more is buffered
                time.sleep(0.1)
                if peak[0] > before:
                    still_since, before = time.monotonic(), peak[0]
        finally:
            dedicated_mongod.resume()
        statuses = [one.result() for one in sent]
    print(f"upload: rest {rest / MIB:.0f} MiB, {UPLOADS} uploads {peak[0] / MIB:.0f} MiB, {Counter(statuses)}")
    assert set(statuses) <= {201, 503}
    assert peak[0] < 0.9 * memory_limit("upload")
    wait_for_return(upload, 1.3 * rest)
    print(f"upload: after {anonymous_memory(upload.pid) / MIB:.0f} MiB")


@pytest.mark.timeout(300)
def test_live_holds_its_limit_while_mongodb_stands_still_and_returns_the_memory(
    start_service: StartService, dedicated_mongod: ServerProcess, redis_url: str
) -> None:
    """Every publisher sends large fragments as fast as they are taken, from six addresses as above."""
    store = storage_env(dedicated_mongod, redis_url, "memory")
    live = start_service("services.live", **store, GRIDCAST_LIVE_INTAKE_FACTOR="0")
    large = [init(), *(fragment(second, 1, fill=5 * MIB // 4) for second in range(5))]

    def publish(number: int, pieces: Iterable[bytes]) -> int:
        transport = httpx.HTTPTransport(local_address=f"127.0.0.{2 + number % 6}")
        with httpx.Client(transport=transport, timeout=120) as client:
            made = client.post(f"{live.url}/live", json={"filename": f"{number}.mp4"}).raise_for_status().json()
            token = {"authorization": f"Bearer {made['publish_token']}"}
            return client.post(f"{live.url}{made['media']}", content=iter(pieces), headers=token).status_code

    with ThreadPoolExecutor(PUBLISHERS) as pool:
        warm = [pool.submit(publish, number, large[:2]) for number in range(PUBLISHERS)]
        assert {one.result() for one in warm} == {204}
    rest = settled_memory(live)
    ready, full = threading.Barrier(PUBLISHERS + 1), threading.Event()

    def pieces() -> Iterator[bytes]:
        yield large[0]
        ready.wait(60)
        yield from itertools.takewhile(lambda _: not full.is_set(), large[1:])  # the rest would show nothing more

    with ThreadPoolExecutor(PUBLISHERS) as pool, peak_of(live) as peak:
        sent = [pool.submit(publish, number, pieces()) for number in range(PUBLISHERS, 2 * PUBLISHERS)]
        ready.wait(60)
        dedicated_mongod.pause()
        try:
            still_since, before = time.monotonic(), peak[0]
            while time.monotonic() - still_since < 2:  # until no more is buffered
                time.sleep(0.1)
                if peak[0] > before:
                    still_since, before = time.monotonic(), peak[0]
            full.set()
        finally:
            dedicated_mongod.resume()
        statuses = [one.result() for one in sent]
    print(f"live: rest {rest / MIB:.0f} MiB, {PUBLISHERS} publishers {peak[0] / MIB:.0f} MiB, {Counter(statuses)}")
    assert set(statuses) <= {204, 503}
    assert peak[0] < 0.9 * memory_limit("live")
    wait_for_return(live, 1.3 * rest)


@pytest.mark.anyio
@pytest.mark.timeout(300)
async def test_socket_holds_its_limit_with_stalled_readers_and_returns_the_memory(
    start_service: StartService, env: dict[str, str], redis_url: str
) -> None:
    sockets = start_service("services.socket", GRIDCAST_REDIS_URL=redis_url, GRIDCAST_HANDSHAKE_RATE="100000")
    with contextlib.ExitStack() as warm:
        for _ in range(STALLED_SOCKETS):
            warm.enter_context(connect_stalled_reader(sockets.port))
    rest = anonymous_memory(sockets.pid)
    with contextlib.ExitStack() as open_readers, peak_of(sockets) as peak:
        for _ in range(STALLED_SOCKETS):
            open_readers.enter_context(connect_stalled_reader(sockets.port))
        async with httpx.AsyncClient() as client:
            page = (await client.get(f"{sockets.url}/sockets?limit=1000")).json()
        sids = [entry["sid"] for entry in page["sockets"] if entry["state"] == "online"]
        assert len(sids) == STALLED_SOCKETS
        async with Publisher.from_url(redis_url, "/x") as push:
            for _ in range(24):
                await asyncio.gather(*(push.send(sid, "filler", "x" * 50_000) for sid in sids))
    print(f"socket: rest {rest / MIB:.0f} MiB, {STALLED_SOCKETS} stalled readers {peak[0] / MIB:.0f} MiB")
    assert peak[0] > rest + STALLED_SOCKETS * MIB / 2, "the queues were filled"
    assert peak[0] < 0.9 * memory_limit("socket")
    wait_for_return(sockets, 1.3 * rest)
