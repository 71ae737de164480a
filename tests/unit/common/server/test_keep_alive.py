"""services.common.server.timeouts, and answers at once, on real connections: when one that is kept is closed, and in what
order it answers.
"""

import asyncio
import contextlib
import gc
import time
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from services.common.http.encoding import NONE, Ready
from services.common.server.connection import Http
from services.common.server.cycle import AT_ONCE
from services.common.web.middleware import Front

pytestmark = pytest.mark.anyio

PATIENCE = 0.4


class Case:
    """A server whose answer is the query; `/at-once` needs no task, all else waits for `gate`."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self.gate = asyncio.Event()
        self.gate.set()
        self.tasks = 0
        self.connections: list[weakref.ref[Http]] = []
        self.port = 0

    async def app(self, scope: Any, _receive: Any, send: Any) -> None:
        self.tasks += 1
        await self.gate.wait()
        body = scope["query_string"]
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    @staticmethod
    def prompt(scope: Any) -> Ready | None:
        body = scope["query_string"]
        if body == b"fault":
            raise ValueError
        return None if body == b"no" else Ready(200, [(b"content-length", b"%d" % len(body))], NONE, body)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["Case"]:
        prompt = {("GET", "/at-once"): self.prompt}
        front = Front(self.app, prompt=prompt)
        config = uvicorn.Config(
            front, http=Http, ws="none", lifespan="off", log_config=None, proxy_headers=False, timeout_keep_alive=1
        )
        config.load()
        config.timeout_keep_alive = self.patience  # type: ignore[assignment]  # an int by its annotation alone

        def connection() -> Http:
            made = Http(config=config, server_state=ServerState(), app_state={})
            self.connections.append(weakref.ref(made))
            return made

        server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                yield reader, writer
            finally:
                writer.close()


def get(target: str, method: str = "GET", more: str = "") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nhost: a\r\n{more}\r\n".encode()


async def answer(reader: asyncio.StreamReader) -> bytes:
    """The body of the next answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.count(b"x-request-id: ") == 1
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    return await reader.readexactly(int(fields[b"content-length"]))


async def until_closed(reader: asyncio.StreamReader) -> float:
    began = time.monotonic()
    assert await reader.read() == b""
    return time.monotonic() - began


@pytest.mark.parametrize("path", ["/at-once", "/task"])
async def test_a_connection_that_rests_is_closed_and_each_request_starts_its_time_anew(path: str) -> None:
    async with Case().serving() as case, case.client() as (reader, writer):
        for _ in range(3):
            writer.write(get(f"{path}?a"))
            assert await answer(reader) == b"a"
            await asyncio.sleep(0.6 * PATIENCE)  # the time between two requests is what this is about
        assert 0.2 * PATIENCE < await until_closed(reader) < 10 * PATIENCE


async def test_it_is_not_closed_while_an_answer_is_under_way() -> None:
    async with Case().serving() as case, case.client() as (reader, writer):
        writer.write(get("/at-once?a"))
        assert await answer(reader) == b"a"
        case.gate.clear()
        writer.write(get("/task?slow"))
        await asyncio.sleep(2 * PATIENCE)  # more than it could rest
        case.gate.set()
        assert await answer(reader) == b"slow"
        assert await until_closed(reader) > 0.5 * PATIENCE


async def test_no_clock_keeps_a_connection_that_has_gone() -> None:
    async with Case(patience=3600).serving() as case:
        async with case.client() as (reader, writer):
            writer.write(get("/at-once?a"))
            await answer(reader)
        async with asyncio.timeout(10):
            while case.connections[0]() is not None:
                gc.collect()
                await asyncio.sleep(0.01)


async def test_answers_stand_in_the_order_of_their_requests() -> None:
    """More in one read than are answered at once, with others between them, and while one of those takes its time."""
    paths = ["at-once", "task", "at-once", "at-once"]
    bodies = [b"%d" % number for number in range(3 * AT_ONCE)]
    async with Case().serving() as case, case.client() as (reader, writer):
        case.gate.clear()
        writer.write(b"".join(get(f"/{paths[n % 4]}?{n}") for n in range(len(bodies))))
        assert await answer(reader) == bodies[0]
        case.gate.set()
        assert [await answer(reader) for _ in bodies[1:]] == bodies[1:]


async def test_one_read_is_not_answered_at_once_without_end() -> None:
    async with Case().serving() as case, case.client() as (reader, writer):
        writer.write(b"".join(get(f"/at-once?{n}") for n in range(AT_ONCE + 2)))
        assert [await answer(reader) for _ in range(AT_ONCE + 2)] == [b"%d" % n for n in range(AT_ONCE + 2)]
        assert case.tasks == 2


@pytest.mark.parametrize(
    ("request_", "tasks"),
    [
        (get("/at-once?a"), 0),
        (get("/at-once?a", more="connection: close\r\n"), 1),
        (get("/at-once?a", more="content-length: 2\r\n") + b"xy", 1),
        (get("/at-once?a", more="transfer-encoding: chunked\r\n") + b"0\r\n\r\n", 1),
        (get("/at-once?a", more="expect: 100-continue\r\n"), 1),
        (get("/at-once?a", more="connection: upgrade\r\nupgrade: h2c\r\n"), 1),
        (get("/at-once?no"), 1),
        (get("/at-once?fault"), 1),
        (get("/other?a"), 1),
    ],
)
async def test_what_is_answered_at_once(request_: bytes, tasks: int) -> None:
    """Only what has no body, is not the last, and has its answer there. A fault is left to the way that can tell of it."""
    async with Case().serving() as case, case.client() as (reader, writer):
        writer.write(request_)
        assert await answer(reader) in {b"a", b"no", b"fault"}
        assert case.tasks == tasks


async def test_who_has_not_taken_what_came_before_is_not_answered_at_once() -> None:
    async with Case().serving() as case, case.client() as (reader, writer):
        big = "a" * 6000
        writer.write(b"".join(get(f"/at-once?{n}") for n in range(2)))
        await answer(reader)
        await answer(reader)
        connection = case.connections[0]()
        assert connection is not None
        connection.pause_writing()  # as the transport calls it
        writer.write(get(f"/at-once?{big}"))
        async with asyncio.timeout(5):
            while not case.tasks:  # noqa: ASYNC110  # no event of ours: it is the server's task
                await asyncio.sleep(0)
        connection.resume_writing()
        assert await answer(reader) == big.encode()
