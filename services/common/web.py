"""Builds a service's FastAPI application: error rendering, health, a true OpenAPI document. And the words of ASGI that all share.

It knows nothing of media, MongoDB or Redis; what stands before the application is `services.common.front`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from services.common.errors import (
    BadRequest,
    GridcastError,
    Internal,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    problem,
    problem_headers,
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
Check = Callable[[], Awaitable[object]]

VERSION = "0.1.0"
CHECK_SECONDS = 2.0
"""A readiness check that takes longer has failed."""
MAX_JSON_BODY = 256 * 1024
"""Bytes of a JSON body. Media bodies do not pass through FastAPI's parsing and have limits of their own."""
ANY = (400, 414, 431)
"""Answered by the server itself to whatever is not well-formed or too long, before any route is known."""

CLIENT_GONE = 499
"""nginx's status for a client that left before it was answered."""

_log = logging.getLogger("gridcast.web")


class Problem(BaseModel):
    """An error answer (RFC 9457, application/problem+json)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = Field(description="what was wrong; safe to show")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses=` for a route's error answers."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": "problem details", "content": {"application/problem+json": schema}}
        for status in statuses
    }


class Disconnected(Exception):
    """The client closed the connection before the request was complete."""


async def send_problem(send: Send, error: GridcastError, *, close: bool = False) -> None:
    """Answer with `error`. `close` ends the connection: the rest of a refused body is not worth reading."""
    body = problem(error)
    headers = problem_headers(error, body)
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def as_response(error: GridcastError) -> Response:
    """The same answer for code that runs inside FastAPI."""
    body = problem(error)
    response = Response(body, error.status)
    response.raw_headers[:] = problem_headers(error, body)
    return response


async def body_of(receive: Receive) -> AsyncIterator[bytes]:
    """A request's body as it arrives. Raises Disconnected where the client went away before its end."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        if data := message.get("body", b""):
            yield data
        if not message.get("more_body", False):
            return


def build(
    title: str,
    summary: str,
    lifespan: Lifespan,
    checks: Mapping[str, Check],
    document: Callable[[dict[str, Any]], None] | None = None,
) -> FastAPI:
    """A FastAPI application with our errors and health routes.

    `checks` are named and awaited by /readyz; `document` adds the paths of direct routes to the OpenAPI document.
    """
    app = _Api(
        title=title,
        summary=summary,
        version=VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        max_body_size=MAX_JSON_BODY,
        telemetry={"tracing": False, "metrics": False},
    )
    app.add_exception_handler(GridcastError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Disconnected, _on_disconnected)
    app.add_exception_handler(Exception, _on_error)

    @app.get("/livez", tags=["health"])
    async def livez() -> dict[str, str]:
        """Whether the process runs; asks nobody else."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], responses={503: {"description": "a check failed"}})
    async def readyz() -> JSONResponse:
        """Whether requests can be served: every check, with its result."""
        results = dict(zip(checks, await asyncio.gather(*(_passes(check) for check in checks.values())), strict=True))
        ready = all(result == "ok" for result in results.values())
        content = {"status": "ready" if ready else "unavailable", "checks": results}
        return JSONResponse(content, 200 if ready else 503, {"cache-control": "no-store"})

    @app.get("/version", tags=["health"])
    async def version() -> dict[str, str]:
        """Name and version of the service."""
        return {"service": title, "version": VERSION}

    app.openapi = lambda: _openapi(app, document)  # type: ignore[method-assign]  # FastAPI's documented way to extend the document
    return app


class _Api(FastAPI):
    """FastAPI whose refusal of a body by its stated length is a problem: it has that in plain text, past all error handlers."""

    def build_middleware_stack(self) -> ASGIApp:
        """What FastAPI builds, with a look at what it answers."""
        stack = super().build_middleware_stack()

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            refused = False

            async def sending(message: Message) -> None:
                nonlocal refused
                if message["type"] == "http.response.start" and message["status"] == TooLarge.status:
                    kind: bytes = dict(message["headers"]).get(b"content-type", b"")
                    refused = kind.startswith(b"text/plain")
                    if refused:
                        await send_problem(send, TooLarge("the body is over the limit"), close=True)
                if not refused:
                    await send(message)

            await stack(scope, receive, sending)

        return answer


async def _passes(check: Check) -> str:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except TimeoutError:
        return "no answer"
    except GridcastError as error:
        return error.detail
    except Exception:  # noqa: BLE001  # a check that breaks is a check that failed
        _log.exception("readiness check failed")
        return "failed"
    return "ok"


async def _on_error(_request: Request, error: Exception) -> Response:
    return as_response(error) if isinstance(error, GridcastError) else as_response(Internal())


async def _on_disconnected(_request: Request, _error: Exception) -> Response:
    """For the log and the metrics alone: without it the framework would make a 500 of it."""
    return Response(status_code=CLIENT_GONE)


async def _on_invalid(_request: Request, error: Exception) -> Response:
    faults = error.errors() if isinstance(error, RequestValidationError) else []
    said = "; ".join(f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in faults[:5])
    return as_response(BadRequest(said))


async def _on_http(_request: Request, error: Exception) -> Response:
    """Starlette's own errors: an unknown path, a wrong method, a body over the limit or not JSON."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = str(error.detail) if isinstance(error, HTTPException) else ""
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    match status:
        case 404:
            return as_response(NotFound("no such resource"))
        case 405:
            return as_response(MethodNotAllowed("this resource does not know that method", headers))
        case 413:
            return as_response(TooLarge("the body is over the limit", headers))
        case _ if 400 <= status < 500:
            return as_response(BadRequest(detail, headers))
        case _:
            return as_response(Internal())


def _openapi(app: FastAPI, add: Callable[[dict[str, Any]], None] | None) -> dict[str, Any]:
    """FastAPI's document without its 422, which this API never answers, and with the schema of a problem."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Problem"] = Problem.model_json_schema()
        if add is not None:
            add(document["paths"])
        for item in document["paths"].values():
            for operation in item.values():
                responses = operation["responses"]
                responses.pop("422", None)
                for status, answer in problems(*ANY).items():
                    responses.setdefault(str(status), answer)
        app.openapi_schema = document
    return app.openapi_schema
