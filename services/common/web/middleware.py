"""The outermost layer of every process: request id, direct routes, access log, metrics, and last word on errors.

It may send a request straight to a plain ASGI callable where a router would cost more than the answer. It knows no route.
"""

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable, Mapping

from services.common.asgi import CLIENT_CLOSED_REQUEST, ASGIApp, ClientDisconnected, Message, Receive, Scope, Send
from services.common.errors import GridcastError, InternalServerError, ServiceUnavailable
from services.common.http.encoding import Ready
from services.common.telemetry import json_logging, metrics
from services.common.web.app_factory import send_problem

Prompt = Callable[[Scope], Ready | None]

QUIET = frozenset({"/livez", "/readyz"})
"""Asked every few seconds: not worth a line in the log."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}\Z")
_chance = random.Random()  # noqa: S311  # an id is no secret; asking the system for it is a call for each request
_log = logging.getLogger("gridcast.web")


class Front:
    """An ASGI application around another.

    `direct` maps (method, path) to a plain ASGI callable, `prompt` to a function of the scope that answers at once or says None.

    An exception before the answer began becomes a problem; after it began the connection is cut, because a half answer that looks
    whole is worse than none. Whoever answers may set `scope["route"]` (an object with `path`, as FastAPI does, or a string) and add
    fields to the access log in `scope["log"]`.

    `believes` says whose X-Request-ID is taken over. Without it everybody's is: a service's client is the gateway, which sets it.
    """

    def __init__(
        self,
        app: ASGIApp,
        direct: Mapping[tuple[str, str], ASGIApp] | None = None,
        believes: Callable[[Scope], bool] = lambda _scope: True,
        prompt: Mapping[tuple[str, str], Prompt] | None = None,
    ) -> None:
        self.app = app
        self.direct = dict(direct or {})
        self.prompt = dict(prompt or {})
        self._believes = believes

    def at_once(self, scope: Scope) -> Ready | None:
        """An answer for which nobody has to be waited for, or None: then the request goes the way of all others."""
        prompt = self.prompt.get((scope["method"], scope["path"]))
        if prompt is None:
            return None
        began = time.perf_counter()
        try:
            ready = prompt(scope)
        except Exception:  # noqa: BLE001  # it is raised again there, and answered
            return None
        if ready is not None:
            identifier = _identifier(scope, self._believes)
            ready.headers.append((b"x-request-id", identifier.encode("ascii")))
            scope["route"] = scope["path"]
            sent = len(ready.body)
            _note(scope, identifier, ready.status, sent, 0, time.perf_counter() - began)
        return ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        identifier = _identifier(scope, self._believes)
        token = json_logging.request_id_var.set(identifier)
        answer = _Answer(send, identifier)
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        direct = self.direct.get((scope["method"], scope["path"]))
        if direct is not None:
            scope["route"] = scope["path"]
        metrics.http_requests_in_flight += 1
        try:
            await (direct or self.app)(scope, counted, answer.send)
        except ClientDisconnected:
            answer.status = answer.status or CLIENT_CLOSED_REQUEST
        except (GridcastError, asyncio.CancelledError) as error:
            # Cancelled by uvicorn, when the time for draining is over: raised on, it would be logged as a fault.
            fault = error if isinstance(error, GridcastError) else ServiceUnavailable("the service is shutting down")
            if answer.status:
                _log.warning("response aborted: %s", fault.detail)
            else:
                await send_problem(answer.send, fault, close_connection=fault.status == 400 or _has_body(scope))
        except Exception:  # noqa: BLE001  # the last resort of every request
            _log.exception("unhandled exception")
            if not answer.status:
                await send_problem(answer.send, InternalServerError(), close_connection=True)
        finally:
            metrics.http_requests_in_flight -= 1
            _note(scope, identifier, answer.status, answer.sent, received, time.perf_counter() - began)
            json_logging.request_id_var.reset(token)


class _Answer:
    """Sends an answer on, with the request's id, and counts it."""

    __slots__ = ("_identifier", "_send", "sent", "status")

    def __init__(self, send: Send, identifier: str) -> None:
        self._send = send
        self._identifier = identifier.encode("ascii")
        self.status = 0
        self.sent = 0

    async def send(self, message: Message) -> None:
        """ASGI's send."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self._identifier)]
        self.sent += len(message.get("body", b""))
        await self._send(message)


def _note(scope: Scope, identifier: str, status: int, sent: int, received: int, seconds: float) -> None:
    """Count a request and write its line."""
    route, method, path = scope.get("route", "other"), scope["method"], scope["path"]
    template = str(getattr(route, "path", route))
    metrics.record_http_request(method, template, status, seconds, received, sent)
    if (lines := json_logging.access_log) is not None and path not in QUIET:
        lines.write(identifier, method, path, status, sent, received, seconds, scope.get("log"))


def _has_body(scope: Scope) -> bool:
    """Whether something may be left unread, which is not worth reading."""
    return any(name in {b"content-length", b"transfer-encoding"} for name, _ in scope["headers"])


def _identifier(scope: Scope, believes: Callable[[Scope], bool]) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.match(value) and believes(scope):
            return str(value, "ascii")
    return f"{_chance.getrandbits(64):016x}"
