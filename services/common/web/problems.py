"""Sends errors as responses: to an ASGI `send`, and from FastAPI's exception handlers."""

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from services.common.asgi import CLIENT_CLOSED_REQUEST, ClientDisconnected, Send
from services.common.errors import (
    BadRequest,
    ContentTooLarge,
    GridcastError,
    InternalServerError,
    MethodNotAllowed,
    NotFound,
    UnsupportedMediaType,
    drop_tracebacks,
)
from services.common.http.problem import encode_problem, problem_headers


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


def add_exception_handlers(app: FastAPI) -> None:
    """Make FastAPI answer our errors, its own and everything unforeseen with a problem document."""
    app.add_exception_handler(GridcastError, _handle_error)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)
    app.add_exception_handler(ClientDisconnected, _handle_client_disconnected)
    app.add_exception_handler(Exception, _handle_error)


async def _handle_error(_request: Request, error: Exception) -> Response:
    if isinstance(error, GridcastError):
        drop_tracebacks(error)
        return problem_response(error)
    return problem_response(InternalServerError())


async def _handle_client_disconnected(_request: Request, _error: Exception) -> Response:
    """Return a status for the log and the metrics only: without it the framework would count a 500."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _handle_validation_error(request: Request, error: Exception) -> Response:
    faults = error.errors() if isinstance(error, RequestValidationError) else []
    is_body_fault = any(fault["loc"][:1] == ("body",) and fault["type"] != "missing" for fault in faults)
    if is_body_fault and not _is_json(request.headers.get("content-type", "")):
        return problem_response(
            UnsupportedMediaType(
                "the body must be JSON, with Content-Type: application/json", {"accept": "application/json"}
            )
        )
    said = "; ".join(f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in faults[:5])
    return problem_response(BadRequest(said))


def _is_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))


async def _handle_http_exception(_request: Request, error: Exception) -> Response:
    """Starlette's own errors: an unknown path, a wrong method, a body over the limit or not JSON."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = str(error.detail) if isinstance(error, HTTPException) else ""
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    match status:
        case 404:
            return problem_response(NotFound("resource not found"))
        case 405:
            if "GET" in headers.get("Allow", "") and "HEAD" not in headers["Allow"]:
                headers["Allow"] += ", HEAD"
            return problem_response(MethodNotAllowed("method not allowed", headers))
        case 413:
            return problem_response(ContentTooLarge("the request body is too large", headers))
        case _ if 400 <= status < 500:
            return problem_response(BadRequest(detail, headers))
        case _:
            return problem_response(InternalServerError())
