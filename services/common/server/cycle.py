"""One request and its answer on a connection, from a parsed head to the last byte: the part that ASGI sees.

uvicorn's own does the same for more: it looks at each field of an answer with two expressions and for three names, 12 us where
there are twelve fields. This looks once at the whole head, and only once at the fields that many answers share. It knows no route
and no rule of a request's head.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from services.common.http import encoding
from services.common.http.encoding import Ready, Shared
from services.common.server.transport import Readers, Wire

AT_ONCE = 8
"""Answers without a task, out of one read: 256 KiB hold ten thousand small requests, and others wait for their turn."""


class Cycle(RequestResponseCycle):
    """uvicorn's, which receives, with an answer that costs less."""

    until_close = False
    """The end of the connection is that of the answer: an HTTP/1.0 client knows no chunks (RFC 9112, 6.1)."""

    async def send(self, message: Any) -> None:
        """ASGI's send: waits before it writes, not after, and says nothing when the client has gone.

        What ASGI does not have: a start may bring `shared`, and `body`, which is all of it, where two messages would cost more.
        """
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.body" and self.response_started and not self.response_complete:
            self._body(message.get("body", b""), more=message.get("more_body", False))
        elif kind == "http.response.start" and not self.response_started:
            head = self._head(message["status"], message.get("headers", ()), message.get("shared", encoding.NONE))
            if (body := message.get("body")) is None:
                self.transport.write(head)
            else:
                self._whole(head, body)
        else:
            raise RuntimeError(f"unexpected ASGI message {kind}")

    def _head(self, status: int, headers: Any, shared: Shared) -> bytes:
        self.response_started = True
        self.waiting_for_100_continue = False
        fields = [*self.default_headers, *headers]
        stated = dict(fields)
        if (length := stated.get(b"content-length")) is not None:
            self.expected_content_length = int(length) if status != 304 else 0  # it may say what a 200 would have
        elif self.scope["method"] != "HEAD" and status not in {204, 304}:
            if self.scope["http_version"] == "1.0":
                self.until_close = True  # uvicorn keeps no HTTP/1.0 connection
            else:
                self.chunked_encoding = True
                fields.append((b"transfer-encoding", b"chunked"))
        if (connection := stated.get(b"connection")) is None:
            if not self.keep_alive:
                fields.append((b"connection", b"close"))
        elif b"close" in connection.lower():
            self.keep_alive = False
        return encoding.head(status, fields, shared)

    def _whole(self, head: bytes, body: Any) -> None:
        if self.scope["method"] != "HEAD" and not self.chunked_encoding and self.expected_content_length == len(body):
            self.expected_content_length = 0
            cast("Wire", self.transport).send(head, body)
            self._complete()
        else:
            self.transport.write(head)
            self._body(body, more=False)

    def _body(self, data: Any, *, more: bool) -> None:
        size = len(data)
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
        elif self.chunked_encoding:
            end = b"" if more else b"0\r\n\r\n"
            if size or end:
                self.transport.write(b"".join((b"%x\r\n" % size, data, b"\r\n", end)) if size else end)
        elif size:
            if not self.until_close:
                self.expected_content_length -= size
                if self.expected_content_length < 0:
                    raise RuntimeError("response body longer than Content-Length")
            self.transport.write(data)
        if not more:
            if self.expected_content_length:
                raise RuntimeError("response body shorter than Content-Length")
            self._complete()

    def _complete(self) -> None:
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class Cycles(Readers):
    """The part of a connection that makes one of each request."""

    _running: RequestResponseCycle | None = None
    _wire: Wire
    _left: int | None = None
    """Bytes of the body that are still to come; None where it is chunked."""
    at_once: Callable[[Any], Ready | None] | None = None
    """The application's, where it has one (`services.common.web.middleware`): an answer without a task, a coroutine or an event."""
    at_once_left = AT_ONCE

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone: uvicorn tells the last of the requests on it, which may be another than the one that runs."""
        if (running := self._running) is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def begin(self, version: str) -> None:
        """A head is whole: its request goes to the application, or behind the one that runs."""
        path, _, query = self.url.partition(b"?")
        text = path.decode("ascii")
        scope: Any = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": self.parser.get_method().decode("ascii"),
            "root_path": "",
            "path": unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": query,
            "headers": self.headers,
            "state": self.app_state.copy(),
            # For whoever asks how much the client took, whether it takes anything now, or whether it has gone.
            "extensions": {"gridcast": self.transport, "gridcast.flow": self.flow},
        }
        running = self.cycle
        keep_alive = version != "1.0" and self.parser.should_keep_alive()
        busy = running is not None and not running.response_complete
        if keep_alive and not busy and self._answer_at_once(scope):
            return
        self.cycle = Cycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )
        if busy:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))
        else:
            self._start_asgi_task(self.cycle, self.app)

    def _answer_at_once(self, scope: Any) -> bool:
        """Only where no body follows, and the client has taken what it was sent before: nothing else bounds what waits for it."""
        ask = self.at_once
        if (
            ask is None
            or self.at_once_left == 0
            or self._left != 0
            or self.expect_100_continue
            or self.flow.write_paused
        ):
            return False
        if (ready := ask(scope)) is None:
            return False
        self.at_once_left -= 1
        fields = [*self.server_state.default_headers, *ready.headers]
        self._wire.send(encoding.head(ready.status, fields, ready.shared), ready.body)
        self.server_state.total_requests += 1
        self.rest()
        return True
