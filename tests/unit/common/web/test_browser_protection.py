"""services.common.web: the protection that every service puts before its application, and what the middleware does with it."""

from typing import Any

import pytest

from services.common.asgi import Message, Receive, Scope, Send
from services.common.http.encoding import NO_HEADERS, PreparedResponse
from services.common.http.headers import Header
from services.common.http.hosts import DEFAULT_ALLOWED_HOSTS, HostPolicy
from services.common.http.origins import OriginPolicy
from services.common.web.browser_protection import BrowserProtection
from services.common.web.middleware import RequestMiddleware

PROTECTION = BrowserProtection(HostPolicy(DEFAULT_ALLOWED_HOSTS), OriginPolicy(""))
LOCAL: Header = (b"host", b"localhost:8001")


def make_scope(method: str, *headers: Header) -> dict[str, Any]:
    return {"type": "http", "method": method, "path": "/file", "headers": list(headers), "extensions": {}}


async def respond(scope: Scope, receive: Receive, send: Send) -> None:
    del scope, receive
    await send({"type": "http.response.start", "status": 204, "headers": [(b"etag", b'"a"')]})
    await send({"type": "http.response.body", "body": b""})


async def request(middleware: RequestMiddleware, scope: dict[str, Any]) -> tuple[int, dict[bytes, bytes]]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await middleware(scope, receive, send)
    assert len({name for name, _ in sent[0]["headers"]}) == len(sent[0]["headers"]), "a field is there twice"
    return sent[0]["status"], dict(sent[0]["headers"])


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (make_scope("POST", LOCAL), 204),
        (make_scope("POST", LOCAL, (b"origin", b"http://localhost:8001")), 204),
        (make_scope("POST", LOCAL, (b"origin", b"http://evil.example")), 403),
        (make_scope("PUT", LOCAL, (b"origin", b"null")), 403),
        (make_scope("PATCH", LOCAL, (b"origin", b"http://localhost:8000")), 403),
        (make_scope("DELETE", LOCAL, (b"sec-fetch-site", b"same-site")), 403),
        (make_scope("FROB", LOCAL, (b"sec-fetch-site", b"cross-site")), 403),
        (make_scope("GET", LOCAL, (b"origin", b"http://evil.example")), 204),
        (make_scope("HEAD", LOCAL, (b"sec-fetch-site", b"cross-site")), 204),
        (make_scope("GET", (b"host", b"evil.example")), 421),
        (make_scope("POST", (b"host", b"evil.example"), (b"origin", b"http://evil.example")), 421),
        # A rebound page may set any field: that of the gateway does not save it.
        (make_scope("POST", (b"host", b"evil.example"), (b"x-forwarded-host", b"localhost")), 421),
        # A proxy directly before the service.
        (make_scope("PUT", LOCAL, (b"x-forwarded-host", b"a.example"), (b"origin", b"https://a.example")), 204),
        (make_scope("PUT", LOCAL, (b"x-forwarded-host", b"a.example"), (b"origin", b"https://evil.example")), 403),
    ],
)
async def test_requests_are_judged_before_the_application(scope: dict[str, Any], expected: int) -> None:
    status, headers = await request(RequestMiddleware(respond, check_request=PROTECTION), scope)
    assert status == expected
    assert headers[b"cross-origin-resource-policy"] == b"same-origin"
    assert b"x-request-id" in headers
    assert (b"etag" in headers) == (status == 204)


@pytest.mark.anyio
async def test_the_fast_path_is_judged_too() -> None:
    def prepare(_scope: Scope) -> PreparedResponse:
        return PreparedResponse(200, [(b"content-length", b"0")], NO_HEADERS, b"")

    middleware = RequestMiddleware(respond, fast_path_handlers={("GET", "/file"): prepare}, check_request=PROTECTION)
    response = middleware.fast_path(make_scope("GET", LOCAL))
    assert response is not None
    assert b"cross-origin-resource-policy: same-origin\r\n" in response.field_lines
    foreign = make_scope("GET", (b"host", b"evil.example"))
    assert middleware.fast_path(foreign) is None
    assert (await request(middleware, foreign))[0] == 421
