"""services.common.web: what an application built by it makes of a fault."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from services.common.errors import PROBLEM_TYPE
from services.common.web import MAX_JSON_BODY, Disconnected, build

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


async def test_a_client_that_leaves_is_no_fault_of_ours() -> None:
    """499 in the log and the metrics: nobody is there to read it, and a 500 would wake somebody up."""
    app = build("test", "A test.", nothing, {})

    @app.get("/left")
    async def left() -> None:
        raise Disconnected

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "path": "/left", "query_string": b"", "headers": []}
    await app(scope, receive, send)
    assert sent[0]["status"] == 499


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = build("test", "A test.", nothing, {})

    @app.post("/json")
    async def take(body: dict[str, Any]) -> int:
        return len(body["text"])

    fields = {"content-type": "application/json"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=fields) as client:
        yield client


def body(size: int) -> bytes:
    return b'{"text":"%s"}' % (b"x" * (size - len(b'{"text":""}')))


async def test_a_body_within_the_limit_is_taken(client: httpx.AsyncClient) -> None:
    answer = await client.post("/json", content=body(MAX_JSON_BODY))
    assert (answer.status_code, answer.json()) == (200, MAX_JSON_BODY - 11)


@pytest.mark.parametrize("stated", [True, False], ids=["with its length", "in chunks"])
async def test_a_body_over_the_limit_is_a_problem(client: httpx.AsyncClient, *, stated: bool) -> None:
    data = body(MAX_JSON_BODY + 1)

    async def chunks() -> AsyncIterator[bytes]:
        yield data

    answer = await client.post("/json", content=data if stated else chunks())
    assert answer.status_code == 413
    assert answer.headers["content-type"] == PROBLEM_TYPE
    assert answer.json() == {
        "type": "about:blank",
        "title": "Content Too Large",
        "status": 413,
        "detail": "the body is over the limit",
    }


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/json", 405)])
async def test_other_refusals_are_problems_as_before(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM_TYPE)
