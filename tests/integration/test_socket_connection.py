"""A connection under a real transport of uvloop, in this process: what a client does with its end of the wire."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from services.common.server.connection import HTTPConnection
from services.common.server.websocket.cycle import WebSocketState
from services.socket.connection import EXTENSION, SocketConnection, encode_text_frame
from tests.support.waiting import eventually_async

pytestmark = pytest.mark.anyio
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
    b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n"
)
FIRST_FRAME = encode_text_frame(b'{"sid":1}')


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """As in production: what a transport does when it is closed is uvloop's."""
    return "asyncio", {"use_uvloop": True}


class InProcessSocketServer:
    """Accepts, once it may, and then only hears. `told` is what the application was told."""

    def __init__(self) -> None:
        self.connections: list[SocketConnection] = []
        self.received_events: list[dict[str, Any]] = []
        self.accept_allowed = asyncio.Event()
        self.accept_allowed.set()
        self.ended = 0
        self.state = ServerState()
        self.port = 0

    async def app(self, scope: dict[str, Any], receive: Any, _send: Any) -> None:
        connection: SocketConnection = scope["extensions"][EXTENSION]
        self.connections.append(connection)
        await receive()
        await self.accept_allowed.wait()
        connection.accept(None, FIRST_FRAME)
        told: dict[str, Any] = {"type": ""}
        while told["type"] != "websocket.disconnect":
            told = await receive()
            self.received_events.append(told)
        self.ended += 1

    async def connect(self, *, receive_buffer: int = 0) -> socket.socket:
        """Connected, and nothing is sent yet. `room`: of its kernel, for what comes."""
        made = socket.socket()
        if receive_buffer:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", self.port))
        return made

    async def open_connection(self, *, receive_buffer: int = 0) -> tuple[socket.socket, SocketConnection]:
        """Past its handshake."""
        client = await self.connect(receive_buffer=receive_buffer)
        await asyncio.get_running_loop().sock_sendall(client, HANDSHAKE)
        await eventually_async(lambda: is_true(self.connections and self.connections[-1].state is WebSocketState.OPEN))
        return client, self.connections[-1]


async def is_true(value: object) -> bool:
    return bool(value)


async def receive_until_closed(client: socket.socket) -> bytes:
    """What comes until the end, however it ends."""
    got = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            while more := await asyncio.get_running_loop().sock_recv(client, 65536):
                got += more
    return got


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[InProcessSocketServer]:
    monkeypatch.setattr(SocketConnection, "close_timeout", 0.3)
    made = InProcessSocketServer()
    config = uvicorn.Config(
        made.app,
        interface="asgi3",
        http=HTTPConnection,
        ws=SocketConnection,
        log_config=None,
        ws_per_message_deflate=False,
    )
    config.load()
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(
        lambda: HTTPConnection(config=config, server_state=made.state, app_state={}), "127.0.0.1", 0
    )
    made.port = listening.sockets[0].getsockname()[1]
    yield made
    listening.close()
    for connection in made.connections:
        connection.transport.abort()
    await eventually_async(lambda: is_true(made.ended == len(made.connections)))


async def test_half_a_close_ends_a_connection_that_is_not_read(server: InProcessSocketServer) -> None:
    """What waits in the transport may wait for ever: the application, the sid and the descriptor do not."""
    client, connection = await server.open_connection(receive_buffer=4096)
    filler = encode_text_frame(b"x" * 30_000)
    while not connection.write_paused:
        connection.write(filler)
        await asyncio.sleep(0)
    for _ in range(10):
        connection.write(filler)
    client.shutdown(socket.SHUT_WR)
    await eventually_async(lambda: is_true(server.ended), 2)
    assert server.received_events == [{"type": "websocket.disconnect", "code": 1006}]
    await eventually_async(lambda: is_true(connection.state is WebSocketState.CLOSED), 2)
    assert not server.state.connections
    client.close()


async def test_half_a_close_still_gets_what_was_sent_before(server: InProcessSocketServer) -> None:
    client, connection = await server.open_connection()
    connection.write(encode_text_frame(b"last"))
    client.shutdown(socket.SHUT_WR)
    assert (await receive_until_closed(client)).endswith(FIRST_FRAME + encode_text_frame(b"last"))
    client.close()


@pytest.mark.parametrize("apart", [False, True], ids=["with the head", "behind the head"])
@pytest.mark.parametrize("flood", [b"\x89\x80\0\0\0\0", b"\x81\x81\0\0\0\0x", b"x"], ids=["pings", "texts", "noise"])
async def test_what_comes_before_the_answer_ends_the_connection(
    server: InProcessSocketServer, flood: bytes, *, apart: bool
) -> None:
    """RFC 6455, 4.1. Nobody has counted these frames, and 256 KiB of them cost a second of CPU."""
    server.accept_allowed.clear()
    client = await server.connect()
    loop = asyncio.get_running_loop()
    many = flood * (256 * 1024 // len(flood))
    began = time.process_time()
    with contextlib.suppress(ConnectionError):
        if apart:
            await loop.sock_sendall(client, HANDSHAKE)
            await eventually_async(lambda: is_true(server.connections))
            await loop.sock_sendall(client, many)
        else:
            await loop.sock_sendall(client, HANDSHAKE + many)
    assert await receive_until_closed(client) == b""
    assert time.process_time() - began < 0.2
    server.accept_allowed.set()
    client.close()
    await eventually_async(lambda: is_true(not server.state.connections))
    assert [said["type"] for said in server.received_events] in ([], ["websocket.disconnect"])


async def test_a_first_message_right_after_the_answer_is_heard(server: InProcessSocketServer) -> None:
    client, _ = await server.open_connection()
    await asyncio.get_running_loop().sock_sendall(client, b"\x81\x81\0\0\0\0x")
    await eventually_async(lambda: is_true(server.received_events))
    assert server.received_events == [{"type": "websocket.receive", "text": "x"}]
    client.close()
