"""The gateway's tunnel before a real WebSocket server: messages and close codes of one side arrive at the other."""

import asyncio
import contextlib
import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Request, Response

from tests.support.process_stats import resident_memory
from tests.support.processes import ServiceProcess, run_service
from tests.support.raw_sockets import WEBSOCKET_HANDSHAKE, receive_until_closed
from tests.support.scripted_upstream import (
    ReceivedRequest,
    open_connection,
    parse_statuses,
    run_upstream,
    send_raw,
    upstream_env,
)
from tests.support.waiting import eventually, eventually_async

pytestmark = pytest.mark.anyio

CLOSE_CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]


class EchoServer:
    """A WebSocket service in a thread of its own: it echoes or runs `handler`, and records how its sockets ended."""

    def __init__(self) -> None:
        self.handler: Callable[[ServerConnection], Awaitable[None]] | None = None
        self.ended: list[tuple[int | None, str | None]] = []
        self.heads: list[dict[str, str]] = []
        self.open = 0
        self.port = 0

    async def _handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.open += 1
        self.heads.append({name.lower(): value for name, value in connection.request.headers.raw_items()})
        try:
            if self.handler is not None:
                await self.handler(connection)
            else:
                async for message in connection:
                    await connection.send(message)
        except ConnectionClosed:
            pass
        finally:
            await connection.wait_closed()
            self.ended.append((connection.close_code, connection.close_reason))
            self.open -= 1

    async def run(self, started: threading.Event) -> None:
        self.stop = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        server: Server
        async with serve(
            self._handle,
            "127.0.0.1",
            0,
            max_size=1 << 26,
            process_request=self._health,
            ping_interval=None,
            compression=None,
        ) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            self.server = server
            started.set()
            await self.stop.wait()

    async def _health(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.path == "/readyz":
            return connection.respond(200, "ok")
        if "refuse" in request.path:
            return connection.respond(403, "not you")
        return None


@pytest.fixture(scope="module")
def echo_server() -> Iterator[EchoServer]:
    service = EchoServer()
    started = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(service.run(started)), daemon=True)
    thread.start()
    assert started.wait(5)
    yield service
    service.loop.call_soon_threadsafe(service.stop.set)
    thread.join(5)


@pytest.fixture(scope="module")
def gateway_process(echo_server: EchoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    url = f"http://127.0.0.1:{echo_server.port}"
    env = {f"GRIDCAST_{name}_URLS": url for name in ("UPLOAD", "STREAM", "SOCKET", "LIVE")}
    with run_service("gateway", tmp_path_factory.mktemp("gateway"), env) as gateway:
        yield gateway
        assert "Traceback" not in gateway.log


@pytest.fixture
def gateway(gateway_process: ServiceProcess, echo_server: EchoServer) -> ServiceProcess:
    eventually(lambda: echo_server.open == 0, 5, "the sockets of the test before are over")
    echo_server.handler = None
    echo_server.ended.clear()
    echo_server.heads.clear()
    return gateway_process


@contextlib.asynccontextmanager
async def connect_client(
    gateway: ServiceProcess, path: str = "/ws", **options: object
) -> AsyncIterator[ClientConnection]:
    settings = {"proxy": None, "ping_interval": None, "max_size": 1 << 26, "compression": None} | options
    async with connect(f"ws://127.0.0.1:{gateway.port}{path}", **settings) as connection:  # type: ignore[arg-type]
        yield connection


@pytest.mark.parametrize("path", ["/", "/ws", "/ws?topics=a,b&meta=%7B%7D", "/?resume=x"])
async def test_messages_are_echoed_unchanged(gateway: ServiceProcess, echo_server: EchoServer, path: str) -> None:
    async with connect_client(gateway, path) as connection:
        for message in ("héllo", b"\x00\xff", "", "x" * 70_000):
            await connection.send(message)
            assert await connection.recv() == message
    assert echo_server.heads[0]["host"] == f"127.0.0.1:{gateway.port}"


async def test_fragments_pings_and_pongs_pass(gateway: ServiceProcess) -> None:
    async with connect_client(gateway) as connection:
        await connection.send(["a", "b", "c"])
        assert await connection.recv() == "abc"
        for payload in (b"", b"x" * 125):
            await asyncio.wait_for(await connection.ping(payload), 5)


async def test_large_message_and_many_small_ones_pass(gateway: ServiceProcess) -> None:
    async with connect_client(gateway) as connection:
        big = os.urandom(16 * 1024 * 1024)
        await connection.send(big)
        assert await connection.recv() == big

        async def send() -> None:
            for number in range(5000):
                await connection.send(str(number))

        sending = asyncio.create_task(send())
        for number in range(5000):
            assert await connection.recv() == str(number)
        await sending


async def test_compression_is_negotiated_end_to_end(gateway: ServiceProcess) -> None:
    async with connect_client(gateway, compression="deflate") as connection:
        assert not connection.protocol.extensions, "the service offers none"


@pytest.mark.parametrize("code", CLOSE_CODES)
async def test_the_clients_close_code_arrives(gateway: ServiceProcess, echo_server: EchoServer, code: int) -> None:
    reason = "wärum" * 20
    async with connect_client(gateway) as connection:
        # In raw bytes: the library refuses to send some of these.
        connection.transport.write(Frame(Opcode.CLOSE, Close(code, reason).serialize()).serialize(mask=True))
        await connection.wait_closed()
    await eventually_async(lambda: echo_server.ended, 5)
    assert echo_server.ended == [(code, reason)]


@pytest.mark.parametrize("code", CLOSE_CODES)
async def test_the_services_close_code_arrives(gateway: ServiceProcess, echo_server: EchoServer, code: int) -> None:
    async def close(connection: ServerConnection) -> None:
        await connection.recv()
        connection.protocol.send_close(code, "because")
        connection.send_data()

    echo_server.handler = close
    async with connect_client(gateway) as connection:
        await connection.send("x")
        with pytest.raises(ConnectionClosed):
            await connection.recv()
    assert (connection.close_code, connection.close_reason) == (code, "because")


async def test_close_without_a_code_has_none_at_the_other_end(gateway: ServiceProcess, echo_server: EchoServer) -> None:
    async with connect_client(gateway) as connection:
        connection.protocol.send_close()
        connection.send_data()
        await connection.wait_closed()
    await eventually_async(lambda: echo_server.ended, 5)
    assert echo_server.ended == [(1005, "")]


async def test_handshake_headers_are_rebuilt(gateway: ServiceProcess, echo_server: EchoServer) -> None:
    headers = {"X-Forwarded-For": "6.6.6.6", "X-Request-ID": "ws-1", "Origin": f"http://127.0.0.1:{gateway.port}"}
    async with connect_client(gateway, subprotocols=["cloudevents.json"], additional_headers=headers):
        pass
    (head,) = echo_server.heads
    assert head["x-forwarded-for"] == "127.0.0.1"
    assert head["x-request-id"] != "ws-1", "a client's request id is not trusted"
    assert head["sec-websocket-protocol"] == "cloudevents.json"
    assert head["origin"] == headers["Origin"]
    await eventually_async(lambda: f'"request_id": "{head["x-request-id"]}"' in gateway.log, 5)


async def test_query_secret_is_not_logged(gateway: ServiceProcess) -> None:
    async with connect_client(gateway, "/ws?resume=geheim"):
        pass
    await eventually_async(lambda: gateway.log.count('"message": "websocket tunnel"'), 5)
    assert "geheim" not in gateway.log


async def test_handshake_rejection_of_the_service_reaches_the_client(gateway: ServiceProcess) -> None:
    refused = await connect_refused(gateway, "/ws?refuse")
    assert refused.status_code == 403
    assert refused.body == b"not you"
    assert (await log_line(gateway, refused.headers["x-request-id"]))["status"] == 403


async def test_bytes_after_a_rejected_handshake_do_not_reach_the_service(gateway: ServiceProcess) -> None:
    handshake = (
        b"GET /ws?refuse HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    behind = b"GET /sockets HTTP/1.1\r\nHost: localhost\r\n\r\n"
    received = await asyncio.to_thread(send_raw, gateway.port, handshake + behind)
    assert parse_statuses(received) == [403]


async def test_an_upgrade_elsewhere_is_404(gateway: ServiceProcess) -> None:
    refused = await connect_refused(gateway, "/file")
    assert refused.status_code == 404
    assert json.loads(refused.body or b"")["status"] == 404
    line = await log_line(gateway, refused.headers["x-request-id"])
    assert (line["client"], line["reason"]) == ("127.0.0.1", "no WebSocket endpoint here")


async def log_line(gateway: ServiceProcess, request_id: str) -> dict[str, Any]:
    """The line of the access log about a tunnel."""

    def lines() -> list[dict[str, Any]]:
        found = [json.loads(line) for line in gateway.log.splitlines()]
        return [line for line in found if line["message"] == "websocket tunnel" and line["request_id"] == request_id]

    await eventually_async(lines, 5)
    return lines()[0]


async def test_the_response_that_opens_a_tunnel_has_the_id_of_its_log_line(gateway: ServiceProcess) -> None:
    async with connect_client(gateway) as client:
        assert client.response is not None
        request_id = client.response.headers["x-request-id"]
    assert (await log_line(gateway, request_id))["status"] == 101


@pytest.mark.parametrize(("path", "status"), [("/file", 404), ("/ws?refuse", 403), ("/ws", 101)])
async def test_half_closed_client_gets_the_response_to_its_handshake(
    gateway: ServiceProcess, path: str, status: int
) -> None:
    def send() -> bytes:
        with open_connection(gateway.port) as client:
            client.sendall(WEBSOCKET_HANDSHAKE.replace(b"/ws", path.encode(), 1))
            client.shutdown(socket.SHUT_WR)
            return receive_until_closed(client)

    assert (await asyncio.to_thread(send)).startswith(b"HTTP/1.1 %d " % status)


async def test_a_slow_client_pauses_the_service(gateway: ServiceProcess, echo_server: EchoServer) -> None:
    """The bytes that a service can send to a client that does not read are those that the buffers in between hold."""
    sent = 0

    async def flood(connection: ServerConnection) -> None:
        nonlocal sent
        data = os.urandom(65536)
        while True:
            await connection.send(data)
            sent += len(data)

    echo_server.handler = flood
    before = resident_memory(gateway.pid)
    async with connect_client(gateway, max_queue=1) as connection:
        async with asyncio.timeout(10):
            last = -1
            while sent != last:
                last = sent
                await asyncio.sleep(0.5)
        assert sent > 0
        assert resident_memory(gateway.pid) - before < 4 * 1024 * 1024
        connection.transport.abort()


async def test_a_slow_service_pauses_the_client(gateway: ServiceProcess, echo_server: EchoServer) -> None:
    released = threading.Event()

    async def sleep(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await asyncio.to_thread(released.wait, 30)
        connection.transport.resume_reading()
        async for _ in connection:
            pass

    echo_server.handler = sleep
    before = resident_memory(gateway.pid)
    async with connect_client(gateway) as connection:
        data = os.urandom(65536)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(1):
                    await connection.send(data)
                    sent += len(data)
        assert sent < 64 * 1024 * 1024
        assert resident_memory(gateway.pid) - before < 4 * 1024 * 1024
        released.set()
        async with asyncio.timeout(5):
            await connection.send("more")


async def test_upstream_abort_is_1006_at_the_client(gateway: ServiceProcess, echo_server: EchoServer) -> None:
    async def die(connection: ServerConnection) -> None:
        await connection.recv()
        connection.transport.abort()

    echo_server.handler = die
    async with connect_client(gateway) as connection:
        await connection.send("x")
        with pytest.raises(ConnectionClosed):
            await connection.recv()
    assert connection.close_code == 1006


async def test_client_abort_reaches_the_service(gateway: ServiceProcess, echo_server: EchoServer) -> None:
    async with connect_client(gateway) as connection:
        connection.transport.abort()
        await eventually_async(lambda: echo_server.ended, 5)
    assert echo_server.ended[0][0] == 1006


async def test_upgrade_without_an_upstream_is_rejected(tmp_path_factory: pytest.TempPathFactory) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        env = {
            f"GRIDCAST_{name}_URLS": f"http://127.0.0.1:{taken.getsockname()[1]}"
            for name in ("UPLOAD", "STREAM", "SOCKET", "LIVE")
        }
        with run_service("gateway", tmp_path_factory.mktemp("alone"), env, ready=False) as gateway:
            await eventually_async(lambda: "running on" in gateway.log, 5)
            refused = await connect_refused(gateway)
    assert refused.status_code == 502
    assert refused.headers["content-type"] == "application/problem+json"


async def test_handshake_times_out_when_the_service_does_not_respond(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async def hang_up(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen, reader
        writer.close()

    with run_upstream() as service:
        service.responder = hang_up
        env = upstream_env(service)
        with run_service("gateway", tmp_path_factory.mktemp("silent"), env) as gateway:
            refused = await connect_refused(gateway)
    assert refused.status_code == 502


async def connect_refused(gateway: ServiceProcess, path: str = "/ws", **options: object) -> Response:
    with pytest.raises(InvalidStatus) as refused:
        async with connect_client(gateway, path, **options):
            pass
    return refused.value.response
