"""Builds the FastAPI application of a service: error responses, health routes, the OpenAPI document.

`services.common.web.middleware` is the layer in front of it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from services.common.asgi import CLIENT_CLOSED_REQUEST, ASGIApp, ClientDisconnected, Message, Receive, Scope, Send
from services.common.errors import (
    BadRequest,
    ContentTooLarge,
    GridcastError,
    InternalServerError,
    MethodNotAllowed,
    NotFound,
    encode_problem,
    problem_headers,
)
from services.common.http.origins import SAFE_METHODS

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
ReadinessCheck = Callable[[], Awaitable[object]]

PRODUCT_VERSION = "0.1.0"
READINESS_CHECK_TIMEOUT_SECONDS = 2.0
"""A readiness check that takes longer has failed."""
MAX_JSON_BODY_BYTES = 256 * 1024
"""Bytes of a JSON body. Media bodies do not pass through FastAPI's parsing and have limits of their own."""
COMMON_ERROR_STATUSES = (400, 414, 421, 431)
"""Sent before a route is known: for malformed and oversized requests, and for a Host that is not allowed."""


_log = logging.getLogger("gridcast.web")


class ProblemDetails(BaseModel):
    """An error response (RFC 9457, application/problem+json)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = Field(description="what was wrong; safe to show")


def openapi_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's `responses=` for the error statuses of a route."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": "problem details", "content": {"application/problem+json": schema}}
        for status in statuses
    }


async def send_problem(send: Send, error: GridcastError, *, close_connection: bool = False) -> None:
    """Send an error response. `close_connection` closes the connection, so that the rest of a rejected body is not read."""
    body = encode_problem(error)
    headers = problem_headers(error, body)
    if close_connection:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def problem_response(error: GridcastError) -> Response:
    """Return the same response for code that runs inside FastAPI."""
    body = encode_problem(error)
    response = Response(body, error.status)
    response.raw_headers[:] = problem_headers(error, body)
    return response


async def iter_request_body(receive: Receive) -> AsyncIterator[bytes]:
    """Yield the body of a request as it arrives. Raises ClientDisconnected if the client disconnects before its end."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        if data := message.get("body", b""):
            yield data
        if not message.get("more_body", False):
            return


def create_fastapi_app(
    title: str,
    summary: str,
    lifespan: Lifespan,
    readiness_checks: Mapping[str, ReadinessCheck],
    extend_openapi_paths: Callable[[dict[str, Any]], None] | None = None,
) -> FastAPI:
    """Return a FastAPI application with our error responses and health routes.

    `readiness_checks` are awaited by /readyz, which shows their names; `extend_openapi_paths` adds the paths of bypass routes.
    """
    app = _ServiceFastAPI(
        title=title,
        summary=summary,
        version=PRODUCT_VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        max_body_size=MAX_JSON_BODY_BYTES,
        telemetry={"tracing": False, "metrics": False},
    )
    app.add_exception_handler(GridcastError, _handle_error)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)
    app.add_exception_handler(ClientDisconnected, _handle_client_disconnected)
    app.add_exception_handler(Exception, _handle_error)

    @app.get("/livez", tags=["health"])
    async def livez() -> dict[str, str]:
        """Whether the process runs; checks no dependency."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], responses={503: {"description": "a check failed"}})
    async def readyz() -> JSONResponse:
        """Whether requests can be served: every check, with its result."""
        results = dict(
            zip(
                readiness_checks,
                await asyncio.gather(*(_run_readiness_check(check) for check in readiness_checks.values())),
                strict=True,
            )
        )
        ready = all(result == "ok" for result in results.values())
        content = {"status": "ready" if ready else "unavailable", "checks": results}
        return JSONResponse(content, 200 if ready else 503, {"cache-control": "no-store"})

    @app.get("/version", tags=["health"])
    async def version() -> dict[str, str]:
        """Name and version of the service."""
        return {"service": title, "version": PRODUCT_VERSION}

    app.openapi = lambda: _build_openapi(app, extend_openapi_paths)  # type: ignore[method-assign]  # FastAPI's documented way to extend the document
    return app


class _ServiceFastAPI(FastAPI):
    """FastAPI with a problem document for an oversized Content-Length; FastAPI sends plain text, bypassing all error handlers."""

    def build_middleware_stack(self) -> ASGIApp:
        """Build FastAPI's stack, and replace that one response."""
        stack = super().build_middleware_stack()

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            refused = False

            async def sending(message: Message) -> None:
                nonlocal refused
                if message["type"] == "http.response.start" and message["status"] == ContentTooLarge.status:
                    kind: bytes = dict(message["headers"]).get(b"content-type", b"")
                    refused = kind.startswith(b"text/plain")
                    if refused:
                        await send_problem(
                            send, ContentTooLarge("the request body is too large"), close_connection=True
                        )
                if not refused:
                    await send(message)

            await stack(scope, receive, sending)

        return answer


async def _run_readiness_check(check: ReadinessCheck) -> str:
    try:
        async with asyncio.timeout(READINESS_CHECK_TIMEOUT_SECONDS):
            await check()
    except TimeoutError:
        return "timeout"
    except GridcastError as error:
        return error.detail
    except Exception:  # noqa: BLE001  # a check that raises has failed
        _log.exception("readiness check failed")
        return "failed"
    return "ok"


async def _handle_error(_request: Request, error: Exception) -> Response:
    return problem_response(error) if isinstance(error, GridcastError) else problem_response(InternalServerError())


async def _handle_client_disconnected(_request: Request, _error: Exception) -> Response:
    """Return a status for the log and the metrics only: without it the framework would count a 500."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _handle_validation_error(_request: Request, error: Exception) -> Response:
    faults = error.errors() if isinstance(error, RequestValidationError) else []
    said = "; ".join(f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in faults[:5])
    return problem_response(BadRequest(said))


async def _handle_http_exception(_request: Request, error: Exception) -> Response:
    """Starlette's own errors: an unknown path, a wrong method, a body over the limit or not JSON."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = str(error.detail) if isinstance(error, HTTPException) else ""
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    match status:
        case 404:
            return problem_response(NotFound("resource not found"))
        case 405:
            return problem_response(MethodNotAllowed("method not allowed", headers))
        case 413:
            return problem_response(ContentTooLarge("the request body is too large", headers))
        case _ if 400 <= status < 500:
            return problem_response(BadRequest(detail, headers))
        case _:
            return problem_response(InternalServerError())


def _build_openapi(app: FastAPI, extend_paths: Callable[[dict[str, Any]], None] | None) -> dict[str, Any]:
    """Return FastAPI's document without 422, which this API never sends, and with the schema of a problem."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Problem"] = ProblemDetails.model_json_schema()
        if extend_paths is not None:
            extend_paths(document["paths"])
        for item in document["paths"].values():
            for method, operation in item.items():
                responses = operation["responses"]
                responses.pop("422", None)
                # 403: the page that sent a request which changes state is of another origin.
                statuses = COMMON_ERROR_STATUSES if method.upper() in SAFE_METHODS else (403, *COMMON_ERROR_STATUSES)
                for status, answer in openapi_problems(*statuses).items():
                    responses.setdefault(str(status), answer)
        app.openapi_schema = document
    return app.openapi_schema
