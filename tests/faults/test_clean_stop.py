"""P13, a clean stop. At SIGTERM nothing new begins, what is open ends within the drain time or is cut, and the exit code is 0.

A client of an upload sees a finished 201, a 503 or a cut connection, never a 500; no chunk stays that nobody owns.
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

from tests.support.databases import Server
from tests.support.media_library import environment
from tests.support.processes import Service, Start
from tests.support.scripted_upstream import ask, connect, drain
from tests.support.upload_client import BATCH, CHUNK, FORM_TYPE, TUS, Store, Tus, form, metadata, opened, part
from tests.support.waiting import eventually
from tests.support.websocket_client import Client

DRAIN = 3.0
PROMISED = 2.0
"""Seconds after the drain time in which the process is gone."""
ROOM = 1.0
"""For a machine that does other things meanwhile."""


@pytest.fixture
def env(mongod: Server, redis_url: str, database: str) -> dict[str, str]:
    more = {"GRIDCAST_SHUTDOWN_TIMEOUT": str(DRAIN), "GRIDCAST_GC_INTERVAL": "0", "GRIDCAST_MIN_FREE_SPACE": "0"}
    return {**environment(mongod, redis_url, database), **more}


@pytest.fixture
def store(mongod: Server, database: str) -> Iterator[Store]:
    with opened(mongod.uri, database) as store:
        yield store


class Stopping:
    """A process that was sent SIGTERM."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.began = time.monotonic()
        service.child.send_signal(signal.SIGTERM)

    def refuses(self) -> None:
        """Nobody new gets in; probes take that for "not ready"."""

        def refused() -> bool:
            try:
                connect(self.service.port, 1.0).close()
            except ConnectionError:
                return True
            return False

        eventually(refused, 2.0, "new connections are refused")

    def ended(self, within: float = DRAIN + PROMISED + ROOM) -> float:
        """The seconds that it took, for which there is a limit. A supervisor takes any exit code but 0 for a crash."""
        assert self.service.child.wait(20.0), "it does not end"
        took = time.monotonic() - self.began
        print(f"{self.service.child.program.name}: ended after {took:.1f} s, drain {DRAIN:g} s")
        assert self.service.child.exit_summary().partition(":")[0].endswith(" ended with exit code 0")
        assert took < within
        assert "Traceback" not in self.service.log
        return took


def test_who_has_nothing_to_do_ends_at_once(start_service: Start, env: dict[str, str]) -> None:
    services = [start_service(module, **env) for module in ("services.upload", "services.stream", "services.socket")]
    urls = {
        f"GRIDCAST_{name}_URLS": one.url for name, one in zip(("UPLOAD", "STREAM", "SOCKET"), services, strict=True)
    }
    services.append(start_service("gateway", **env, **urls))
    with contextlib.ExitStack() as kept:
        for service in services:
            # A kept connection is no work.
            client = kept.enter_context(httpx.Client(base_url=service.url))
            assert client.get("/livez").status_code == 200
        for stopping in [Stopping(service) for service in services]:
            stopping.ended(PROMISED + ROOM)


class Sender:
    """A client in the middle of an upload: a batch and a half of its body is sent."""

    def __init__(self, way: str, name: str, port: int) -> None:
        self.name = name
        self.data = os.urandom(2 * BATCH + CHUNK)
        self.path = ""
        body = form(part("file", self.data, name)) if way == "form" else self.data
        first = {"form": "POST /file/upload", "put": f"PUT /file/stream?filename={name}"}.get(way, "")
        fields = f"Content-Type: {FORM_TYPE}\r\n" if way == "form" else ""
        if way == "patch":
            wanted = {**TUS, "Upload-Length": str(len(body)), "Upload-Metadata": metadata(filename=name)}
            self.path = ask(port, "POST", "/file/tus", headers=wanted).headers["location"]
            first = f"PATCH {self.path}"
            fields = "Tus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n"
        self.connection = connect(port, 30.0)
        head = f"{first} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
        sent = BATCH + BATCH // 2
        self.connection.sendall(head.encode() + body[:sent])
        self.rest = body[sent:]

    def answer(self) -> int:
        """The status; 0 where the connection was cut."""
        raw = self.connection.recv(65536)
        return int(raw.split(b" ")[1]) if raw else 0

    def end(self) -> int:
        self.connection.sendall(self.rest)
        return self.answer()


WAYS = ("form", "put", "patch")


@pytest.fixture
def senders(request: pytest.FixtureRequest) -> Iterator[Callable[[str, int], list[Sender]]]:
    """A function `senders(kind, port)`: one client for each way of uploading."""
    with contextlib.ExitStack() as connections:

        def begin(kind: str, port: int) -> list[Sender]:
            made = [Sender(way, f"{way}-{kind}", port) for way in WAYS]
            for one in made:
                connections.callback(one.connection.close)
            return made

        yield begin


def stored(store: Store) -> dict[str, bytes]:
    """The visible files by name."""
    return {one["filename"]: store.bytes_in(one["current"]["file"]) for one in store.media() if one["current"]}


def test_uploads_end_or_are_taken_back(
    start_service: Start, env: dict[str, str], store: Store, senders: Callable[[str, int], list[Sender]]
) -> None:
    """Three ways of uploading; of each one client that ends in time and one that stalls."""
    service = start_service("services.upload", **env)
    quick, stalled = (senders(kind, service.port) for kind in ("quick", "stalled"))
    eventually(lambda: store.chunks() >= 6 * 8, 30, "each has stored a batch")
    with httpx.Client(base_url=service.url) as kept:
        kept.get("/livez")
        stopping = Stopping(service)
        stopping.refuses()
        # A connection that carried nothing is closed, or a gateway would send new work over it. Nobody gets another one.
        for ask_again in (lambda: kept.get("/readyz"), lambda: kept.put("/file/stream?filename=late", content=b"x")):
            with pytest.raises(httpx.TransportError):
                ask_again()
    assert [one.end() for one in quick] == [201, 201, 204]
    assert {one.answer() for one in stalled} <= {0, 503}
    for one in stalled:
        one.connection.close()
    stopping.ended()
    assert stored(store) == {one.name: one.data for one in quick}
    assert store.orphans() == []
    # What nobody can go on with is gone, without any janitor.
    assert [one["filename"] for one in store.media() if one["uploads"]] == ["patch-stalled"]
    tus = Tus(start_service("services.upload", **env))
    tus.path = stalled[2].path
    with tus.client:
        offset = tus.offset()
        assert offset >= BATCH
        assert tus.patch(offset, stalled[2].data[offset:]).status_code == 204
    assert stored(store) == {one.name: one.data for one in (*quick, stalled[2])}


def test_a_client_that_never_leaves_holds_nobody_up(
    start_service: Start, env: dict[str, str], store: Store, senders: Callable[[str, int], list[Sender]]
) -> None:
    """It neither sends nor reads nor closes."""
    service = start_service("services.upload", **env)
    mute = senders("mute", service.port)
    eventually(lambda: store.chunks() >= 3 * 8, 30, "each has stored a batch")
    Stopping(service).ended()
    assert {one.answer() for one in mute} <= {0, 503}


def test_downloads_end_or_are_cut(start_service: Start, env: dict[str, str]) -> None:
    upload = start_service("services.upload", **env)
    stream = start_service("services.stream", **env)
    data = os.urandom(1024 * 1024) * 48
    assert httpx.put(f"{upload.url}/file/stream?filename=a.webm", content=data, timeout=60).status_code == 201
    get = b"GET /file/stream?filename=a.webm HTTP/1.1\r\nHost: a\r\n\r\n"
    with connect(stream.port, 30.0) as quick, connect(stream.port, 30.0) as stalled:
        for client in (quick, stalled):
            client.sendall(get)
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        stopping = Stopping(stream)
        stopping.refuses()
        whole = http_body(quick, len(data))
        stopping.ended()
        assert whole == len(data)
        # Content-Length promised more than comes: no client takes that for the whole file.
        assert len(drain(stalled)) < len(data)


def http_body(client: socket.socket, length: int) -> int:
    """The bytes that come before a close, up to `length`; the first thousand were read, head included."""
    received = 1000
    while data := client.recv(1024 * 1024):
        received += len(data)
        if received >= length:
            return length
    return received


@pytest.mark.anyio
async def test_sockets_are_told_to_come_back(start_service: Start, env: dict[str, str]) -> None:
    """Through the gateway. It is the replica that says 1012; a gateway that stops knows no frames, so its clients see 1006."""
    services = [start_service("services.socket", **env) for _ in range(2)]
    urls = ",".join(one.url for one in services)
    gateway = start_service("gateway", ready=False, **env, GRIDCAST_SOCKET_URLS=urls)
    eventually(lambda: "running on" in gateway.log, 30)
    clients = [await Client.open(gateway) for _ in range(6)]
    stopping = Stopping(services[0])
    first = {client: asyncio.create_task(client.closed(DRAIN + PROMISED + ROOM)) for client in clients}
    done, left = await asyncio.wait(first.values(), timeout=DRAIN)
    assert Counter(one.result() for one in done) == {1012: 3}
    await asyncio.to_thread(stopping.ended)
    ending = Stopping(gateway)
    assert Counter(await asyncio.gather(*left)) == {1006: 3}
    await asyncio.to_thread(ending.ended)
