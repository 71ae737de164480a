"""services.common.web.middleware: a request that ended in an error leaves nothing in memory."""

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI

from services.common.asgi import ASGIApp, ClientDisconnected, Message, Receive, Scope, Send
from services.common.errors import Conflict, ServiceUnavailable
from services.common.store.upload_store import UploadHandle
from services.common.uploads.body import UploadBody
from services.common.uploads.lease import Lease
from services.common.web.app_factory import create_fastapi_app
from services.common.web.middleware import RequestMiddleware

pytestmark = pytest.mark.anyio


class Memory(bytearray):
    """What a request has in memory: with room for a weak reference."""


memories: "list[weakref.ref[Memory]]" = []


def allocate() -> Memory:
    memory = Memory()
    memories.append(weakref.ref(memory))
    return memory


async def receive_forever() -> Message:
    await asyncio.sleep(60)
    raise AssertionError("nothing comes")


async def keep_the_error() -> None:
    cause = OSError("refused")
    kept = ServiceUnavailable("away")
    raise kept from cause


async def abort_a_body() -> None:
    body = UploadBody(receive_forever, 0, 60)
    body.abort(Conflict("another request has acquired this upload"))
    await body.read()


async def lose_a_lease() -> None:
    class Renewer:
        lease_ttl = 0.0

        async def renew_lease(self, upload: UploadHandle) -> None:
            raise Conflict(upload.upload_id)

        async def release_lease(self, upload: UploadHandle) -> None:
            raise AssertionError(upload)

    lost = asyncio.Event()
    lease = Lease(Renewer(), UploadHandle("an-id", None, 1, ""), 0, lambda _: lost.set())
    await lost.wait()
    await lease.ensure_held()


async def be_cancelled() -> None:
    kept = asyncio.CancelledError()
    raise kept


async def find_the_client_gone() -> None:
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    gone.set_exception(ClientDisconnected())
    await gone


async def break_down() -> None:
    kept = RuntimeError("unforeseen")
    raise kept


def plain(fail: Callable[[], Awaitable[None]]) -> ASGIApp:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        memory = allocate()
        await fail()
        del memory

    return app


def framework(fail: Callable[[], Awaitable[None]]) -> ASGIApp:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield

    async def route() -> None:
        memory = allocate()
        await fail()
        del memory

    app = create_fastapi_app("test", "", lifespan, {})
    app.add_api_route("/", route)
    return app


@pytest.mark.parametrize(
    "fail", [keep_the_error, abort_a_body, lose_a_lease, be_cancelled, find_the_client_gone, break_down]
)
@pytest.mark.parametrize("build", [plain, framework])
async def test_a_request_that_fails_leaves_nothing_for_the_garbage_collector(
    build: Callable[[Callable[[], Awaitable[None]]], ASGIApp],
    fail: Callable[[], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It runs after 50,000 objects, and each request had a body or a block in memory."""
    monkeypatch.setattr(logging.getLogger("gridcast.web"), "disabled", True)  # pytest keeps the tracebacks of a log
    app = RequestMiddleware(build(fail))
    scope: Scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [],
        "client": None,
        "app": None,
    }
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await app(dict(scope), receive_forever, send)
    memories.clear()
    gc.collect()
    gc.disable()
    try:
        await app(scope, receive_forever, send)
        await asyncio.sleep(0)
        scope.clear()
        sent.clear()
        assert [memory() for memory in memories] == [None]
    finally:
        gc.enable()
