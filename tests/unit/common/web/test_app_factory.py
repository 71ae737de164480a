"""services.common.web.app_factory: how an application turns errors into responses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Response

from services.common.asgi import ClientDisconnected
from services.common.errors import Conflict
from services.common.http.problem import PROBLEM_MEDIA_TYPE
from services.common.telemetry.request_telemetry import RequestTelemetry
from services.common.web.app_factory import create_fastapi_app
from services.common.web.middleware import RequestMiddleware
from services.common.web.routers import MAX_JSON_BODY_BYTES

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

    @app.get("/own")
    async def own() -> dict[str, str]:
        return {"of": "GET"}

    @app.head("/own")
    async def own_head() -> Response:
        return Response(status_code=204, headers={"x-own": "1"})

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


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/version", "/openapi.json", "/nowhere", "/json"])
async def test_head_is_get_without_its_body(client: httpx.AsyncClient, path: str) -> None:
    """RFC 9110, 9.3.2. The transport of the test leaves the body in; the server does not."""
    answer, head = await client.get(path), await client.head(path)
    assert head.status_code == answer.status_code
    assert head.headers == answer.headers


async def test_a_head_of_its_own_is_kept(client: httpx.AsyncClient) -> None:
    head = await client.head("/own")
    assert (head.status_code, head.headers["x-own"]) == (204, "1")


async def test_allow_names_head_where_get_is(client: httpx.AsyncClient) -> None:
    assert (await client.post("/livez")).headers["allow"] == "GET, HEAD"
    assert (await client.head("/json")).headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/openapi.json", "/own", "/nowhere"])
async def test_json_ends_with_a_line_feed(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.content.endswith(b"}\n")
    assert not answer.content.endswith(b"\n\n")
    assert int(answer.headers["content-length"]) == len(answer.content)


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("APPLICATION/JSON", 200),
        ("application/cloudevents+json", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("text/json", 415),
        ("application/jsonp", 415),
        ("", 415),
    ],
)
async def test_another_type_than_json_is_415(client: httpx.AsyncClient, content_type: str, status: int) -> None:
    answer = await client.post("/json", content=b'{"text":"a"}', headers={"content-type": content_type})
    assert answer.status_code == status
    if status == 415:
        assert (answer.headers["content-type"], answer.headers["accept"]) == (PROBLEM_MEDIA_TYPE, "application/json")


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]"])
async def test_json_that_is_not_valid_is_400(client: httpx.AsyncClient, body: bytes) -> None:
    assert (await client.post("/json", content=body)).status_code == 400


@pytest.mark.parametrize(
    ("problem", "reason"),
    [(Conflict("as it was"), "as it was"), (ValueError("secret"), "internal server error"), (None, "Conflict")],
)
async def test_the_log_line_of_a_refusal_has_client_and_reason(problem: Exception | None, reason: str) -> None:
    recorded: list[Any] = []

    class Telemetry(RequestTelemetry):
        def record(self, *values: Any) -> None:
            recorded.append(values)

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        if problem is not None:
            raise problem
        await send({"type": "http.response.start", "status": 409, "headers": []})
        await send({"type": "http.response.body", "body": b"no problem"})

    transport = httpx.ASGITransport(RequestMiddleware(app, telemetry=Telemetry()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/a", headers={"x-forwarded-for": "203.0.113.9"})
    (values,) = recorded
    assert (values[0], values[-1]) == (answer.headers["x-request-id"], {"client": "203.0.113.9", "reason": reason})
