"""services.common.server.websocket: a WebSocket for any ASGI application, on real connections."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import uvicorn
import uvicorn.server
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from services.common.server.connection import HTTPConnection
from services.common.server.contract import ServerConfig, ServerState
from services.common.server.websocket.connection import WebSocketConnection
from services.common.server.websocket.cycle import WebSocketClosed
from services.common.server.websocket.messages import MessageAssembler, MessageError
from services.socket.asgi_connection import payload
from services.socket.connection import SocketConnection, encode_text_frame
from tests.support.raw_sockets import WEBSOCKET_HANDSHAKE

pytestmark = pytest.mark.anyio


class Application:
    """Accepts and echoes, unless its query says otherwise. `told` is what it was told, `scopes` who came."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.scopes: list[Any] = []
        self.failed: list[BaseException] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        assert (await receive())["type"] == "websocket.connect"
        match scope["query_string"]:
            case b"close":
                await send({"type": "websocket.close"})
            case b"refuse":
                headers = [(b"x-why", b"because")]
                await send({"type": "websocket.http.response.start", "status": 429, "headers": headers})
                await send({"type": "websocket.http.response.body", "body": b"too ", "more_body": True})
                await send({"type": "websocket.http.response.body", "body": b"many"})
            case b"fail":
                raise ValueError
            case b"return":
                return
            case _:
                await self.echo(scope, receive, send)

    async def echo(self, scope: Any, receive: Any, send: Any) -> None:
        offered = scope["subprotocols"]
        accept = {
            "type": "websocket.accept",
            "headers": [(b"x-a", b"b")],
            "subprotocol": offered[0] if offered else None,
        }
        await send(accept)
        while (message := await receive())["type"] == "websocket.receive":
            self.told.append(message)
            if message.get("text") == "close":
                await send({"type": "websocket.close", "code": 3000, "reason": "asked"})
            else:
                await send({**message, "type": "websocket.send"})
        self.told.append(message)
        try:
            await send({"type": "websocket.send", "text": "late"})
        except WebSocketClosed as error:
            self.failed.append(error)


class Case:
    def __init__(self) -> None:
        self.app = Application()
        self.state = uvicorn.server.ServerState()
        self.port = 0

    def client(self, query: str = "", **options: Any) -> connect:
        return connect(f"ws://127.0.0.1:{self.port}/a%20b?{query}", proxy=None, ping_interval=None, **options)


@contextlib.asynccontextmanager
async def serving(kind: type[WebSocketConnection] = WebSocketConnection, **members: Any) -> AsyncIterator[Case]:
    case = Case()
    made = type("Connection", (kind,), members)
    config = uvicorn.Config(case.app, http=HTTPConnection, ws=made, log_config=None, proxy_headers=False)
    config.load()
    state = cast("ServerState", case.state)
    server = await asyncio.get_running_loop().create_server(
        lambda: HTTPConnection(cast("ServerConfig", config), state, {"a": 1}), "127.0.0.1", 0
    )
    case.port = server.sockets[0].getsockname()[1]
    try:
        yield case
    finally:
        server.close()
        async with asyncio.timeout(5):
            while case.state.connections or case.state.tasks:  # noqa: ASYNC110  # no event of ours
                await asyncio.sleep(0.01)


async def closed(client: ClientConnection) -> tuple[int | None, str | None]:
    """Code and reason of the end, when it has come."""
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await client.recv()
    return client.close_code, client.close_reason


async def test_messages_of_both_kinds_and_the_scope() -> None:
    async with serving() as case:
        async with case.client("x=y", subprotocols=["one", "two"]) as client:
            for message in ("héllo", b"\0\xff", "", "x" * 60_000):
                await client.send(message)
                assert await client.recv() == message
            await client.send(["a", "b", "c"])
            assert await client.recv() == "abc"
            assert client.subprotocol == "one"
            assert client.response is not None
            assert client.response.headers["x-a"] == "b"
        scope = case.app.scopes[0]
        assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"x=y")
        assert (scope["subprotocols"], scope["state"], scope["scheme"]) == (["one", "two"], {"a": 1}, "ws")
        assert scope["client"][0] == scope["server"][0] == "127.0.0.1"
    assert case.app.told[-1] == {"type": "websocket.disconnect", "code": 1000}
    assert len(case.app.failed) == 1


@pytest.mark.parametrize(("query", "status"), [("close", 403), ("refuse", 429), ("fail", 500), ("return", 500)])
async def test_a_handshake_that_is_not_accepted(query: str, status: int) -> None:
    async with serving() as case:
        with pytest.raises(InvalidStatus) as refused:
            async with case.client(query):
                pass
        response = refused.value.response
        assert response.status_code == status
        if status == 429:
            assert (response.body, response.headers["x-why"]) == (b"too many", "because")


async def test_a_handshake_that_is_none() -> None:
    async with serving() as case:
        reader, writer = await asyncio.open_connection("127.0.0.1", case.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        writer.close()


async def test_the_application_closes() -> None:
    async with serving() as case, case.client() as client:
        await client.send("close")
        assert await closed(client) == (3000, "asked")


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (Frame(Opcode.TEXT, b"\xff"), 1007),
        (Frame(Opcode.TEXT, b"x" * 70_000), 1009),
        (Frame(Opcode.CONT, b"x"), 1002),
    ],
)
async def test_frames_that_fail_the_connection(frame: Frame, code: int) -> None:
    async with serving() as case, case.client() as client:
        # A ping behind it is read in the same slice: nothing is written behind the close frame.
        client.transport.write(frame.serialize(mask=True) + Frame(Opcode.PING, b"").serialize(mask=True))
        assert (await closed(client))[0] == code


CLOSE = Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True)


@pytest.mark.parametrize(
    ("version", "frames"),
    [
        (b"13", CLOSE),
        (b"13", Frame(Opcode.TEXT, b"close").serialize(mask=True)),
        (b"13", Frame(Opcode.TEXT, b"a", fin=False).serialize(mask=True)),
        (b"13", Frame(Opcode.TEXT, b"\xff").serialize(mask=True)),
        (b"13", Frame(Opcode.CONT, b"x").serialize(mask=True)),
        (b"12", b""),
    ],
    ids=["closed", "text", "fragment", "no UTF-8", "continuation of nothing", "old version"],  # masks are random
)
@pytest.mark.parametrize("kind", [WebSocketConnection, SocketConnection])
async def test_a_connection_leaves_nothing_for_the_garbage_collector(
    kind: type[WebSocketConnection], version: bytes, frames: bytes
) -> None:
    """It runs after 50,000 objects, and each connection has 60 of them, with what it has received."""
    alive: list[weakref.ref[WebSocketConnection]] = []

    def connection_made(self: WebSocketConnection, transport: asyncio.BaseTransport) -> None:
        alive.append(weakref.ref(self))
        kind.connection_made(self, transport)

    head = WEBSOCKET_HANDSHAKE.replace(b"Version: 13", b"Version: " + version)
    async with serving(kind, connection_made=connection_made) as case, asyncio.timeout(10):
        gc.collect()
        gc.disable()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", case.port)
            writer.write(head)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(frames)
            if version == b"13" and frames[:1] == b"\x01":
                await asyncio.sleep(0)
                writer.close()
            else:
                await reader.read()
                writer.close()
            while any(one() is not None for one in alive):
                for kept in (case.app.scopes, case.app.told, case.app.failed):
                    kept.clear()
                await asyncio.sleep(0.01)
        finally:
            gc.enable()
    assert len(alive) == 1


async def test_as_many_frames_as_are_allowed() -> None:
    left = [3]

    def allow_frames(_self: Any, count: int) -> bool:
        left[0] -= count
        return left[0] >= 0

    async with serving(allow_frames=allow_frames) as case, case.client() as client:
        for number in range(3):
            await client.send(str(number))
            assert await client.recv() == str(number)
        await client.send("3")
        assert await closed(client) == (1008, "too many frames")


async def test_who_answers_no_ping_is_closed() -> None:
    async with serving(ping_interval=0.2, close_timeout=0.3) as case:
        async with case.client() as client:
            await asyncio.sleep(0.6)
            await client.send("there")
            assert await client.recv() == "there"
        reader, writer = await asyncio.open_connection("127.0.0.1", case.port)
        writer.write(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        async with asyncio.timeout(5):
            said = await reader.read()
        assert said.endswith(b"\x88\x18\x03\xf3keepalive ping timeout")
        writer.close()
    assert case.app.told[-1] == {"type": "websocket.disconnect", "code": 1011, "reason": "ping timeout"}


async def test_the_server_ends() -> None:
    async with serving() as case, case.client() as client:
        await client.send("x")
        await client.recv()
        (connection,) = case.state.connections
        connection.shutdown()  # type: ignore[no-untyped-call, unused-ignore]
        assert (await closed(client))[0] == 1012


def test_a_fragmented_message_has_its_time() -> None:
    assembler = MessageAssembler(30)
    assert assembler.feed(Frame(Opcode.TEXT, b"a", fin=False), 0) is None
    assert assembler.feed(Frame(Opcode.CONT, b"b", fin=False), 100) is None
    assert assembler.feed(Frame(Opcode.CONT, b"c"), 130) == {"type": "websocket.receive", "text": "abc"}
    assembler.feed(Frame(Opcode.BINARY, b"a", fin=False), 0)
    assembler.feed(Frame(Opcode.CONT, b"b", fin=False), 100)
    with pytest.raises(MessageError) as failed:
        assembler.feed(Frame(Opcode.CONT, b"c"), 131)
    assert failed.value.code == 1008


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 70_000])
def test_a_frame_is_a_message_under_another_server(size: int) -> None:
    assert payload(encode_text_frame(b"x" * size)) == "x" * size
