"""Case 96, network faults between a service and a running Redis or MongoDB, and case 101 for reading.

Uploads with network faults to MongoDB are in test_upload_faults.
"""

import contextlib
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.databases import ServerProcess, storage_env
from tests.support.fault_proxy import Fault, FaultProxy, run_fault_proxy
from tests.support.processes import ServiceProcess, StartService
from tests.support.scripted_upstream import open_connection
from tests.support.sizes import CHUNK_SIZE, MIB
from tests.support.upload_client import put_file
from tests.support.waiting import eventually, eventually_async
from tests.support.websocket_client import WebSocketClient, push_message

FAULTS = [Fault.BLACK_HOLE, Fault.REFUSE, Fault.LATENCY]


def inject_fault(proxy: FaultProxy, fault: Fault) -> None:
    proxy.latency = 0.5
    proxy.fault = fault
    if fault is Fault.REFUSE:
        proxy.close_connections(reset=True)


def get_file(service: ServiceProcess, name: str) -> httpx.Response:
    return httpx.get(f"{service.url}/file/stream?filename={name}", headers={"Cache-Control": "no-cache"}, timeout=20)


@pytest.mark.parametrize("fault", FAULTS)
def test_reading_survives_mongodb_network_faults(
    start_service: StartService, mongod: ServerProcess, redis_url: str, database_name: str, fault: Fault
) -> None:
    """Half a second of latency fails nothing; other faults are 503 in time; an active download is complete or aborted."""
    env = storage_env(mongod, redis_url, database_name, GRIDCAST_GC_INTERVAL="0")
    upload = start_service("services.upload", **env)
    # More than fits into the buffers in between, so that some of it has to come late.
    data = os.urandom(MIB) * (4 if fault is Fault.LATENCY else 40)
    assert put_file(upload, "a", data).status_code == 201
    with run_fault_proxy(mongod.port) as wire:
        wired_env = {**env, "GRIDCAST_MONGODB_URI": f"mongodb://127.0.0.1:{wire.port}"}
        stream = start_service("services.stream", **wired_env, GRIDCAST_BLOCK_CACHE_SIZE=str(4 * MIB))
        with open_connection(stream.port, 30.0) as client:
            client.sendall(b"GET /file/stream?filename=a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            received = client.recv(65536)
            inject_fault(wire, fault)
            began = time.monotonic()
            with contextlib.suppress(ConnectionResetError):
                while piece := client.recv(MIB):
                    received += piece
            took = time.monotonic() - began
        body = received.partition(b"\r\n\r\n")[2]
        assert data.startswith(body)
        if fault is Fault.LATENCY:
            assert body == data
            assert get_file(stream, "a").content == data
        else:
            assert len(body) < len(data)
            assert took < 12
            answer = get_file(stream, "a")
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert answer.elapsed.total_seconds() < 10
        wire.fault = Fault.NONE
        eventually(lambda: get_file(stream, "a").content == data, 10)
        assert stream.is_ready()
        assert "Traceback" not in stream.log


@pytest.mark.parametrize("fault", FAULTS)
def test_files_are_served_while_the_redis_network_fails(
    start_service: StartService,
    mongod: ServerProcess,
    redis_server: ServerProcess,
    redis_url: str,
    database_name: str,
    fault: Fault,
) -> None:
    """Written and read as before, and ready: events are published later, and nothing is cached without invalidations."""
    del redis_url
    with run_fault_proxy(redis_server.port) as wire:
        env = storage_env(mongod, f"redis://127.0.0.1:{wire.port}/0", database_name, GRIDCAST_GC_INTERVAL="0.3")
        upload, stream = start_service("services.upload", **env), start_service("services.stream", **env)
        assert put_file(upload, "a", b"first").status_code == 201
        assert get_file(stream, "a").content == b"first"
        inject_fault(wire, fault)
        for number in range(3):
            content = f"number {number}".encode() * 1000
            began = time.monotonic()
            assert put_file(upload, "a", content).status_code == 200
            assert time.monotonic() - began < 10
        # A reader uses its cached metadata for a second at most.
        plain = f"{stream.url}/file/stream?filename=a"
        eventually(lambda: httpx.get(plain, timeout=20).content == content, 5)
        assert upload.is_ready()
        assert stream.is_ready()
        wire.fault = Fault.NONE
        assert put_file(upload, "a", b"last").status_code == 200
        eventually(lambda: httpx.get(plain, timeout=20).content == b"last", 5)
        assert "Traceback" not in upload.log + stream.log


@pytest.mark.anyio
@pytest.mark.parametrize("fault", FAULTS)
async def test_sockets_survive_redis_network_faults(
    start_service: StartService, dedicated_redis: ServerProcess, fault: Fault
) -> None:
    """They stay open, pushes are rejected in time or succeed, and afterwards the same connection receives events again."""
    async with contextlib.AsyncExitStack() as opened:
        wire = opened.enter_context(run_fault_proxy(dedicated_redis.port))
        service = start_service("services.socket", GRIDCAST_REDIS_URL=f"redis://127.0.0.1:{wire.port}/0")
        client = await WebSocketClient.connect(service)
        opened.push_async_callback(client.close)
        inject_fault(wire, fault)
        began = time.monotonic()
        answer = await push_message(service, client.sid, {"type": "t", "data": 1})
        assert time.monotonic() - began < 4
        assert answer.status_code in ({200, 503} if fault is Fault.LATENCY else {503})
        assert await client.send_command("well?") == {"pong": True}
        wire.fault = Fault.NONE

        async def heard() -> bool:
            return (await push_message(service, client.sid, {"type": "after"})).status_code == 200

        await eventually_async(heard, 10)
        await client.receive_event("after")
        assert service.is_ready()
        assert "Traceback" not in service.log


@pytest.fixture
def exit_stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as crowd:
        yield crowd


def test_reading_survives_descriptor_exhaustion(
    start_service: StartService,
    mongod: ServerProcess,
    redis_url: str,
    database_name: str,
    exit_stack: contextlib.ExitStack,
    tmp_path: Path,
) -> None:
    """Case 101: 64 descriptors and 100 connections. Accepted connections are served; afterwards all connections are."""
    del tmp_path
    env = storage_env(mongod, redis_url, database_name)
    upload, stream = start_service("services.upload", **env), start_service("services.stream", **env)
    data = os.urandom(3 * CHUNK_SIZE)
    assert put_file(upload, "a", data).status_code == 201
    resource.prlimit(stream.pid, resource.RLIMIT_NOFILE, (64, 64))
    for _ in range(100):
        with contextlib.suppress(OSError):
            exit_stack.enter_context(open_connection(stream.port, 5.0))
    with contextlib.suppress(httpx.HTTPError):
        answer = httpx.get(f"{stream.url}/file/stream?filename=a", timeout=3)
        assert answer.status_code == 503 or answer.content == data
    exit_stack.close()
    eventually(lambda: get_file(stream, "a").content == data, 15)
    assert stream.is_ready()
