"""uvicorn's HTTP/1.1 protocol with our limits, for every service and the gateway. It knows no route and no service.

What it adds to the rules of `heads`: a head has ten seconds; trailers are not taken for fields; a refusal waits for its turn behind
answers that are still due; an upgrade does not swallow a body. And three ways of ending a connection: an answer sent before its
request was read is followed by reading on for a moment, so that a reset does not destroy it; an answer that breaks off is reset, so
that nobody takes it for a whole one; all else is closed as usual. A client that takes nothing of what it asked for is cut off.
"""

import asyncio
import logging
from typing import ClassVar, Never, cast

import httptools

from services.common.errors import (
    BadRequest,
    GridcastError,
    HeadersTooLarge,
    RequestTimeout,
    TooManyRequests,
    URITooLong,
)
from services.common.http.request_parser import JUDGED, MAX_FIELD_BYTES, MAX_TARGET, Head
from services.common.server.cycle import AT_ONCE
from services.common.server.transport import Taking, Wire, refusal, reset
from services.common.server.websocket import Upgrades

MAX_WAITING = 32
"""Requests that may wait behind the one being answered: 429 beyond. One read brings 256 KiB, and the ten thousand small requests in
it took 9 MiB.
"""

_access = logging.getLogger("gridcast.access")


class Http(Upgrades):
    """One client connection."""

    head_seconds: ClassVar[float] = 10.0
    """What a client has for sending a head: from the connection on, or from its first byte on a kept connection."""
    linger_seconds: ClassVar[float] = 3.0
    """How long the rest of a request is read and thrown away after an early answer."""

    _raw: asyncio.Transport
    _head: Head
    _refusal: GridcastError | None = None
    _deferred: GridcastError | None = None
    _timer: asyncio.TimerHandle | None = None
    _in_head = False
    _in_body = False
    _deaf = False
    _ending = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client connected: it has `head_seconds` for its first head."""
        self._raw = transport
        self._wire = Wire(transport, self, self.loop)
        self.taking = Taking(transport, self.loop)
        super().connection_made(cast("asyncio.Transport", self._wire))
        self.at_once = getattr(self.app, "at_once", None)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._ending = True
        self._disarm()
        self.taking.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of heads and bodies, cut anywhere."""
        if self._deaf:
            return
        self.resting = False
        self.at_once_left = AT_ONCE
        try:
            barren = self.feed(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(upgrade.args[0])
            return
        except httptools.HttpParserError:
            self._refuse(self._refusal or BadRequest("malformed HTTP/1.1 request"))
            return
        if barren > MAX_TARGET + MAX_FIELD_BYTES:
            self._refuse(HeadersTooLarge("the header fields are too large"))
        elif self._in_head or (not self.resting and not self._busy()):
            # A head, line ends between requests, or the rest of a body nobody wanted: not for ever.
            self._arm()

    # What httptools calls. An error raised here comes out of feed_data as HttpParserError.

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self.url = b""
        self.headers = []
        if len(self.pipeline) >= MAX_WAITING:
            self._fail(TooManyRequests("too many pipelined requests on one connection"))
        self._head = Head()
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        super().on_url(url)
        if len(self.url) > MAX_TARGET:
            self._fail(URITooLong(f"the request target is longer than {MAX_TARGET} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field of the head, or a trailer: that is counted and dropped (RFC 9110, 6.5.1 forbids to merge it unseen)."""
        try:
            self._head.count(name, value)
            if self._in_head:
                name = name.lower()
                if name in JUDGED:
                    self._head.field(name, value)
                self.headers.append((name, value))
        except GridcastError as error:
            self._fail(error)

    def on_headers_complete(self) -> None:
        """The head is whole: judge it, then let the application answer."""
        self._disarm()
        version, upgrading = self.parser.get_http_version(), self.parser.should_upgrade()
        try:
            self._head.judge(version, self.url)
        except GridcastError as error:
            self._fail(error)
        if upgrading:
            self._judge_upgrade(version)
        self.expect_100_continue = self._head.waits
        self._in_head = False
        self.expect_body(self._head.length)
        if not upgrading:
            self.begin(version)
            self._in_body = True
        elif not self._should_upgrade():
            self.at_once_left = 0  # it is the last answer, and httptools leaves us to end it
            self.begin(version)
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """The body is whole."""
        self._in_body = False
        if self.cycle is not None:  # else it was answered at once
            super().on_message_complete()

    def _judge_upgrade(self, version: str) -> None:
        """Where an upgrade is asked for, httptools ends the request at its head: a body would be read as the next one."""
        method = self.parser.get_method()
        if method == b"CONNECT" or self._head.has_body:
            self._fail(BadRequest("CONNECT and the upgrade of a request with a body are not supported"))
        if self._should_upgrade() and (method != b"GET" or version != "1.1" or self._busy()):
            self._fail(BadRequest("a WebSocket handshake must be a GET over HTTP/1.1 without pending requests"))

    def _upgrade(self, rest: bytes) -> None:
        """Hand the connection over to the WebSocket protocol, with what already came behind the head."""
        if not self._should_upgrade():
            self._deaf = True  # an upgrade we do not offer: the request is answered, then the connection is closed
            return
        self._disarm()
        self.hand_over(self._raw, rest)

    # Refusing.

    def _fail(self, error: GridcastError) -> Never:
        self._refusal = error
        raise error

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, error: GridcastError) -> None:
        """Answer `error` and end the connection; after the answers to requests that came before, if any are due."""
        self._deaf = True
        self._disarm()
        cycle = self.cycle
        due = self._busy()
        if self._in_body:
            if self._running is not cycle:
                self.pipeline.popleft()
            elif cycle.response_started:
                self.end()
                return
            else:
                cycle.disconnected = True
                cycle.message_event.set()
                due = False
        if due:
            self._deferred = error
        else:
            self._answer(error)

    def _answer(self, error: GridcastError) -> None:
        self._wire.write(refusal(error, self.server_state.default_headers))
        _access.info("request rejected", extra={"fields": {"status": error.status, "detail": error.detail}})
        self._linger()

    def on_response_complete(self) -> None:
        """An answer was sent: the next pipelined request may run, or a refusal that waited for its turn is sent."""
        super().on_response_complete()
        running, deferred = self._running, self._deferred
        if deferred is not None and running is not None and running.response_complete and not self._ending:
            self.resting = False
            self._answer(deferred)

    # Ending.

    def is_ending(self) -> bool:
        """Whether nothing more can be sent."""
        return self._ending or self._raw.is_closing()

    def end(self) -> None:
        """Close, in the way the state of the request asks for (see the top of this file)."""
        running = self._running
        if self._ending:
            return  # what is in the write buffer is still sent
        if running is not None and running.response_started and not running.response_complete:
            self._ending = self._deaf = True
            self._wire.flush()
            reset(self._raw)
        elif self._in_body and running is self.cycle:
            self._linger()
        else:
            self._ending = self._deaf = True
            self._wire.flush()
            self._raw.close()
            self.taking.wait(self.reader_seconds)  # for closing means to wait until all is taken

    def _linger(self) -> None:
        self._ending = self._deaf = True
        self._disarm()
        if self._raw.is_closing():
            return
        self.flow.resume_reading()
        self._wire.flush()
        self._raw.write_eof()
        self._timer = self.loop.call_later(self.linger_seconds, self._raw.abort)

    def _arm(self) -> None:
        if self._timer is None and not self._ending:
            self._timer = self.loop.call_later(self.head_seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self._busy():
            self._arm()  # we do not read while an answer is due, so it is not the client who is slow
        elif self._in_head:
            self._refuse(RequestTimeout(f"no complete request head within {self.head_seconds:g} seconds"))
        else:
            self.end()
