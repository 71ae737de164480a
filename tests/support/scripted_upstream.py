"""A service that does what a test says, byte for byte, and remembers what it was sent. For tests of the gateway.

It parses requests by itself and strictly: what it saw is compared with what the gateway was sent. Fixtures: one such service, a
gateway before it, and one that soon loses patience.
"""

import asyncio
import contextlib
import http.client
import json
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from deploy.local.ports import HOST, free_ports
from tests.support.processes import Service, launched
from tests.support.waiting import eventually

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /file HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    target: str
    fields: list[tuple[str, str]]
    body: bytes = b""
    whole: bool = False

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name]

    def get(self, name: str) -> str | None:
        return next(iter(self.all(name)), None)


Answer = Callable[[Seen, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def say_ok(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads the body, after 100 where the client waits for that, then 200."""
    if seen.get("expect"):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    await read_body(seen, reader)
    writer.write(OK.removesuffix(b"ok") if seen.method == "HEAD" else OK)


def say(raw: bytes) -> Answer:
    """Reads the body, then these bytes."""

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        writer.write(raw)

    return answer


async def silent(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes the request, never answers, notices when it is given up."""
    del writer
    await read_body(seen, reader)
    assert not await reader.read(1)
    raise ConnectionError


async def read_body(seen: Seen, reader: asyncio.StreamReader) -> None:
    if (length := seen.get("content-length")) is not None:
        while len(seen.body) < int(length):
            data = await reader.read(min(65536, int(length) - len(seen.body)))
            if not data:
                raise ConnectionError("the body broke off")
            seen.body += data
    elif seen.get("transfer-encoding") == "chunked":
        while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
            seen.body += await reader.readexactly(size)
            assert await reader.readexactly(2) == b"\r\n"
        assert await reader.readexactly(2) == b"\r\n"
    seen.whole = True


@dataclass
class Upstream:
    """The service. `answer` may be changed at any time; /livez and /readyz are always 200 and not remembered.

    `broken`: what it could not parse, which is a fault of whoever sent it.
    """

    port: int = field(default_factory=lambda: free_ports(1)[0])
    answer: Answer = say_ok
    requests: list[Seen] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    connections: int = 0
    busy: int = 0

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def reset(self) -> None:
        self.answer = say_ok
        self.requests.clear()
        self.broken.clear()

    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(5)

    def stop(self) -> None:
        """Every connection is cut and the port is closed."""
        self.loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join(5)

    def _run(self, started: threading.Event) -> None:
        async def main() -> None:
            server = await asyncio.start_server(self._serve, HOST, self.port, limit=1 << 20)
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                server.close()
                for writer in list(self._writers):
                    writer.transport.abort()

        self._writers: set[asyncio.StreamWriter] = set()
        self._main = self.loop.create_task(main())
        with contextlib.suppress(asyncio.CancelledError):
            self.loop.run_until_complete(self._main)
        self.loop.run_until_complete(_cancel_the_rest())
        self.loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head[:-4].decode("utf-8", "surrogateescape").split("\r\n")
                method, target, version = first.split(" ")
                assert version == "HTTP/1.1"
                seen = Seen(method, target, [tuple(line.split(": ", 1)) for line in lines])  # type: ignore[misc]
                if target in {"/livez", "/readyz"}:
                    writer.write(OK)
                    continue
                self.requests.append(seen)
                self.busy += 1
                try:
                    await self.answer(seen, reader, writer)
                finally:
                    self.busy -= 1
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except (AssertionError, ValueError, asyncio.LimitOverrunError) as error:
            self.broken.append(repr(error))
        finally:
            self._writers.discard(writer)
            writer.close()


async def _cancel_the_rest() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


@contextlib.contextmanager
def upstream() -> Iterator[Upstream]:
    service = Upstream()
    service.start()
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="module")
def service() -> Iterator[Upstream]:
    """One that every test of a module may change; see `Upstream.reset`."""
    with upstream() as service:
        yield service


@pytest.fixture(scope="module")
def gateway(service: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A gateway with the settings that it comes with. A module that needs another one has its own."""
    with launched("gateway", tmp_path_factory.mktemp("gateway"), addresses(service)) as gateway:
        yield gateway
        assert "Traceback" not in gateway.log


@pytest.fixture(scope="module")
def hasty(service: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A gateway that waits for nobody longer than a second or so."""
    patience = {
        f"GRIDCAST_{name}_TIMEOUT": "1"
        for name in ("RESPONSE_HEADER", "CLIENT_BODY", "UPSTREAM_IDLE", "SEND", "CONNECT")
    }
    limits = {"GRIDCAST_COMMIT_TIMEOUT": "3", "GRIDCAST_MAX_BODY_SIZE": "1000000"}
    with launched("gateway", tmp_path_factory.mktemp("hasty"), addresses(service) | patience | limits) as gateway:
        yield gateway
        assert "Traceback" not in gateway.log


@dataclass(frozen=True)
class Reply:
    """An answer, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(port: int, method: str, target: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
    """One request on a connection of its own. An iterable body without Content-Length is sent in chunks."""
    with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=10)) as connection:
        chunked = body is not None and not isinstance(body, bytes) and "Content-Length" not in (headers or {})
        connection.request(method, target, body, dict(headers or {}), encode_chunked=chunked)
        answer = connection.getresponse()
        return Reply(answer.status, answer.headers, answer.read())


def addresses(*services: Upstream) -> dict[str, str]:
    """The gateway's environment with these as the replicas of every service."""
    urls = ",".join(service.url for service in services)
    return {f"GRIDCAST_{name}_URLS": urls for name in ("UPLOAD", "STREAM", "SOCKET")}


def connect(port: int, timeout: float = 10.0) -> socket.socket:
    client = socket.create_connection((HOST, port), timeout)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def talk(port: int, raw: bytes, timeout: float = 10.0) -> bytes:
    """All that is answered to `raw` until the connection is closed."""
    with connect(port, timeout) as client:
        client.sendall(raw)
        return drain(client)


def drain(client: socket.socket) -> bytes:
    """All that still comes; a reset ends it too."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(65536):
            received += data
    return received


def read_to_the_end(client: socket.socket) -> None:
    """As `drain`, but a reset is raised."""
    while client.recv(65536):
        pass


def logged(gateway: Service, status: int, count: int = 1) -> list[dict[str, Any]]:
    """The last lines in its log about answers with that status; `time` in seconds since 1970.

    They carry the gateway's own clock, which a busy machine delays less than the clock of a client that waits for its turn.
    """

    def lines() -> list[dict[str, Any]] | None:
        found = [
            json.loads(line)
            for line in gateway.log.splitlines()
            if line.endswith("}") and f'"status": {status},' in line
        ]
        return found[-count:] if len(found) >= count else None

    found = eventually(lines, 5, f"{count} lines with {status}")
    return [{**line, "time": datetime.fromisoformat(line["time"]).timestamp()} for line in found]


def memory(pid: int) -> int:
    """Resident bytes."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:  # noqa: PTH123 - not a file of ours
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def statuses(raw: bytes) -> list[int]:
    """The statuses of the answers in `raw`, judged by Content-Length and by what follows: a HEAD is answered without a body."""
    found = []
    while raw:
        head, separator, rest = raw.partition(b"\r\n\r\n")
        assert separator, f"no complete answer in {raw!r}"
        lines = head.split(b"\r\n")
        found.append(int(lines[0].split(b" ")[1]))
        lengths = [int(line.split(b":")[1]) for line in lines[1:] if line.lower().startswith(b"content-length:")]
        raw = rest[lengths[0] if lengths and not rest.startswith(b"HTTP/1.1 ") else 0 :]
    return found
