"""A service that does what a test says, byte for byte, and remembers what it was sent. For tests of the gateway.

It parses requests by itself and strictly: what it saw is compared with what the gateway was sent. Fixtures: one such service, a
gateway before it, and one that soon loses patience.
"""

import asyncio
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from deploy.local.ports import HOST, free_ports
from tests.support.processes import ServiceProcess, run_service
from tests.support.raw_sockets import receive_until_closed
from tests.support.waiting import eventually

OK_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET_REQUEST = b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n"
GET_AND_CLOSE = b"GET /file HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@dataclass
class ReceivedRequest:
    """One request as it arrived."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    complete: bool = False

    def get_all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]

    def get(self, name: str) -> str | None:
        return next(iter(self.get_all(name)), None)


Responder = Callable[[ReceivedRequest, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def respond_ok(request: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads the body, after 100 where the client waits for that, then 200."""
    if request.get("expect"):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    await read_body(request, reader)
    writer.write(OK_RESPONSE.removesuffix(b"ok") if request.method == "HEAD" else OK_RESPONSE)


def respond_with(raw: bytes) -> Responder:
    """Reads the body, then these bytes."""

    async def answer(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        writer.write(raw)

    return answer


async def never_respond(request: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes the request, never answers, notices when it is given up."""
    del writer
    await read_body(request, reader)
    assert not await reader.read(1)
    raise ConnectionError


async def read_body(request: ReceivedRequest, reader: asyncio.StreamReader) -> None:
    if (length := request.get("content-length")) is not None:
        while len(request.body) < int(length):
            data = await reader.read(min(65536, int(length) - len(request.body)))
            if not data:
                raise ConnectionError("the body broke off")
            request.body += data
    elif request.get("transfer-encoding") == "chunked":
        while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
            request.body += await reader.readexactly(size)
            assert await reader.readexactly(2) == b"\r\n"
        assert await reader.readexactly(2) == b"\r\n"
    request.complete = True


@dataclass
class ScriptedUpstream:
    """The service. `answer` may be changed at any time; /livez and /readyz are always 200 and not remembered.

    `broken`: what it could not parse, which is a fault of whoever sent it.
    """

    port: int = field(default_factory=lambda: free_ports(1)[0])
    responder: Responder = respond_ok
    requests: list[ReceivedRequest] = field(default_factory=list)
    parse_errors: list[str] = field(default_factory=list)
    connection_count: int = 0
    active_requests: int = 0

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def reset(self) -> None:
        self.responder = respond_ok
        self.requests.clear()
        self.parse_errors.clear()

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
        self.loop.run_until_complete(_cancel_remaining_tasks())
        self.loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connection_count += 1
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head[:-4].decode("utf-8", "surrogateescape").split("\r\n")
                method, target, version = first.split(" ")
                assert version == "HTTP/1.1"
                seen = ReceivedRequest(method, target, [tuple(line.split(": ", 1)) for line in lines])  # type: ignore[misc]
                if target in {"/livez", "/readyz"}:
                    writer.write(OK_RESPONSE)
                    continue
                self.requests.append(seen)
                self.active_requests += 1
                try:
                    await self.responder(seen, reader, writer)
                finally:
                    self.active_requests -= 1
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except (AssertionError, ValueError, asyncio.LimitOverrunError) as error:
            self.parse_errors.append(repr(error))
        finally:
            self._writers.discard(writer)
            writer.close()


async def _cancel_remaining_tasks() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


@contextlib.contextmanager
def run_upstream() -> Iterator[ScriptedUpstream]:
    service = ScriptedUpstream()
    service.start()
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    """One that every test of a module may change; see `Upstream.reset`."""
    with run_upstream() as service:
        yield service


@pytest.fixture(scope="module")
def gateway(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A gateway with the settings that it comes with. A module that needs another one has its own."""
    with run_service("gateway", tmp_path_factory.mktemp("gateway"), upstream_env(upstream)) as gateway:
        yield gateway
        assert "Traceback" not in gateway.log


@pytest.fixture(scope="module")
def short_timeout_gateway(
    upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    """A gateway that waits for nobody longer than a second or so."""
    patience = {
        f"GRIDCAST_{name}_TIMEOUT": "1"
        for name in ("RESPONSE_HEADER", "CLIENT_BODY", "UPSTREAM_IDLE", "SEND", "CONNECT")
    }
    limits = {"GRIDCAST_COMMIT_TIMEOUT": "3", "GRIDCAST_MAX_BODY_SIZE": "1000000"}
    with run_service(
        "gateway", tmp_path_factory.mktemp("hasty"), upstream_env(upstream) | patience | limits
    ) as gateway:
        yield gateway
        assert "Traceback" not in gateway.log


@dataclass(frozen=True)
class HttpResponse:
    """An answer, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def send_request(
    port: int, method: str, target: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> HttpResponse:
    """One request on a connection of its own. An iterable body without Content-Length is sent in chunks."""
    with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=10)) as connection:
        chunked = body is not None and not isinstance(body, bytes) and "Content-Length" not in (headers or {})
        connection.request(method, target, body, dict(headers or {}), encode_chunked=chunked)
        answer = connection.getresponse()
        return HttpResponse(answer.status, answer.headers, answer.read())


def upstream_env(*services: ScriptedUpstream) -> dict[str, str]:
    """The gateway's environment with these as the replicas of every service."""
    urls = ",".join(service.url for service in services)
    return {f"GRIDCAST_{name}_URLS": urls for name in ("UPLOAD", "STREAM", "SOCKET")}


def open_connection(port: int, timeout: float = 10.0) -> socket.socket:
    client = socket.create_connection((HOST, port), timeout)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def send_raw(port: int, raw: bytes, timeout: float = 10.0) -> bytes:
    """All that is answered to `raw` until the connection is closed."""
    with open_connection(port, timeout) as client:
        client.sendall(raw)
        return receive_until_closed(client)


def wait_for_access_log(gateway: ServiceProcess, status: int, count: int = 1) -> list[dict[str, Any]]:
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


def parse_statuses(raw: bytes) -> list[int]:
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
