"""Adapts FastAPI's responses: problems instead of plain text, HEAD where GET is, and a line feed behind JSON."""

from fastapi import FastAPI

from services.common.asgi import ASGIApp, Message, Receive, Scope, Send
from services.common.errors import ContentTooLarge, MethodNotAllowed
from services.common.web.problems import send_problem


class ServiceFastAPI(FastAPI):
    """FastAPI with three changes to its responses, which it offers no setting for."""

    def build_middleware_stack(self) -> ASGIApp:
        """Build FastAPI's stack, and wrap it."""
        stack = super().build_middleware_stack()

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await stack(scope, receive, send)
            elif scope["method"] == "HEAD":
                await _answer_head(stack, scope, receive, send)
            else:
                await stack(scope, receive, _ResponseAdapter(send).send)

        return answer


class _ResponseAdapter:
    """Replaces FastAPI's plain text for an oversized Content-Length by a problem, and ends JSON with a line feed.

    FastAPI sends that text past all error handlers, and a response class of our own would cost its fast encoding of JSON.
    """

    __slots__ = ("_is_json", "_refused", "_send")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._refused = self._is_json = False

    async def send(self, message: Message) -> None:
        """ASGI's send."""
        if message["type"] == "http.response.start":
            headers = dict(message["headers"])
            media_type: bytes = headers.get(b"content-type", b"")
            if message["status"] == ContentTooLarge.status and media_type.startswith(b"text/plain"):
                self._refused = True
                await send_problem(self._send, ContentTooLarge("the request body is too large"), close_connection=True)
            elif media_type == b"application/json" and b"content-length" in headers:
                self._is_json = True
                length = int(headers[b"content-length"]) + 1
                kept = [(name, value) for name, value in message["headers"] if name != b"content-length"]
                message["headers"] = [*kept, (b"content-length", str(length).encode("ascii"))]
        elif self._is_json and not message.get("more_body", False):
            message["body"] = b"%s\n" % message.get("body", b"")
        if not self._refused:
            await self._send(message)


async def _answer_head(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer HEAD as GET where a route has no HEAD of its own (RFC 9110, 9.3.2). The server leaves out the body."""
    for method in ("HEAD", "GET"):
        inner = {**scope, "method": method}
        adapter = _ResponseAdapter(send)
        not_allowed = False

        async def send_unless_not_allowed(
            message: Message, adapter: _ResponseAdapter = adapter, method: str = method
        ) -> None:
            nonlocal not_allowed
            if method == "HEAD" and message["type"] == "http.response.start":
                not_allowed = message["status"] == MethodNotAllowed.status
            if not not_allowed:
                await adapter.send(message)

        await app(inner, receive, send_unless_not_allowed)
        scope.update({key: inner[key] for key in ("route", "log") if key in inner})
        if not not_allowed:
            return
