"""services.common.web.app_factory: how an application turns errors into responses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from services.common.asgi import ClientDisconnected
from services.common.http.problem import PROBLEM_MEDIA_TYPE
from services.common.web.app_factory import MAX_JSON_BODY_BYTES, create_fastapi_app
from services.common.web.middleware import RequestMiddleware

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def empty_lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield


async def test_client_disconnect_is_no_server_error() -> None:
    """499 in the log and the metrics: no client reads the response, and a 500 would page an operator."""
    app = create_fastapi_app("test", "A test.", empty_lifespan, {})

    @app.get("/left")
    async def left() -> None:
        raise ClientDisconnected

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "path": "/left", "query_string": b"", "headers": []}
    await app(scope, receive, send)
    assert sent[0]["status"] == 499


@pytest.mark.parametrize("begun", [False, True])
async def test_request_cancelled_at_the_shutdown_timeout_is_503(
    *, begun: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Or an aborted response where it has begun. Neither is logged with a traceback."""
    waits = asyncio.Event()
    sent: list[Any] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        waits.set()
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": "/a", "query_string": b"", "headers": []}
    task = asyncio.create_task(RequestMiddleware(app)(scope, receive, send))
    async with asyncio.timeout(5):
        await waits.wait()
        task.cancel()
        await task
    assert [message.get("status") for message in sent] == ([200] if begun else [503, None])
    assert "Traceback" not in caplog.text


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = create_fastapi_app("test", "A test.", empty_lifespan, {})

    @app.post("/json")
    async def take(body: dict[str, Any]) -> int:
        return len(body["text"])

    fields = {"content-type": "application/json"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=fields) as client:
        yield client


def json_body(size: int) -> bytes:
    return b'{"text":"%s"}' % (b"x" * (size - len(b'{"text":""}')))


async def test_body_within_the_limit_is_accepted(client: httpx.AsyncClient) -> None:
    answer = await client.post("/json", content=json_body(MAX_JSON_BODY_BYTES))
    assert (answer.status_code, answer.json()) == (200, MAX_JSON_BODY_BYTES - 11)


@pytest.mark.parametrize("stated", [True, False], ids=["with its length", "in chunks"])
async def test_a_body_over_the_limit_is_a_problem(client: httpx.AsyncClient, *, stated: bool) -> None:
    data = json_body(MAX_JSON_BODY_BYTES + 1)

    async def chunks() -> AsyncIterator[bytes]:
        yield data

    answer = await client.post("/json", content=data if stated else chunks())
    assert answer.status_code == 413
    assert answer.headers["content-type"] == PROBLEM_MEDIA_TYPE
    assert answer.json() == {
        "type": "about:blank",
        "title": "Content Too Large",
        "status": 413,
        "detail": "the request body is too large",
    }


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/json", 405)])
async def test_framework_errors_are_problem_documents(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM_MEDIA_TYPE)
