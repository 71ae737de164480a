"""Databases that are slow, away or emptied while a stream is received: what is acknowledged is there afterwards."""

import concurrent.futures
import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from services.common.store.limits import BLOCK_SIZE
from tests.support import process_stats
from tests.support.databases import ServerProcess, needs_server, storage_env
from tests.support.fragmented_mp4 import fragment, init
from tests.support.live_client import LiveClient, make_stream, media_of, read_file
from tests.support.processes import ServiceProcess, run_service
from tests.support.sizes import MIB
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


@pytest.mark.long
@needs_server
@pytest.mark.timeout(120)
def test_a_store_that_stays_away_ends_the_body_and_not_the_stream(
    services: tuple[ServiceProcess, ServiceProcess], dedicated_mongod: ServerProcess
) -> None:
    """Row 23: what waits is bounded, nothing more is read from the socket, and after 30 s it is 503. The stream goes on."""
    live, library = services
    client = make_stream(live)
    first = init() + b"".join(FRAGMENTS[:4])
    url = urlsplit(client.url)
    with socket.create_connection((url.hostname, url.port), timeout=60) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        head = f"POST {client.made['media']} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        connection.sendall(f"{head}Authorization: {client.auth['authorization']}\r\n\r\n".encode() + chunk(first))
        eventually(lambda: client.get()["segments"] >= 1, 10, "it is received")
        memory = process_stats.resident_memory(live.pid)
        dedicated_mongod.pause()
        began = time.monotonic()
        try:
            connection.settimeout(3)  # a service that reads takes a chunk in a millisecond
            sent = send_until_blocked(connection, 4, 64 * MIB)
            assert sent < 16 * MIB, "the buffers of both sockets, and 8 MiB at most"
            assert process_stats.resident_memory(live.pid) - memory < 24 * MIB
            connection.settimeout(60)
            answer = connection.recv(65536).lower()
            assert answer.startswith(b"http/1.1 503 ")
            assert b"\r\nretry-after: " in answer
            assert 25 < time.monotonic() - began < 60
        finally:
            dedicated_mongod.resume()
    eventually(lambda: client.get()["state"] == "interrupted", 30, "its publisher has gone")
    assert client.get()["duration"] >= 3
    eventually(lambda: client.post(init() + fragment(0, 2)).status_code == 204, 30, "the next body is taken")
    client.end()
    assert read_file(library, client)[BLOCK_SIZE:].startswith(media_of(first)[: -len(FRAGMENTS[3])])


def send_until_blocked(connection: socket.socket, at: int, most: int) -> int:
    """Send fragments from a second on, until the socket takes no more. Returns how many bytes it took."""
    sent = 0
    while sent < most:
        data = chunk(fragment(at, 1, fill=200_000))
        try:
            connection.sendall(data)
        except TimeoutError:
            break
        sent, at = sent + len(data), at + 1
    return sent


def chunk(data: bytes) -> bytes:
    """One chunk of a body (RFC 9112, 7.1)."""
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_publisher_that_trickles_is_cut_off(services: tuple[ServiceProcess, ServiceProcess]) -> None:
    """Row 36: fewer than 256 bytes a second for 30 s are 408, though each byte is progress; what came stays."""
    live, _ = services
    client = make_stream(live)
    url = urlsplit(client.url)
    with socket.create_connection((url.hostname, url.port), timeout=10) as connection:
        head = f"POST {client.made['media']} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        connection.sendall(f"{head}Authorization: {client.auth['authorization']}\r\n\r\n".encode())
        connection.sendall(chunk(init() + fragment(0, 2, fill=1000)[:-1000]))
        began, answer = time.monotonic(), b""
        connection.settimeout(0.5)
        rest = iter(fragment(0, 2, fill=1000)[-1000:])
        while not answer and time.monotonic() - began < 80:
            connection.sendall(chunk(bytes([next(rest)])))
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert 29 < time.monotonic() - began < 75
    assert client.get()["state"] == "waiting"
    assert client.post(init() + fragment(0, 2)).status_code == 204
