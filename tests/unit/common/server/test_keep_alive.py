"""The keep-alive timer and the fast path on real connections: when an idle one is closed, and in what order it answers."""

import asyncio
import contextlib
import gc
import time
import weakref
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import uvicorn
import uvicorn.server

from services.common.http.encoding import NO_HEADERS, PreparedResponse
from services.common.server.connection import FAST_PATH_PER_READ, HTTPConnection
from services.common.server.contract import ServerConfig, ServerState
from services.common.web.middleware import RequestMiddleware

pytestmark = pytest.mark.anyio

KEEP_ALIVE_TIMEOUT = 0.4


class ServerCase:
    """A server whose answer is the query; `/at-once` needs no task, all else waits for `gate`."""

    def __init__(self, patience: float = KEEP_ALIVE_TIMEOUT) -> None:
        self.patience = patience
        self.gate = asyncio.Event()
        self.gate.set()
        self.tasks = 0
        self.connections: list[weakref.ref[HTTPConnection]] = []
        self.port = 0

    async def app(self, scope: Any, _receive: Any, send: Any) -> None:
        self.tasks += 1
        await self.gate.wait()
        body = scope["query_string"]
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    @staticmethod
    def prompt(scope: Any) -> PreparedResponse | None:
        body = scope["query_string"]
        if body == b"fault":
            raise ValueError
        return (
            None if body == b"no" else PreparedResponse(200, [(b"content-length", b"%d" % len(body))], NO_HEADERS, body)
        )

    @contextlib.asynccontextmanager
    async def run_server(self) -> AsyncIterator["ServerCase"]:
        prompt = {("GET", "/at-once"): self.prompt}
        front = RequestMiddleware(self.app, fast_path_handlers=prompt)
        config = uvicorn.Config(
            front, http=HTTPConnection, ws="none", lifespan="off", log_config=None, proxy_headers=False
        )
        config.load()
        state = cast("ServerState", uvicorn.server.ServerState())

        class Connection(HTTPConnection):
            keep_alive_timeout = self.patience

        def connection() -> HTTPConnection:
            made = Connection(cast("ServerConfig", config), state, {})
            self.connections.append(weakref.ref(made))
            return made

        server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    @contextlib.asynccontextmanager
    async def connect_client(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                yield reader, writer
            finally:
                writer.close()


def get_request(target: str, method: str = "GET", more: str = "") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nhost: a\r\n{more}\r\n".encode()


async def receive_body(reader: asyncio.StreamReader) -> bytes:
    """The body of the next answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.count(b"x-request-id: ") == 1
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    return await reader.readexactly(int(fields[b"content-length"]))


async def seconds_until_closed(reader: asyncio.StreamReader) -> float:
    began = time.monotonic()
    assert await reader.read() == b""
    return time.monotonic() - began


@pytest.mark.parametrize("path", ["/at-once", "/task"])
async def test_a_connection_that_rests_is_closed_and_each_request_starts_its_time_anew(path: str) -> None:
    async with ServerCase().run_server() as case, case.connect_client() as (reader, writer):
        for _ in range(3):
            writer.write(get_request(f"{path}?a"))
            assert await receive_body(reader) == b"a"
            await asyncio.sleep(0.6 * KEEP_ALIVE_TIMEOUT)  # the time between two requests is what this is about
        assert 0.2 * KEEP_ALIVE_TIMEOUT < await seconds_until_closed(reader) < 10 * KEEP_ALIVE_TIMEOUT


async def test_it_is_not_closed_while_an_answer_is_under_way() -> None:
    async with ServerCase().run_server() as case, case.connect_client() as (reader, writer):
        writer.write(get_request("/at-once?a"))
        assert await receive_body(reader) == b"a"
        case.gate.clear()
        writer.write(get_request("/task?slow"))
        await asyncio.sleep(2 * KEEP_ALIVE_TIMEOUT)  # more than it could rest
        case.gate.set()
        assert await receive_body(reader) == b"slow"
        assert await seconds_until_closed(reader) > 0.5 * KEEP_ALIVE_TIMEOUT


async def test_it_is_not_closed_while_a_response_behind_a_fast_one_is_under_way() -> None:
    """Both requests come in one read: the first makes the connection idle for a moment."""
    async with ServerCase().run_server() as case, case.connect_client() as (reader, writer):
        case.gate.clear()
        writer.write(get_request("/at-once?a") + get_request("/task?slow"))
        assert await receive_body(reader) == b"a"
        await asyncio.sleep(2 * KEEP_ALIVE_TIMEOUT)  # more than it may be idle
        case.gate.set()
        assert await receive_body(reader) == b"slow"


async def test_no_clock_keeps_a_connection_that_has_gone() -> None:
    async with ServerCase(patience=3600).run_server() as case:
        async with case.connect_client() as (reader, writer):
            writer.write(get_request("/at-once?a"))
            await receive_body(reader)
        async with asyncio.timeout(10):
            while case.connections[0]() is not None:
                gc.collect()
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "sent",
    [
        get_request("/at-once?a"),
        get_request("/?a"),
        get_request("/?a") * 3,
        get_request("/?a", "POST", "content-length: 3\r\n") + b"abc",
        get_request("/?a", "POST", "content-length: 3\r\n") + b"ab",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET /",
    ],
)
async def test_a_connection_leaves_nothing_for_the_garbage_collector(sent: bytes) -> None:
    """It runs after 50,000 objects, and each connection has 30 of them, a parser and a head among them."""
    async with ServerCase().run_server() as case:
        gc.collect()
        gc.disable()
        try:
            async with case.connect_client() as (reader, writer):
                writer.write(sent)
                writer.write_eof()
                await reader.read()
            async with asyncio.timeout(10):
                while case.connections[0]() is not None:  # noqa: ASYNC110  # nothing tells it
                    await asyncio.sleep(0.01)
        finally:
            gc.enable()


async def test_answers_stand_in_the_order_of_their_requests() -> None:
    """More in one read than are answered at once, with others between them, and while one of those takes its time."""
    paths = ["at-once", "task", "at-once", "at-once"]
    bodies = [b"%d" % number for number in range(3 * FAST_PATH_PER_READ)]
    async with ServerCase().run_server() as case, case.connect_client() as (reader, writer):
        case.gate.clear()
        writer.write(b"".join(get_request(f"/{paths[n % 4]}?{n}") for n in range(len(bodies))))
        assert await receive_body(reader) == bodies[0]
        case.gate.set()
        assert [await receive_body(reader) for _ in bodies[1:]] == bodies[1:]


async def test_one_read_is_not_answered_at_once_without_end() -> None:
    async with ServerCase().run_server() as case, case.connect_client() as (reader, writer):
        writer.write(b"".join(get_request(f"/at-once?{n}") for n in range(FAST_PATH_PER_READ + 2)))
        assert [await receive_body(reader) for _ in range(FAST_PATH_PER_READ + 2)] == [
            b"%d" % n for n in range(FAST_PATH_PER_READ + 2)
        ]
        assert case.tasks == 2


@pytest.mark.parametrize(
    ("request_", "tasks"),
    [
        (get_request("/at-once?a"), 0),
        (get_request("/at-once?a", more="connection: close\r\n"), 1),
        (get_request("/at-once?a", more="content-length: 2\r\n") + b"xy", 1),
        (get_request("/at-once?a", more="transfer-encoding: chunked\r\n") + b"0\r\n\r\n", 1),
        (get_request("/at-once?a", more="expect: 100-continue\r\n"), 1),
        (get_request("/at-once?a", more="connection: upgrade\r\nupgrade: h2c\r\n"), 0),
        (get_request("/at-once?no"), 1),
        (get_request("/at-once?fault"), 1),
        (get_request("/other?a"), 1),
    ],
)
async def test_what_is_answered_at_once(request_: bytes, tasks: int) -> None:
    """Only what has no body, is not the last, and has its answer there. A fault is left to the way that can tell of it."""
    async with ServerCase().run_server() as case, case.connect_client() as (reader, writer):
        writer.write(request_)
        assert await receive_body(reader) in {b"a", b"no", b"fault"}
        assert case.tasks == tasks


async def test_who_has_not_taken_what_came_before_is_not_answered_at_once() -> None:
    async with ServerCase().run_server() as case, case.connect_client() as (reader, writer):
        big = "a" * 6000
        writer.write(b"".join(get_request(f"/at-once?{n}") for n in range(2)))
        await receive_body(reader)
        await receive_body(reader)
        connection = case.connections[0]()
        assert connection is not None
        connection.pause_writing()  # as the transport calls it
        writer.write(get_request(f"/at-once?{big}"))
        async with asyncio.timeout(5):
            while not case.tasks:  # noqa: ASYNC110  # no event of ours: it is the server's task
                await asyncio.sleep(0)
        connection.resume_writing()
        assert await receive_body(reader) == big.encode()
