"""P13, graceful shutdown. At SIGTERM nothing new starts, active requests finish within the shutdown timeout or are aborted, and the
exit code is 0.

A client of an upload sees a finished 201, a 503 or an aborted connection, never a 500; no orphaned chunk stays.
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.support.databases import ServerProcess, storage_env
from tests.support.processes import ServiceProcess, StartService
from tests.support.raw_sockets import receive_until_closed
from tests.support.scripted_upstream import open_connection, send_request
from tests.support.sizes import BATCH_SIZE, CHUNK_SIZE
from tests.support.store_inspectors import MongoInspector, open_inspector
from tests.support.upload_client import (
    FORM_CONTENT_TYPE,
    TUS_HEADERS,
    TusUpload,
    form_body,
    form_part,
    tus_metadata,
)
from tests.support.waiting import eventually
from tests.support.websocket_client import WebSocketClient

SHUTDOWN_TIMEOUT = 3.0
KILL_MARGIN = 2.0
"""Seconds after the shutdown timeout within which the process has exited."""
SLACK = 1.0
"""Slack in seconds for a busy machine."""


@pytest.fixture
def env(mongod: ServerProcess, redis_url: str, database_name: str) -> dict[str, str]:
    more = {
        "GRIDCAST_SHUTDOWN_TIMEOUT": str(SHUTDOWN_TIMEOUT),
        "GRIDCAST_GC_INTERVAL": "0",
        "GRIDCAST_MIN_FREE_SPACE": "0",
    }
    return {**storage_env(mongod, redis_url, database_name), **more}


@pytest.fixture
def inspector(mongod: ServerProcess, database_name: str) -> Iterator[MongoInspector]:
    with open_inspector(mongod.url, database_name) as store:
        yield store


class TerminatingProcess:
    """A process that has been sent SIGTERM."""

    def __init__(self, service: ServiceProcess) -> None:
        self.service = service
        self.began = time.monotonic()
        service.child.send_signal(signal.SIGTERM)

    def assert_refuses_connections(self) -> None:
        """New connections are refused; probes take that for "not ready"."""

        def refused() -> bool:
            try:
                open_connection(self.service.port, 1.0).close()
            except ConnectionError:
                return True
            return False

        eventually(refused, 2.0, "new connections are refused")

    def wait_for_exit(self, timeout_seconds: float = SHUTDOWN_TIMEOUT + KILL_MARGIN + SLACK) -> float:
        """The seconds until its exit, which have a limit. A supervisor takes any exit code but 0 for a crash."""
        assert self.service.child.wait(20.0), "it does not end"
        took = time.monotonic() - self.began
        print(f"{self.service.child.program.name}: ended after {took:.1f} s, drain {SHUTDOWN_TIMEOUT:g} s")
        assert self.service.child.exit_summary().partition(":")[0].endswith(" ended with exit code 0")
        assert took < timeout_seconds
        assert "Traceback" not in self.service.log
        return took


def test_idle_services_stop_immediately(start_service: StartService, env: dict[str, str]) -> None:
    names = ("upload", "stream", "socket", "live")
    services = [start_service(f"services.{name}", **env) for name in names]
    urls = {f"GRIDCAST_{name.upper()}_URLS": one.url for name, one in zip(names, services, strict=True)}
    services.append(start_service("gateway", **env, **urls))
    with contextlib.ExitStack() as kept:
        for service in services:
            # A keep-alive connection is no active request.
            client = kept.enter_context(httpx.Client(base_url=service.url))
            assert client.get("/livez").status_code == 200
        for stopping in [TerminatingProcess(service) for service in services]:
            stopping.wait_for_exit(KILL_MARGIN + SLACK)


class PartialUpload:
    """A client during its upload: one and a half batches of its body are sent."""

    def __init__(self, way: str, name: str, port: int) -> None:
        self.name = name
        self.data = os.urandom(2 * BATCH_SIZE + CHUNK_SIZE)
        self.path = ""
        body = form_body(form_part("file", self.data, name)) if way == "form" else self.data
        first = {"form": "POST /file/upload", "put": f"PUT /file/stream?filename={name}"}.get(way, "")
        fields = f"Content-Type: {FORM_CONTENT_TYPE}\r\n" if way == "form" else ""
        if way == "patch":
            wanted = {**TUS_HEADERS, "Upload-Length": str(len(body)), "Upload-Metadata": tus_metadata(filename=name)}
            self.path = send_request(port, "POST", "/file/tus", headers=wanted).headers["location"]
            first = f"PATCH {self.path}"
            fields = "Tus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n"
        self.connection = open_connection(port, 30.0)
        head = f"{first} HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
        sent = BATCH_SIZE + BATCH_SIZE // 2
        self.connection.sendall(head.encode() + body[:sent])
        self.remaining = body[sent:]

    def receive_status(self) -> int:
        """The status; 0 where the connection was aborted."""
        raw = self.connection.recv(65536)
        return int(raw.split(b" ")[1]) if raw else 0

    def complete(self) -> int:
        self.connection.sendall(self.remaining)
        return self.receive_status()


UPLOAD_KINDS = ("form", "put", "patch")


@pytest.fixture
def start_partial_uploads(request: pytest.FixtureRequest) -> Iterator[Callable[[str, int], list[PartialUpload]]]:
    """A function `senders(kind, port)`: one client for each kind of upload."""
    with contextlib.ExitStack() as connections:

        def begin(kind: str, port: int) -> list[PartialUpload]:
            made = [PartialUpload(way, f"{way}-{kind}", port) for way in UPLOAD_KINDS]
            for one in made:
                connections.callback(one.connection.close)
            return made

        yield begin


def stored_files(store: MongoInspector) -> dict[str, bytes]:
    """The visible files by name."""
    return {
        one["filename"]: store.read_file(one["current"]["file"]) for one in store.list_documents() if one["current"]
    }


def test_uploads_finish_or_are_aborted_at_the_shutdown_timeout(
    start_service: StartService,
    env: dict[str, str],
    inspector: MongoInspector,
    start_partial_uploads: Callable[[str, int], list[PartialUpload]],
) -> None:
    """Three kinds of upload; of each one client that ends in time and one that stalls."""
    service = start_service("services.upload", **env)
    quick, stalled = (start_partial_uploads(kind, service.port) for kind in ("quick", "stalled"))
    eventually(lambda: inspector.count_chunks() >= 6 * 8, 30, "each has stored a batch")
    with httpx.Client(base_url=service.url) as kept:
        kept.get("/livez")
        stopping = TerminatingProcess(service)
        stopping.assert_refuses_connections()
        # An idle connection is closed, or a gateway would send new requests over it. No new connection is accepted.
        for method, path in (("GET", "/readyz"), ("PUT", "/file/stream?filename=late")):
            with pytest.raises(httpx.TransportError):
                kept.request(method, path, content=b"x" if method == "PUT" else None)
    assert [one.complete() for one in quick] == [201, 201, 204]
    assert {one.receive_status() for one in stalled} <= {0, 503}
    for one in stalled:
        one.connection.close()
    stopping.wait_for_exit()
    assert stored_files(inspector) == {one.name: one.data for one in quick}
    assert inspector.list_orphans() == []
    # What cannot be resumed is deleted, without any garbage collector.
    assert [one["filename"] for one in inspector.list_documents() if one["uploads"]] == ["patch-stalled"]
    tus = TusUpload(start_service("services.upload", **env))
    tus.path = stalled[2].path
    with tus.client:
        offset = tus.offset()
        assert offset >= BATCH_SIZE
        assert tus.patch(offset, stalled[2].data[offset:]).status_code == 204
    assert stored_files(inspector) == {one.name: one.data for one in (*quick, stalled[2])}


def test_idle_client_does_not_delay_the_shutdown(
    start_service: StartService,
    env: dict[str, str],
    inspector: MongoInspector,
    start_partial_uploads: Callable[[str, int], list[PartialUpload]],
) -> None:
    """It neither sends nor reads nor closes."""
    service = start_service("services.upload", **env)
    mute = start_partial_uploads("mute", service.port)
    eventually(lambda: inspector.count_chunks() >= 3 * 8, 30, "each has stored a batch")
    TerminatingProcess(service).wait_for_exit()
    assert {one.receive_status() for one in mute} <= {0, 503}


def test_downloads_finish_or_are_aborted_at_the_shutdown_timeout(
    start_service: StartService, env: dict[str, str]
) -> None:
    upload = start_service("services.upload", **env)
    stream = start_service("services.stream", **env)
    data = os.urandom(1024 * 1024) * 48
    assert httpx.put(f"{upload.url}/file/stream?filename=a.webm", content=data, timeout=60).status_code == 201
    get = b"GET /file/stream?filename=a.webm HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with open_connection(stream.port, 30.0) as quick, open_connection(stream.port, 30.0) as stalled:
        for client in (quick, stalled):
            client.sendall(get)
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        stopping = TerminatingProcess(stream)
        stopping.assert_refuses_connections()
        whole = count_body_bytes(quick, len(data))
        stopping.wait_for_exit()
        assert whole == len(data)
        # Fewer bytes than Content-Length: no client takes that for the whole file.
        assert len(receive_until_closed(stalled)) < len(data)


def count_body_bytes(client: socket.socket, length: int) -> int:
    """The bytes received before a close, up to `length`; the first thousand were read before, head included."""
    received = 1000
    while data := client.recv(1024 * 1024):
        received += len(data)
        if received >= length:
            return length
    return received


@pytest.mark.anyio
async def test_sockets_are_closed_with_service_restart(start_service: StartService, env: dict[str, str]) -> None:
    """Through the gateway. The replica sends 1012; a gateway that stops parses no frames, so its clients see 1006."""
    services = [start_service("services.socket", **env) for _ in range(2)]
    urls = ",".join(one.url for one in services)
    gateway = start_service("gateway", ready=False, **env, GRIDCAST_SOCKET_URLS=urls)
    eventually(lambda: "running on" in gateway.log, 30)
    clients = [await WebSocketClient.connect(gateway) for _ in range(6)]
    stopping = TerminatingProcess(services[0])
    first = {
        client: asyncio.create_task(client.wait_for_close_code(SHUTDOWN_TIMEOUT + KILL_MARGIN + SLACK))
        for client in clients
    }
    done, left = await asyncio.wait(first.values(), timeout=SHUTDOWN_TIMEOUT)
    assert Counter(one.result() for one in done) == {1012: 3}
    await asyncio.to_thread(stopping.wait_for_exit)
    ending = TerminatingProcess(gateway)
    assert Counter(await asyncio.gather(*left)) == {1006: 3}
    await asyncio.to_thread(ending.wait_for_exit)
