"""An upstream for tests of the gateway: it sends the bytes that a test scripts, and records the requests it receives.

It has its own strict request parser, so that what it received can be compared with what the gateway was sent. Fixtures:
`upstream`, `gateway` before it, and `short_timeout_gateway`, whose timeouts are 1 s. For clients: `send_request`,
`open_connection`, `send_raw`, `parse_statuses`.
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
GET_REQUEST = b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n"
GET_AND_CLOSE = b"GET /file HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@dataclass
class ReceivedRequest:
    """A request as it arrived; `complete` once its body is read. Header names are compared in lower case."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    complete: bool = False

    def get_all(self, name: str) -> list[str]:
        """All values of a header, named in lower case."""
        return [value for key, value in self.headers if key.lower() == name]

    def get(self, name: str) -> str | None:
        """The first value of a header."""
        return next(iter(self.get_all(name)), None)


Responder = Callable[[ReceivedRequest, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Reads the body if it wants to, and writes the response."""


async def respond_ok(request: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send 100 where the request expects it, read the body, send 200."""
    if request.get("expect"):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    await read_body(request, reader)
    writer.write(OK_RESPONSE.removesuffix(b"ok") if request.method == "HEAD" else OK_RESPONSE)


def respond_with(raw: bytes) -> Responder:
    """A responder that reads the body and sends these bytes."""

    async def respond(request: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(request, reader)
        writer.write(raw)

    return respond


async def never_respond(request: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read the request, send nothing, and end when the gateway closes the connection."""
    del writer
    await read_body(request, reader)
    assert not await reader.read(1)
    raise ConnectionError


async def read_body(request: ReceivedRequest, reader: asyncio.StreamReader) -> None:
    """Read the body into `request`. Raises ConnectionError where it breaks off."""
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
    """The upstream. `responder` may be changed at any time; /livez and /readyz are always 200 and not recorded.

    `parse_errors`: requests that are not well-formed HTTP/1.1, which the gateway must never send. `connection_count`: connections
    that have carried a recorded request. `health_checks`: requests of /livez.
    """

    port: int = field(default_factory=lambda: free_ports(1)[0])
    responder: Responder = respond_ok
    requests: list[ReceivedRequest] = field(default_factory=list)
    parse_errors: list[str] = field(default_factory=list)
    connection_count: int = 0
    active_requests: int = 0
    health_checks: int = 0

    @property
    def open_connections(self) -> int:
        """Connections of any kind that are open now."""
        return len(self._writers)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def reset(self) -> None:
        """Restore the default responder and forget recorded requests and errors."""
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
        """Abort every connection and close the port."""
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
        counted = False
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head[:-4].decode("utf-8", "surrogateescape").split("\r\n")
                method, target, version = first.split(" ")
                assert version == "HTTP/1.1"
                fields = [line.split(": ", 1) for line in lines]
                request = ReceivedRequest(method, target, [(name, value) for name, value in fields])
                if target in {"/livez", "/readyz"}:
                    writer.write(OK_RESPONSE)
                    self.health_checks += target == "/livez"
                    continue
                if not counted:  # health checks have connections of their own
                    counted = True
                    self.connection_count += 1
                self.requests.append(request)
                self.active_requests += 1
                try:
                    await self.responder(request, reader, writer)
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
    """Run an upstream in a thread and stop it at the end."""
    service = ScriptedUpstream()
    service.start()
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    """An upstream that the tests of a module share; see `ScriptedUpstream.reset`."""
    with run_upstream() as service:
        yield service


@pytest.fixture(scope="module")
def gateway(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A gateway with default settings before `upstream`. Fails where it has logged a traceback."""
    with run_service("gateway", tmp_path_factory.mktemp("gateway"), upstream_env(upstream)) as gateway:
        yield gateway
        assert "Traceback" not in gateway.log


@pytest.fixture(scope="module")
def short_timeout_gateway(
    upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    """A gateway whose timeouts are 1 s (3 s for a commit, 2 s for a silent publisher) and whose plain bodies end at 1 MB."""
    timeouts = {
        f"GRIDCAST_{name}_TIMEOUT": "1"
        for name in ("RESPONSE_HEADER", "CLIENT_BODY", "UPSTREAM_IDLE", "SEND", "CONNECT")
    }
    limits = {"GRIDCAST_COMMIT_TIMEOUT": "3", "GRIDCAST_MAX_BODY_SIZE": "1000000", "GRIDCAST_LIVE_BODY_TIMEOUT": "2"}
    with run_service(
        "gateway", tmp_path_factory.mktemp("hasty"), upstream_env(upstream) | timeouts | limits
    ) as gateway:
        yield gateway
        assert "Traceback" not in gateway.log


@dataclass(frozen=True)
class HttpResponse:
    """A response, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def send_request(
    port: int, method: str, target: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> HttpResponse:
    """Send one request on a connection of its own. An iterable body without Content-Length is sent chunked."""
    with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=10)) as connection:
        chunked = body is not None and not isinstance(body, bytes) and "Content-Length" not in (headers or {})
        connection.request(method, target, body, dict(headers or {}), encode_chunked=chunked)
        response = connection.getresponse()
        return HttpResponse(response.status, response.headers, response.read())


def upstream_env(*services: ScriptedUpstream) -> dict[str, str]:
    """The gateway's variables with these upstreams as the replicas of every service. Any Host is allowed: its form is tested."""
    urls = ",".join(service.url for service in services)
    return {f"GRIDCAST_{name}_URLS": urls for name in ("UPLOAD", "STREAM", "SOCKET", "LIVE")} | {
        "GRIDCAST_ALLOWED_HOSTS": "*"
    }


def open_connection(port: int, timeout: float = 10.0) -> socket.socket:
    """Connect to a loopback port, with Nagle's algorithm off."""
    client = socket.create_connection((HOST, port), timeout)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def send_raw(port: int, raw: bytes, timeout: float = 10.0) -> bytes:
    """Send `raw` and return everything received until the connection is closed."""
    with open_connection(port, timeout) as client:
        client.sendall(raw)
        return receive_until_closed(client)


def wait_for_access_log(gateway: ServiceProcess, status: int, count: int = 1) -> list[dict[str, Any]]:
    """Wait for `count` access log lines with that status and return the last ones; `time` in seconds since 1970.

    They carry the gateway's clock, which a busy machine delays less than that of a client that waits to be scheduled.
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
    """The statuses of the responses in `raw`, split by Content-Length, or without a body (HEAD) where the next one follows."""
    found = []
    while raw:
        head, separator, rest = raw.partition(b"\r\n\r\n")
        assert separator, f"no complete response in {raw!r}"
        lines = head.split(b"\r\n")
        found.append(int(lines[0].split(b" ")[1]))
        lengths = [int(line.split(b":")[1]) for line in lines[1:] if line.lower().startswith(b"content-length:")]
        raw = rest[lengths[0] if lengths and not rest.startswith(b"HTTP/1.1 ") else 0 :]
    return found
