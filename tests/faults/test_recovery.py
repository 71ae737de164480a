"""P14, back by itself: MongoDB or Redis dies or falls silent under the whole stack, and comes back without anybody's hand.

All is asked through the gateway. A server that refuses costs 503 within 3 s, a silent one within 10 s, always with Retry-After;
sockets stay; within 5 s after the return everything is answered again; nothing leaves a traceback in a log.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import httpx
import pytest

from deploy.local import databases
from tests.support.databases import Server, running, small_mongod
from tests.support.processes import showing
from tests.support.stack import Stack, runner
from tests.support.websocket_client import Client, soon

pytestmark = pytest.mark.anyio

AWAY = [5.0, pytest.param(60.0, marks=[pytest.mark.long, pytest.mark.timeout(300)])]
REFUSED, SILENT, RETURN = 3.0, 10.0, 5.0
ROOM = 1.5
"""For a machine that does other things meanwhile."""
OURS = ("gateway", "upload-1", "stream-1", "stream-2", "socket-1", "socket-2")


Ask = Callable[[], Awaitable[httpx.Response]]


class Scene:
    """The stack with two sockets open, one on each replica, and a file of two megabytes."""

    def __init__(self, stack: Stack, http: httpx.AsyncClient, browsers: list[Client]) -> None:
        self.stack = stack
        self.http = http
        self.browsers = browsers
        self.data = bytes(range(256)) * 8192

    async def put(self, name: str = "a.bin") -> httpx.Response:
        return await self.http.put("/file/stream", params={"filename": name}, content=self.data)

    async def get(self, name: str = "a.bin") -> httpx.Response:
        # A client that wants no remembered description: the database has to be asked.
        return await self.http.get("/file/stream", params={"filename": name}, headers={"Cache-Control": "no-cache"})

    async def list(self) -> httpx.Response:
        return await self.http.get("/file")

    async def delete(self) -> httpx.Response:
        return await self.http.delete("/file/stream", params={"filename": "nothing.bin"})

    async def tus(self) -> httpx.Response:
        head = {"Tus-Resumable": "1.0.0", "Upload-Length": "5", "Upload-Metadata": "filename YS5iaW4="}
        return await self.http.post("/file/tus", headers=head)

    async def push(self) -> httpx.Response:
        return await self.http.post("/sockets/messages", json={"type": "still.here"})

    async def push_to_one(self) -> httpx.Response:
        return await self.http.post(f"/sockets/{self.browsers[0].sid}/messages", json={"type": "still.here"})

    async def sockets(self) -> httpx.Response:
        return await self.http.get("/sockets")

    async def is_ready(self) -> bool:
        return (await self.http.get("/readyz")).status_code == 200

    async def heard(self) -> None:
        """Everyone hears a new push, on the connection that was there all the time.

        A Redis that comes back empty takes pushes before each replica listens to it again. Who missed them is told so, and is
        pushed to once more.
        """
        marker = uuid.uuid4().hex
        await self._check(marker)
        for browser in self.browsers:
            while (event := await browser.event()).get("data") != marker:
                if event["type"] == "socket.resync":
                    await self._check(marker)

    async def _check(self, marker: str) -> None:
        assert (await self.http.post("/sockets/messages", json={"type": "check", "data": marker})).status_code == 200

    def quiet(self) -> None:
        for name in OURS:
            assert "Traceback" not in (self.stack.logs / f"{name}.log").read_text("utf-8"), name


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Server, Server]]:
    """A stack on servers of its own; every test leaves it as it was."""
    folder = tmp_path_factory.mktemp("away")
    with contextlib.ExitStack() as opened:
        mongod = opened.enter_context(running(folder / "mongod", small_mongod))
        redis = opened.enter_context(running(folder / "redis", databases.redis_server))
        env = {"MONGODB_URI": mongod.uri, "REDIS_URL": redis.url}
        stack = opened.enter_context(runner(folder / "data", "--sockets", "2", "--streams", "2", env=env))
        for name in OURS:
            opened.enter_context(showing(stack.logs / f"{name}.log", name))
        yield stack, mongod, redis


@contextlib.asynccontextmanager
async def scene(stack: Stack) -> AsyncIterator[Scene]:
    async with httpx.AsyncClient(base_url=stack.url, timeout=30) as http:
        browsers = [await Client.open(stack) for _ in range(2)]
        made = Scene(stack, http, browsers)
        assert (await made.put()).is_success
        yield made
        for browser in browsers:
            await browser.close()


@contextlib.asynccontextmanager
async def gone(server: Server, *, silent: bool) -> AsyncIterator[float]:
    """Without that server; gives the moment at which it went."""
    if silent:
        server.stop()
    else:
        server.kill()
    try:
        yield time.monotonic()
    finally:
        if silent:
            server.cont()
        else:
            server.start()  # in the main thread: a child dies with the thread that started it


async def all_refused(asked: list[Ask], within: float) -> None:
    """Each is 503 with Retry-After in that time, all of them at once and again one after the other."""

    async def one(ask: Ask) -> float:
        began = time.monotonic()
        answer = await ask()
        took = time.monotonic() - began
        assert answer.status_code == 503, f"{answer.request.method} {answer.request.url}: {answer.text}"
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["retry-after"]) > 0
        return took

    slowest = max(await asyncio.gather(*(one(ask) for ask in asked)))
    slowest = max(slowest, await one(asked[0]))
    print(f"slowest refusal {slowest:.1f} s, promised {within:g} s")
    assert slowest < within + ROOM


async def back(made: Scene, since: float, checks: list[Ask]) -> None:
    """Within 5 s everything is well. They all are asked again and again, as users do."""

    async def well() -> bool:
        answers = [await check() for check in checks]
        return all(answer.status_code < 300 for answer in answers) and await made.is_ready()

    await soon(well, RETURN + 3 * ROOM)
    took = time.monotonic() - since
    print(f"well again after {took:.1f} s, promised {RETURN:g} s")
    assert took < RETURN + ROOM


@pytest.mark.parametrize("silent", [False, True], ids=["killed", "silent"])
@pytest.mark.parametrize("away", AWAY)
async def test_mongodb_is_away(ground: tuple[Stack, Server, Server], away: float, silent: bool) -> None:
    stack, mongod, _ = ground
    async with scene(stack) as made:
        async with gone(mongod, silent=silent) as began:
            await all_refused([made.list, made.get, made.put, made.delete, made.tus], SILENT if silent else REFUSED)
            assert not await made.is_ready()
            # Sockets need no database.
            await made.heard()
            while time.monotonic() - began < away:
                assert (await made.list()).status_code == 503
        await back(made, time.monotonic(), [made.list, made.get, made.put])
        assert (await made.get()).content == made.data
        await made.heard()
        made.quiet()


@pytest.mark.parametrize("silent", [False, True], ids=["killed", "silent"])
@pytest.mark.parametrize("away", AWAY)
async def test_redis_is_away(ground: tuple[Stack, Server, Server], away: float, silent: bool) -> None:
    """Files are written and read as before; sockets stay, and hear of everything again."""
    stack, _, redis = ground
    async with scene(stack) as made:
        async with gone(redis, silent=silent) as began:
            await all_refused([made.push, made.push_to_one, made.sockets], SILENT if silent else REFUSED)
            while True:
                name = uuid.uuid4().hex
                assert (await made.put(name)).status_code == 201
                assert (await made.get(name)).content == made.data
                for browser in made.browsers:
                    assert await browser.ask("ping?") == {"pong": True}
                if time.monotonic() - began > away:
                    break
        await back(made, time.monotonic(), [made.push, made.sockets, made.list])
        await made.heard()
        newcomer = await Client.open(made.stack)
        await newcomer.close()
        made.quiet()
