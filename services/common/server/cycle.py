"""One request and its response, as ASGI sees them: from a parsed head to the last byte."""

import asyncio
import logging
from typing import Any, Protocol

from services.common.asgi import ASGIApp, Message, Scope
from services.common.errors import InternalServerError
from services.common.http.encoding import (
    CONTINUE,
    NO_HEADERS,
    PreencodedHeaders,
    encode_chunk,
    encode_response_head,
)
from services.common.http.problem import encode_problem, problem_headers
from services.common.server.date_header import date_header
from services.common.server.transport import CoalescingTransport
from services.common.telemetry.request_id import new_request_id

BODY_HIGH_WATER = 64 * 1024
"""Bytes of a request's body that wait for the application; beyond, the connection is not read."""

_log = logging.getLogger("gridcast.server")


class CycleOwner(Protocol):
    """Decides how a connection goes on when a response ends."""

    def close(self) -> None:
        """Close the connection, in the way the state of the response asks for."""

    def response_complete(self) -> None:
        """Go on with the next request."""


class RequestBodyReader:
    """Buffers a request's body on its way to the application. A piece that finds the buffer empty is handed over without a copy.

    `complete`: its end has arrived, though bytes may still wait here.
    """

    __slots__ = ("_buffer", "_changed", "_end_taken", "_transport", "complete")

    def __init__(self, transport: CoalescingTransport, *, complete: bool) -> None:
        self._transport = transport
        self._buffer: bytes | bytearray = b""
        self._changed = asyncio.Event()
        self._end_taken = False
        self.complete = complete
        if complete:
            self._changed.set()

    def feed(self, data: bytes) -> None:
        """Append a piece; pause reading above BODY_HIGH_WATER."""
        buffer = self._buffer
        if not buffer:
            self._buffer = data
        elif isinstance(buffer, bytearray):
            buffer += data
        else:
            self._buffer = bytearray().join((buffer, data))
        if len(self._buffer) > BODY_HIGH_WATER:
            self._transport.pause_reading()
        self._changed.set()

    def finish(self) -> None:
        """Note the end of the body."""
        self.complete = True
        self._changed.set()

    def wake(self) -> None:
        """Let `wait` return though nothing came."""
        self._changed.set()

    async def wait(self) -> None:
        """Read on, and wait for a piece, for the end or for `wake`."""
        self._transport.resume_reading()
        await self._changed.wait()
        self._changed.clear()

    def take(self) -> bytes:
        """Return what has arrived."""
        data, self._buffer = bytes(self._buffer), b""
        self._end_taken = self.complete
        return data

    def is_left_unread(self) -> bool:
        """Whether all bytes have arrived, and not all were taken."""
        return self.complete and bool(self._buffer)

    def has_rest(self) -> bool:
        """Whether bytes have arrived, or the end has, that were not taken."""
        return bool(self._buffer) or (self.complete and not self._end_taken)


class RequestCycle:
    """Runs the application for one request, and encodes what it sends.

    uvicorn's looks at each field of a response with two expressions and for three names, 12 us where there are twelve fields.
    This looks once at the whole head, and only once at fields that many responses share.

    `close_delimited`: the body ends with the connection, because HTTP/1.0 has no chunked coding (RFC 9112, 6.3).
    """

    __slots__ = (
        "_awaiting_continue",
        "_body_left",
        "_chunked",
        "_owner",
        "_transport",
        "body",
        "close_delimited",
        "disconnected",
        "keep_alive",
        "response_complete",
        "response_started",
        "scope",
    )

    def __init__(
        self,
        scope: Scope,
        transport: CoalescingTransport,
        owner: CycleOwner,
        *,
        keep_alive: bool,
        expect_continue: bool,
        has_body: bool,
    ) -> None:
        self.scope = scope
        self._transport = transport
        self._owner = owner
        self.keep_alive = keep_alive
        self.body = RequestBodyReader(transport, complete=not has_body)
        self._awaiting_continue = expect_continue
        self._body_left = 0
        self._chunked = False
        self.close_delimited = False
        self.disconnected = False
        self.response_started = False
        self.response_complete = False

    async def run(self, app: ASGIApp) -> None:
        """Run the application. A response that it does not begin is a 500; one that it does not end is aborted."""
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the client gets an end
            _log.error("Exception in ASGI application\n", exc_info=error)
            if self.response_started:
                self._owner.close()
            else:
                await self._send_internal_error()
        else:
            if self.response_complete or self.disconnected:
                return
            if self.response_started:
                _log.error("ASGI callable returned without completing response.")
                self._owner.close()
            else:
                _log.error("ASGI callable returned without starting response.")
                await self._send_internal_error()

    def disconnect(self) -> None:
        """Mark the client as disconnected, or as answered by the server itself: `receive` reports it behind
        the bytes that have arrived, and nothing more is sent.
        """
        self.disconnected = True
        self.body.wake()

    # ASGI's receive.

    async def receive(self) -> Message:
        """Return a piece of the body, or http.disconnect once the response is complete or the client has gone.

        What a client has sent before it went comes first: a request that has arrived as a whole is carried out, and its response
        is discarded.
        """
        if self._awaiting_continue and not self._transport.is_closing():
            self._transport.write(CONTINUE)
            self._awaiting_continue = False
        if not self.disconnected and not self.response_complete:
            await self.body.wait()
        if self.response_complete or (self.disconnected and not self.body.has_rest()):
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self.body.take(), "more_body": not self.body.complete}

    # ASGI's send.

    async def send(self, message: Message) -> None:
        """Encode and write. Waits before it writes, not after; returns without a word once the client has gone.

        An `http.response.start` may have two members that ASGI does not know: see `connection_info.ConnectionInfo`. Raises
        RuntimeError for a message out of its turn, a body of another length than its head says, or a control character in a
        field.
        """
        if self._transport.write_paused and not self.disconnected:
            await self._transport.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.body" and self.response_started and not self.response_complete:
            self._send_body(message.get("body", b""), more=message.get("more_body", False))
        elif kind == "http.response.start" and not self.response_started:
            preencoded = message.get("preencoded", NO_HEADERS)
            head = self._start_response(message["status"], message.get("headers", ()), preencoded)
            if (body := message.get("body")) is None:
                self._transport.write(head)
            else:
                self._send_whole(head, body)
        else:
            raise RuntimeError(f"unexpected ASGI message {kind}")

    def _start_response(self, status: int, headers: Any, preencoded: PreencodedHeaders) -> bytes:
        """Return the encoded head; decide how the body's end is marked (RFC 9112, 6.3) and whether the connection persists."""
        self.response_started = True
        self._awaiting_continue = False
        fields = [date_header(), *headers]
        by_name = dict(fields)
        if (length := by_name.get(b"content-length")) is not None:
            self._body_left = int(length) if status != 304 else 0  # a 304 may say what a 200 would have
        elif self.scope["method"] != "HEAD" and status not in {204, 304}:
            if self.scope["http_version"] == "1.0":
                self.close_delimited = True  # no HTTP/1.0 connection is kept
            else:
                self._chunked = True
                fields.append((b"transfer-encoding", b"chunked"))
        if (connection := by_name.get(b"connection")) is None:
            if not self.keep_alive:
                fields.append((b"connection", b"close"))
        elif b"close" in connection.lower():
            self.keep_alive = False
        return encode_response_head(status, fields, preencoded)

    def _send_whole(self, head: bytes, body: Any) -> None:
        if self.scope["method"] != "HEAD" and not self._chunked and self._body_left == len(body):
            self._body_left = 0
            self._transport.write_response(head, body)
            self._complete()
        else:
            self._transport.write(head)
            self._send_body(body, more=False)

    def _send_body(self, data: Any, *, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            self._body_left = 0
        elif self._chunked:
            if chunk := encode_chunk(data, last=not more):
                self._transport.write(chunk)
        elif size := len(data):
            if not self.close_delimited:
                self._body_left -= size
                if self._body_left < 0:
                    raise RuntimeError("response body longer than Content-Length")
            self._transport.write(data)
        if not more:
            if self._body_left:
                raise RuntimeError("response body shorter than Content-Length")
            self._complete()

    def _complete(self) -> None:
        self.response_complete = True
        self.body.wake()
        if not self.keep_alive:
            self._owner.close()
        self._owner.response_complete()

    async def _send_internal_error(self) -> None:
        """Answer in place of the application, which `RequestMiddleware` does before in all of ours."""
        error = InternalServerError()
        body = encode_problem(error)
        request_id = self.scope.get("request_id") or new_request_id()
        headers = [
            *problem_headers(error, body),
            (b"x-request-id", request_id.encode("ascii")),
            (b"connection", b"close"),
        ]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})
