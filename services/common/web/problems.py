"""Sends errors as responses: to an ASGI `send`, and from FastAPI's exception handlers."""

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from services.common.asgi import CLIENT_CLOSED_REQUEST, ASGIApp, ClientDisconnected, Message, Receive, Scope, Send
from services.common.errors import (
    BadRequest,
    ContentTooLarge,
    GridcastError,
    InternalServerError,
    MethodNotAllowed,
    NotFound,
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


class ProblemFastAPI(FastAPI):
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
