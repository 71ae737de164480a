"""Clients that stall, disconnect or are many, and databases that are killed or hang, against a running stream service."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.databases import ServerProcess, needs_server, storage_env
from tests.support.media_library import MediaServices, run_media_services
from tests.support.process_stats import cpu_seconds, resident_memory
from tests.support.processes import ServiceProcess, StartService
from tests.support.sizes import CHUNK_SIZE, MIB
from tests.support.waiting import eventually

CACHE_SIZE = 16 * MIB
BIG_FILE_SIZE = 64 * MIB


@pytest.fixture(scope="module")
def media_services(
    mongod: ServerProcess, redis_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MediaServices]:
    """A small cache and a short send timeout."""
    bounds = {"GRIDCAST_BLOCK_CACHE_SIZE": str(CACHE_SIZE), "GRIDCAST_SEND_TIMEOUT": "3"}
    folder = tmp_path_factory.mktemp("faults")
    with run_media_services(folder, mongod, redis_server.url, "test_stream_faults", **bounds) as lib:
        (folder / "big").write_bytes(os.urandom(MIB) * (BIG_FILE_SIZE // MIB))
        lib.put("big.webm", folder / "big")
        yield lib


def open_connections(service: ServiceProcess) -> int:
    """Sockets that the service has open with clients."""
    found = 0
    for descriptor in Path(f"/proc/{service.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found += str(descriptor.readlink()).startswith("socket:")
    return found


def send_download_request(service: ServiceProcess, name: str, *fields: str) -> socket.socket:
    """A client that has sent its request and reads nothing yet; its receive buffer is small."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    client.settimeout(20)
    head = [f"GET /file/stream?filename={name} HTTP/1.1", "Host: localhost", *fields, "", ""]
    try:
        client.connect(("127.0.0.1", service.port))
        client.sendall("\r\n".join(head).encode())
    except OSError:
        client.close()
        raise
    return client


def count_received_bytes(client: socket.socket) -> tuple[int, bool]:
    """Read to the end; return the number of bytes, and whether a reset ended them."""
    total = 0
    try:
        while piece := client.recv(1 << 20):
            total += len(piece)
    except ConnectionResetError:
        return total, True
    return total, False


def test_stalled_reader_is_disconnected_and_memory_stays_flat(media_services: MediaServices) -> None:
    """Case 53: the send timeout is 3 s here."""
    before = resident_memory(media_services.stream.pid)
    began = time.monotonic()
    with contextlib.closing(send_download_request(media_services.stream, "big.webm")) as client:
        eventually(lambda: "send timeout after 3 s" in media_services.stream.log, 8)
        assert time.monotonic() - began > 2.9
        assert resident_memory(media_services.stream.pid) - before < CACHE_SIZE + 24 * MIB
        assert count_received_bytes(client)[0] < BIG_FILE_SIZE


def test_pipelined_ranges_that_are_not_read_are_disconnected(media_services: MediaServices) -> None:
    """Case 53: each range is cached and fits into the buffer, but not all of those that are pipelined."""
    fields = {"range": "bytes=0-65535"}
    assert media_services.get("big.webm", fields).status_code == 206
    cut = media_services.stream.log.count("send timeout after")
    with contextlib.closing(send_download_request(media_services.stream, "big.webm", "Range: bytes=0-65535")) as client:
        request = b"GET /file/stream?filename=big.webm HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-65535\r\n\r\n"
        for _ in range(6):
            client.sendall(request * 25)
            time.sleep(0.1)
        eventually(lambda: media_services.stream.log.count("send timeout after") > cut, 8)
        total, reset = count_received_bytes(client)
    assert reset
    assert total < 151 * 65_536


def test_slow_reader_is_not_a_stalled_one(media_services: MediaServices) -> None:
    """It reads one block per second, longer than the send timeout altogether, and gets what it requested."""
    wanted = 8 * MIB
    with contextlib.closing(
        send_download_request(media_services.stream, "big.webm", f"Range: bytes=0-{wanted - 1}", "Connection: close")
    ) as client:
        total, deadline = 0, time.monotonic() + 5
        while time.monotonic() < deadline:
            total += len(client.recv(300_000))
            time.sleep(0.2)
        total += count_received_bytes(client)[0]
    assert total > wanted


def read_slowly(port: int, seconds: float) -> None:
    """A client reads 80 kB per second.

    Not less: over loopback, whose segments have 64 KiB, the kernel learns of what was read once in 130 KB. The buffer is set
    because the kernel may make it so large that a sixteenth of it, below which it reports nothing, is more than 3 s at this rate.
    """
    with contextlib.closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
        client.settimeout(10)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /file/stream?filename=big.webm HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert client.recv(8_000)
            time.sleep(0.1)


def test_slow_steady_reader_is_not_disconnected(media_services: MediaServices) -> None:
    """The socket is writable again after more than a megabyte was read, at this rate after 15 s."""
    eventually(lambda: open_connections(media_services.stream) < 40, 10)
    cut = media_services.stream.log.count("send timeout after")
    read_slowly(media_services.stream.port, 10)
    assert media_services.stream.log.count("send timeout after") == cut


@pytest.mark.long
def test_slow_steady_reader_is_not_disconnected_behind_the_gateway(
    media_services: MediaServices, start_service: StartService, mongod: ServerProcess, redis_url: str
) -> None:
    """The client of the service is then the gateway, which reads on when its own client has read something."""
    stream = start_service(
        "services.stream",
        **storage_env(mongod, redis_url, "test_stream_faults", GRIDCAST_SEND_TIMEOUT="6"),
    )
    gateway = start_service("gateway", ready=False, GRIDCAST_STREAM_URLS=stream.url)
    eventually(lambda: httpx.get(f"{gateway.url}/livez").is_success, 20)
    read_slowly(gateway.port, 20)
    assert "send timeout after" not in stream.log


def test_reader_that_pauses_and_resumes_gets_everything(media_services: MediaServices) -> None:
    """The cache has dropped its prefetched blocks by then, and the store has no cursor for it."""
    with contextlib.closing(send_download_request(media_services.stream, "big.webm", "Connection: close")) as client:
        first = client.recv(100_000)
        with httpx.stream("GET", media_services.url("big.webm")) as other:
            assert sum(map(len, other.iter_raw())) == BIG_FILE_SIZE
        total, reset = count_received_bytes(client)
    assert not reset
    assert len(first) + total > BIG_FILE_SIZE


def test_five_hundred_readers_disconnect_together(media_services: MediaServices) -> None:
    """Case 54: no cursor, no connection and no memory of theirs is left."""
    eventually(lambda: open_connections(media_services.stream) < 40, 10)
    with ThreadPoolExecutor(32) as pool:
        clients = list(pool.map(lambda _: send_download_request(media_services.stream, "big.webm"), range(500)))
        heads = list(pool.map(lambda client: client.recv(12), clients))
    assert heads == [b"HTTP/1.1 200"] * 500
    for client in clients:
        client.close()

    def all_gone() -> bool:
        status = media_services.db.client.admin.command("serverStatus")
        return status["metrics"]["cursor"]["open"]["total"] == 0 and open_connections(media_services.stream) < 40

    eventually(all_gone, 10)
    assert "Traceback" not in media_services.stream.log
    assert httpx.get(media_services.url("big.webm"), headers={"range": "bytes=0-9"}).status_code == 206


@pytest.mark.parametrize(
    ("readers", "mebibytes"), [(30, 128), pytest.param(100, 1024, marks=[pytest.mark.long, pytest.mark.timeout(600)])]
)
def test_stalled_readers_hold_one_block_each(
    media_services: MediaServices,
    start_service: StartService,
    mongod: ServerProcess,
    redis_url: str,
    tmp_path: Path,
    readers: int,
    mebibytes: int,
) -> None:
    """P6: however many stall, the service grows by no more than the cache size + 48 MiB. Each reads at another offset."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(MIB))
    name = f"stopped-{mebibytes}.webm"
    media_services.put(name, path)
    bound = 64 * MIB
    env = storage_env(mongod, redis_url, "test_stream_faults", GRIDCAST_BLOCK_CACHE_SIZE=str(bound))
    service = start_service("services.stream", **env)
    assert httpx.get(media_services.url(name, service=service), headers={"range": "bytes=0-0"}).status_code == 206
    before = resident_memory(service.pid)
    most = 0
    with contextlib.ExitStack() as open_clients:
        for number in range(readers):
            first = number * mebibytes * MIB // readers
            client = send_download_request(service, name, f"Range: bytes={first}-")
            open_clients.enter_context(contextlib.closing(client))
            client.recv(4096)
            most = max(most, resident_memory(service.pid))
        quiet = time.monotonic() + 3
        while time.monotonic() < quiet:
            most = max(most, resident_memory(service.pid))
            time.sleep(0.05)
    print(
        f"{readers} stopped readers of {mebibytes} MiB: +{(most - before) / MIB:.1f} MiB with a cache of {bound // MIB}"
    )
    assert most - before < bound + 48 * MIB


@pytest.mark.parametrize("asked", ["0-," * 10_000, "\t" * 15_000 + "x"], ids=["ranges", "tabs"])
def test_ten_thousand_ranges_are_cheap(media_services: MediaServices, asked: str) -> None:
    """Case 44, P9: under 20 ms of CPU, and no more than the file."""
    if media_services.get("small.webm", method="HEAD").status_code == 404:
        media_services.put("small.webm", os.urandom(5000))
    header = f"bytes={asked}"
    rounds = 20
    before = cpu_seconds(media_services.stream.pid)
    with httpx.Client() as client:
        for _ in range(rounds):
            answer = client.get(media_services.url("small.webm"), headers={"range": header})
            assert (answer.status_code, len(answer.content)) == (200, 5000)
    each = (cpu_seconds(media_services.stream.pid) - before) / rounds
    print(f"a header of {len(header)} characters: {each * 1000:.2f} ms of CPU")
    assert each < 0.02


def test_probe_reads_one_chunk(media_services: MediaServices) -> None:
    """By the database's own count of bytes sent."""
    media_services.put("probe.webm", os.urandom(40 * CHUNK_SIZE))

    def sent() -> int:
        return int(media_services.db.client.admin.command("serverStatus")["network"]["bytesOut"])

    idle = sent()
    own = sent() - idle
    before = sent()
    assert (
        media_services.get("probe.webm", {"range": f"bytes={10 * CHUNK_SIZE}-{10 * CHUNK_SIZE + 1}"}).status_code == 206
    )
    assert CHUNK_SIZE < sent() - before < CHUNK_SIZE + own * 3 + 64 * 1024


def test_redis_outages_do_not_affect_downloads(
    media_services: MediaServices, start_service: StartService, mongod: ServerProcess, dedicated_redis: ServerProcess
) -> None:
    """Ready all the time; while no invalidation can arrive nothing is cached, so every change is visible immediately."""
    service = start_service("services.stream", **storage_env(mongod, dedicated_redis.url, "test_stream_faults"))
    identifiers = [media_services.put(f"redis-{number}.txt", str(number).encode()) for number in range(2)]
    url = media_services.url("redis-0.txt", service=service)
    assert httpx.get(url).content == b"0"
    dedicated_redis.kill()
    eventually(lambda: "subscription lost" in service.log, 5)
    assert httpx.get(url).content == b"0"
    other = media_services.inspector.find_document("redis-1.txt")
    assert other is not None
    media_services.inspector.set_current("redis-0.txt", other["current"])
    assert httpx.get(url).content == b"1"
    assert service.is_ready()
    dedicated_redis.start()
    assert httpx.get(url).content == b"1"
    assert service.is_ready()
    assert len(set(identifiers)) == 2


def test_hanging_mongodb_is_503_in_time_and_recovers(
    start_service: StartService, dedicated_mongod: ServerProcess, redis_url: str, tmp_path: Path
) -> None:
    """Case 95. Cached blocks do not help where the file cannot be looked up."""
    del start_service
    with run_media_services(tmp_path, dedicated_mongod, redis_url, "silent") as lib:
        lib.put("a.webm", b"x" * 1000)
        assert lib.get("a.webm").status_code == 200
        dedicated_mongod.pause()
        time.sleep(1.1)
        began = time.monotonic()
        answer = httpx.get(lib.url("a.webm"), timeout=15)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert time.monotonic() - began < 10
        dedicated_mongod.resume()
        eventually(lambda: lib.get("a.webm").status_code == 200, 10)


def test_death_of_mongodb_aborts_the_download(dedicated_mongod: ServerProcess, redis_url: str, tmp_path: Path) -> None:
    """The promised bytes cannot be sent; after the restart every file is readable."""
    with run_media_services(
        tmp_path, dedicated_mongod, redis_url, "dying", GRIDCAST_BLOCK_CACHE_SIZE=str(CACHE_SIZE)
    ) as lib:
        (tmp_path / "big").write_bytes(os.urandom(MIB) * 64)
        lib.put("big.webm", tmp_path / "big")
        with contextlib.closing(send_download_request(lib.stream, "big.webm")) as client:
            client.recv(100_000)
            dedicated_mongod.kill()
            total, reset = count_received_bytes(client)
        assert total < 64 * MIB
        assert reset
        dedicated_mongod.start()
        eventually(lambda: len(lib.get("big.webm").content) == 64 * MIB, 20)
        assert "Traceback" not in lib.stream.log


def test_mongodb_restart_is_survived_by_a_paused_reader(
    dedicated_mongod: ServerProcess, redis_url: str, tmp_path: Path
) -> None:
    """It holds no cursor and no connection, so it is not affected."""
    with run_media_services(
        tmp_path, dedicated_mongod, redis_url, "paused", GRIDCAST_BLOCK_CACHE_SIZE=str(CACHE_SIZE)
    ) as lib:
        data = os.urandom(MIB) * 64
        (tmp_path / "big").write_bytes(data)
        lib.put("big.webm", tmp_path / "big")
        with contextlib.closing(send_download_request(lib.stream, "big.webm", "Connection: close")) as client:
            got = bytearray(client.recv(100_000))  # bytes would be copied with every piece
            time.sleep(0.5)  # until nothing is prefetched for it any more
            dedicated_mongod.kill()
            dedicated_mongod.start()
            while piece := client.recv(1 << 20):
                got += piece
        assert got.partition(b"\r\n\r\n")[2] == data
        assert "Traceback" not in lib.stream.log


def test_active_download_finishes_at_sigterm(
    media_services: MediaServices, start_service: StartService, mongod: ServerProcess, redis_url: str
) -> None:
    """P13: no new connection, the old one to its end, and an exit with 0."""
    env = storage_env(mongod, redis_url, "test_stream_faults", GRIDCAST_SHUTDOWN_TIMEOUT="20")
    service = start_service("services.stream", **env)
    with contextlib.closing(send_download_request(service, "big.webm", "Connection: close")) as client:
        first = client.recv(100_000)
        service.child.send_signal(signal.SIGTERM)

        def refused() -> bool:
            try:
                socket.create_connection(("127.0.0.1", service.port), 5).close()
            except ConnectionRefusedError:
                return True
            return False

        eventually(refused, 5)
        total, reset = count_received_bytes(client)
    assert not reset
    assert len(first) + total > BIG_FILE_SIZE
    assert service.child.wait(10)
    assert service.child.exit_summary().partition(":")[0].endswith(" ended with exit code 0")
    assert "Traceback" not in service.log


@needs_server
def test_request_waiting_for_the_store_at_sigterm_is_503(
    start_service: StartService, dedicated_mongod: ServerProcess, redis_url: str
) -> None:
    """When the time for draining is over; the file is being looked up then."""
    service = start_service(
        "services.stream", **storage_env(dedicated_mongod, redis_url, "waiting", GRIDCAST_SHUTDOWN_TIMEOUT="1")
    )
    dedicated_mongod.pause()
    with contextlib.closing(send_download_request(service, "a.webm")) as client:
        time.sleep(0.3)
        service.child.send_signal(signal.SIGTERM)
        assert client.recv(4096).startswith(b"HTTP/1.1 503 ")
    dedicated_mongod.resume()
    assert service.child.wait(15)
    assert "Traceback" not in service.log


def test_stalled_download_does_not_delay_the_shutdown(
    media_services: MediaServices, start_service: StartService, mongod: ServerProcess, redis_url: str
) -> None:
    """It is aborted at the shutdown timeout."""
    service = start_service(
        "services.stream", **storage_env(mongod, redis_url, "test_stream_faults", GRIDCAST_SHUTDOWN_TIMEOUT="1")
    )
    with contextlib.closing(send_download_request(service, "big.webm")) as client:
        client.recv(100)
        service.child.send_signal(signal.SIGTERM)
        assert service.child.wait(8)
        assert count_received_bytes(client)[0] < BIG_FILE_SIZE
    assert "Traceback" not in service.log
