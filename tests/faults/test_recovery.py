"""P14, recovery: MongoDB or Redis is killed or hangs under the whole stack and returns; nothing else is done.

All requests go through the gateway. A server that refuses connections costs 503 within 3 s, a hanging one within 10 s, always with
Retry-After; sockets stay open; within 5 s after the return every request succeeds again; no log has a traceback.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import httpx
import pytest

from deploy.local import databases
from tests.support.databases import ServerProcess, run_server, small_mongod_program
from tests.support.processes import show_log_on_failure
from tests.support.stack import SERVICE_NAMES, Stack, run_forked_stack
from tests.support.waiting import eventually_async
from tests.support.websocket_client import WebSocketClient

pytestmark = pytest.mark.anyio

OUTAGE_SECONDS = [5.0, pytest.param(60.0, marks=[pytest.mark.long, pytest.mark.timeout(300)])]
REFUSED_DEADLINE, SILENT_DEADLINE, RECOVERY_DEADLINE = 3.0, 10.0, 5.0
SLACK = 1.5
"""Slack in seconds for a busy machine."""


SendRequest = Callable[[], Awaitable[httpx.Response]]


class StackClient:
    """The stack with two sockets open, one on each replica, and a file of two megabytes."""

    def __init__(self, stack: Stack, http: httpx.AsyncClient, browsers: list[WebSocketClient]) -> None:
        self.stack = stack
        self.http = http
        self.websocket_clients = browsers
        self.data = bytes(range(256)) * 8192

    async def put(self, name: str = "a.bin") -> httpx.Response:
        return await self.http.put("/file/stream", params={"filename": name}, content=self.data)

    async def get(self, name: str = "a.bin") -> httpx.Response:
        # A client that wants no cached metadata: the database has to be queried.
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
        return await self.http.post(f"/sockets/{self.websocket_clients[0].sid}/messages", json={"type": "still.here"})

    async def sockets(self) -> httpx.Response:
        return await self.http.get("/sockets")

    async def is_ready(self) -> bool:
        return (await self.http.get("/readyz")).status_code == 200

    async def assert_push_is_received(self) -> None:
        """Every client receives a new push on the connection that it has had all the time.

        A Redis that returns empty accepts pushes before each replica is subscribed again. A client that missed them gets a resync
        event, and the push is repeated once.
        """
        marker = uuid.uuid4().hex
        await self._push_and_receive(marker)
        for browser in self.websocket_clients:
            while (event := await browser.receive_event()).get("data") != marker:
                if event["type"] == "socket.resync":
                    await self._push_and_receive(marker)

    async def _push_and_receive(self, marker: str) -> None:
        assert (await self.http.post("/sockets/messages", json={"type": "check", "data": marker})).status_code == 200

    def assert_no_traceback(self) -> None:
        for name in SERVICE_NAMES:
            assert "Traceback" not in (self.stack.log_dir / f"{name}.log").read_text("utf-8"), name


@pytest.fixture(scope="module")
def dedicated_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, ServerProcess, ServerProcess]]:
    """A stack with its own databases; every test leaves it as it was."""
    folder = tmp_path_factory.mktemp("away")
    with contextlib.ExitStack() as opened:
        mongod = opened.enter_context(run_server(folder / "mongod", small_mongod_program))
        redis = opened.enter_context(run_server(folder / "redis", databases.redis_server))
        env = {"MONGODB_URI": mongod.url, "REDIS_URL": redis.url}
        stack = opened.enter_context(run_forked_stack(folder / "data", "--sockets", "2", "--streams", "2", env=env))
        for name in SERVICE_NAMES:
            opened.enter_context(show_log_on_failure(stack.log_dir / f"{name}.log", name))
        yield stack, mongod, redis


@contextlib.asynccontextmanager
async def connect_clients(stack: Stack) -> AsyncIterator[StackClient]:
    async with httpx.AsyncClient(base_url=stack.url, timeout=30) as http:
        browsers = [await WebSocketClient.connect(stack) for _ in range(2)]
        made = StackClient(stack, http, browsers)
        assert (await made.put()).is_success
        yield made
        for browser in browsers:
            await browser.close()


@contextlib.asynccontextmanager
async def outage(server: ServerProcess, *, silent: bool) -> AsyncIterator[float]:
    """Stop that database for the block; yields the time at which it stopped."""
    if silent:
        server.pause()
    else:
        server.kill()
    try:
        yield time.monotonic()
    finally:
        if silent:
            server.resume()
        else:
            server.start()  # in the main thread: a child exits with the thread that started it


async def assert_all_unavailable(requests: list[SendRequest], timeout_seconds: float) -> None:
    """Each request is 503 with Retry-After within that time, all concurrently and again one after the other."""

    async def one(ask: SendRequest) -> float:
        began = time.monotonic()
        answer = await ask()
        took = time.monotonic() - began
        assert answer.status_code == 503, f"{answer.request.method} {answer.request.url}: {answer.text}"
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["retry-after"]) > 0
        return took

    slowest = max(await asyncio.gather(*(one(ask) for ask in requests)))
    slowest = max(slowest, await one(requests[0]))
    print(f"slowest refusal {slowest:.1f} s, promised {timeout_seconds:g} s")
    assert slowest < timeout_seconds + SLACK


async def assert_recovered(made: StackClient, since: float, checks: list[SendRequest]) -> None:
    """Within 5 s every request succeeds. They are repeated, as users do."""

    async def well() -> bool:
        answers = [await check() for check in checks]
        return all(answer.status_code < 300 for answer in answers) and await made.is_ready()

    await eventually_async(well, RECOVERY_DEADLINE + 3 * SLACK)
    took = time.monotonic() - since
    print(f"well again after {took:.1f} s, promised {RECOVERY_DEADLINE:g} s")
    assert took < RECOVERY_DEADLINE + SLACK


@pytest.mark.parametrize("silent", [False, True], ids=["killed", "silent"])
@pytest.mark.parametrize("away", OUTAGE_SECONDS)
async def test_services_recover_from_a_mongodb_outage(
    dedicated_stack: tuple[Stack, ServerProcess, ServerProcess], away: float, silent: bool
) -> None:
    stack, mongod, _ = dedicated_stack
    async with connect_clients(stack) as made:
        async with outage(mongod, silent=silent) as began:
            await assert_all_unavailable(
                [made.list, made.get, made.put, made.delete, made.tus], SILENT_DEADLINE if silent else REFUSED_DEADLINE
            )
            assert not await made.is_ready()
            # Sockets need no database.
            await made.assert_push_is_received()
            while time.monotonic() - began < away:
                assert (await made.list()).status_code == 503
        await assert_recovered(made, time.monotonic(), [made.list, made.get, made.put])
        assert (await made.get()).content == made.data
        await made.assert_push_is_received()
        made.assert_no_traceback()


@pytest.mark.parametrize("silent", [False, True], ids=["killed", "silent"])
@pytest.mark.parametrize("away", OUTAGE_SECONDS)
async def test_services_recover_from_a_redis_outage(
    dedicated_stack: tuple[Stack, ServerProcess, ServerProcess], away: float, silent: bool
) -> None:
    """Files are written and read as before; sockets stay open and receive events again."""
    stack, _, redis = dedicated_stack
    async with connect_clients(stack) as made:
        async with outage(redis, silent=silent) as began:
            await assert_all_unavailable(
                [made.push, made.push_to_one, made.sockets], SILENT_DEADLINE if silent else REFUSED_DEADLINE
            )
            while True:
                name = uuid.uuid4().hex
                assert (await made.put(name)).status_code == 201
                assert (await made.get(name)).content == made.data
                for browser in made.websocket_clients:
                    assert await browser.send_command("ping?") == {"pong": True}
                if time.monotonic() - began > away:
                    break
        await assert_recovered(made, time.monotonic(), [made.push, made.sockets, made.list])
        await made.assert_push_is_received()
        newcomer = await WebSocketClient.connect(made.stack)
        await newcomer.close()
        made.assert_no_traceback()
