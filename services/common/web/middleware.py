"""The outermost ASGI layer of every process: request id, bypass routes, access log, metrics, and the last word on errors."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import TypeVar

from services.common.asgi import CLIENT_CLOSED_REQUEST, ASGIApp, ClientDisconnected, Message, Receive, Scope, Send
from services.common.auth.authorization import Authorization
from services.common.auth.identity import identity_of
from services.common.errors import GridcastError, InternalServerError, ServiceUnavailable, drop_tracebacks
from services.common.http.encoding import PreparedResponse, encode_headers
from services.common.http.headers import Header, forwarded_client, incoming_request_id
from services.common.http.problem import decode_problem_detail
from services.common.live.addresses import LIVE_PREFIX, live_template
from services.common.media_path import PATH_PREFIX, PATH_TEMPLATE
from services.common.telemetry.request_id import new_request_id, request_id_var
from services.common.telemetry.request_telemetry import RequestTelemetry
from services.common.web.browser_protection import service_response_headers
from services.common.web.problems import send_problem

HandlerT = TypeVar("HandlerT")
FastPathHandler = Callable[[Scope], PreparedResponse | None]
"""Returns the response to a request where nothing has to be waited for, else None."""

MAX_PROBLEM_BYTES = 4096
"""Bytes of an error response that are kept for the access log, about: a problem is shorter."""

_STATUSES = frozenset(HTTPStatus)
_log = logging.getLogger("gridcast.web")


def client_behind_gateway(scope: Scope) -> str:
    """Return the address of a service's client: the gateway says it."""
    peer = scope.get("client")
    return forwarded_client(scope["headers"], peer[0] if peer else "unknown")


@lru_cache(maxsize=16)
def _encode_response_headers(headers: tuple[Header, ...]) -> bytes:
    """Encode the fields that a service adds: always the same few. Encoded anew for each range they took 3 us."""
    return encode_headers(headers)


class RequestMiddleware:
    """Wraps an ASGI application.

    An exception before the response began becomes a problem; after it began the connection is reset, because half a response that
    looks whole is worse than none. A handler may set `scope["route"]` (an object with `path_format`, as FastAPI does, or
    a string) and add fields to the access log in `scope["log"]`.

    Arguments:
        app: the application that gets what no bypass route takes.
        bypass_routes: plain ASGI callables by (method, path), for requests where a router would cost more than the response. The
            path is PATH_TEMPLATE for all path addresses of files, and the template for those of live streams; likewise in
            `fast_path_handlers`.
        trusts_request_id: whether the X-Request-ID of a request is kept. By default it is: a service's client is the gateway,
            which sets it.
        telemetry: records the requests; by default without an access log.
        client_address: the client's address, for the log lines of refusals. By default what the gateway says.
        fast_path_handlers: functions by (method, path) that answer without a task where everything is in memory.
        check_request: raises the GridcastError with which a request is refused before anything else is done with it.
        response_headers: returns fields that are added to the response of a request, a problem included. By default those that
            keep a response from other origins.
        authorization: refuses requests that lack a right, before any way in; None where authentication is off.
    """

    def __init__(
        self,
        app: ASGIApp,
        bypass_routes: Mapping[tuple[str, str], ASGIApp] | None = None,
        trusts_request_id: Callable[[Scope], bool] = lambda _scope: True,
        fast_path_handlers: Mapping[tuple[str, str], FastPathHandler] | None = None,
        telemetry: RequestTelemetry | None = None,
        check_request: Callable[[Scope], None] = lambda _scope: None,
        response_headers: Callable[[Scope], tuple[Header, ...]] = service_response_headers,
        client_address: Callable[[Scope], str] = client_behind_gateway,
        authorization: Authorization | None = None,
    ) -> None:
        self.app = app
        self.bypass_routes = dict(bypass_routes or {})
        self.fast_path_handlers = dict(fast_path_handlers or {})
        self._trusts_request_id = trusts_request_id
        self._telemetry = telemetry or RequestTelemetry()
        self._check_request = check_request
        self._response_headers = response_headers
        self._client_address = client_address
        self._authorization = authorization

    def fast_path(self, scope: Scope) -> PreparedResponse | None:
        """Return a response for which nothing has to be waited for; None sends the request through `__call__`.

        Asked by our server alone. An exception is no response: the request meets it again in `__call__`, where it is answered.
        """
        route, handler = self._find(self.fast_path_handlers, scope)
        if handler is None:
            return None
        began = time.perf_counter()
        try:
            self._check_request(scope)
            if self._authorization is not None:
                self._authorization.authorize_now(scope)
            response = handler(scope)
        except Exception:  # noqa: BLE001  # see above
            return None
        if response is not None:
            request_id = _request_id(scope, self._trusts_request_id)
            own_lines = b"x-request-id: %s\r\n" % request_id.encode("ascii")  # well-formed, or made here
            response.field_lines += own_lines
            response.field_lines += _encode_response_headers(self._response_headers(scope))
            scope["route"] = route
            self._record(scope, request_id, response.status, len(response.body), 0, time.perf_counter() - began)
        return response

    def _find(self, table: Mapping[tuple[str, str], HandlerT], scope: Scope) -> tuple[str, HandlerT | None]:
        """Return the route's template and its handler, None where the table has none."""
        path = scope["path"]
        handler = table.get((scope["method"], path))
        if handler is None and path.startswith((PATH_PREFIX, LIVE_PREFIX)):
            path = PATH_TEMPLATE if path.startswith(PATH_PREFIX) else live_template(path)
            handler = table.get((scope["method"], path))
        return path, handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        # The server has given it an id where it has refused the body before this task began.
        request_id = scope.get("request_id") or _request_id(scope, self._trusts_request_id)
        scope["request_id"] = request_id
        token = request_id_var.set(request_id)
        response = _ResponseSender(send, request_id, self._response_headers(scope))
        received = 0

        async def counting_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        route, bypass = self._find(self.bypass_routes, scope)
        if bypass is not None:
            scope["route"] = route
        self._telemetry.in_flight += 1
        try:
            self._check_request(scope)
            await (bypass or self.app if self._authorization is None else self._authorized(bypass or self.app))(
                scope, counting_receive, response.send
            )
        except ClientDisconnected as error:
            drop_tracebacks(error)
            response.status = response.status or CLIENT_CLOSED_REQUEST
        except (GridcastError, asyncio.CancelledError) as error:
            # Cancelled by the server when the time for shutting down is over: raised on, it would be logged as a fault.
            fault = error if isinstance(error, GridcastError) else ServiceUnavailable("the service is shutting down")
            drop_tracebacks(error)
            if response.status:
                _log.warning("response aborted: %s", fault.detail)
            else:
                await send_problem(response.send, fault, close_connection=fault.status == 400 or _has_body(scope))
        except Exception as error:  # noqa: BLE001  # the last resort of every request
            _log.exception("unhandled exception")
            drop_tracebacks(error)
            if not response.status:
                await send_problem(response.send, InternalServerError(), close_connection=True)
        finally:
            self._telemetry.in_flight -= 1
            if response.status >= 400:
                self._add_refusal_fields(scope, response)
            self._record(scope, request_id, response.status, response.sent, received, time.perf_counter() - began)
            request_id_var.reset(token)

    def _authorized(self, app: ASGIApp) -> ASGIApp:
        """Return an application that authorises a request and then calls `app`. Open instances do not pay for it."""
        authorization = self._authorization

        async def authorize_and_call(scope: Scope, receive: Receive, send: Send) -> None:
            if authorization is None:
                await app(scope, receive, send)
                return
            await authorization.authorize(scope)
            with authorization.active_requests.track(identity_of(scope)):
                await app(scope, receive, send)

        return authorize_and_call

    def _add_refusal_fields(self, scope: Scope, response: "_ResponseSender") -> None:
        """Add what the access log has of a refusal only: the client's address and the reason."""
        log = scope.setdefault("log", {})
        log["client"] = self._client_address(scope)
        if reason := response.reason():
            log["reason"] = reason

    def _record(self, scope: Scope, request_id: str, status: int, sent: int, received: int, seconds: float) -> None:
        route = scope.get("route", "other")
        template = str(getattr(route, "path_format", route))
        self._telemetry.record(
            request_id,
            scope["method"],
            scope["path"],
            template,
            status,
            sent,
            received,
            seconds,
            scope.get("log"),
        )


class _ResponseSender:
    """Sends a response with the request's id and further headers, and counts its bytes."""

    __slots__ = ("_headers", "_problem", "_send", "sent", "status")

    def __init__(self, send: Send, request_id: str, headers: tuple[Header, ...]) -> None:
        self._send = send
        self._headers = (*headers, (b"x-request-id", request_id.encode("ascii")))
        self._problem = b""
        self.status = 0
        self.sent = 0

    async def send(self, message: Message) -> None:
        """ASGI's send."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self._headers]
        body = message.get("body", b"")
        self.sent += len(body)
        if self.status >= 400 and len(self._problem) < MAX_PROBLEM_BYTES:
            self._problem += body
        await self._send(message)

    def reason(self) -> str:
        """Return the detail of a problem that was sent; otherwise what the status says."""
        if self.status == CLIENT_CLOSED_REQUEST:
            return "the client has disconnected"
        if (detail := decode_problem_detail(self._problem)) is not None:
            return detail
        return HTTPStatus(self.status).phrase if self.status in _STATUSES else ""


def _has_body(scope: Scope) -> bool:
    """Whether something may be left unread, which is not worth reading."""
    return any(name in {b"content-length", b"transfer-encoding"} for name, _ in scope["headers"])


def _request_id(scope: Scope, trusts_request_id: Callable[[Scope], bool]) -> str:
    request_id = incoming_request_id(scope["headers"])
    if request_id is not None and trusts_request_id(scope):
        return request_id
    return new_request_id()
