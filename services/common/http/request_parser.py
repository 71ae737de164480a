"""Parses HTTP/1.1 requests: bytes in, cut anywhere; heads, pieces of bodies and errors out.

The twin of the gateway's response parser. httptools checks the grammar, and `request_head` what that leaves open.
"""

import re
from typing import Any, Final, Never

import httptools

from services.common.errors import BadRequest, GridcastError, HeadersTooLarge, TooManyRequests, URITooLong
from services.common.http.request_head import (
    MAX_TARGET,
    VALIDATED_HEADERS,
    RequestHead,
    RequestHeadValidator,
    is_origin_form,
    names_websocket,
    split_absolute_form,
)

MAX_REMEMBERED_TARGET = 1024
"""Bytes of a request target that is remembered until the next one: players ask for hundreds of ranges of one address. With a
signed link it has about 400, and more where names are long.
"""
MAX_REQUESTS_PER_READ = 64
"""Requests parsed out of one read: 429 beyond. One read brings 256 KiB, and the ten thousand small requests in it took 9 MiB. More
than a connection accepts before it has answered one, so the limit only bounds memory.
"""

_UNSUPPORTED_METHODS = frozenset(
    b"CONNECT ANNOUNCE DESCRIBE FLUSH GET_PARAMETER PAUSE PLAY RECORD REDIRECT SETUP SET_PARAMETER SOURCE TEARDOWN".split()
)
"""CONNECT, and methods that httptools accepts with RTSP and ICE only. RTSP has GET, POST and OPTIONS besides."""
_CHUNKED_HEAD = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
_NOT_HTTP = "not HTTP/1.1"


class EndOfMessage:
    """The body of the last head is complete."""

    __slots__ = ()


END_OF_MESSAGE: Final = EndOfMessage()

Event = RequestHead | bytes | EndOfMessage | GridcastError
"""A head, a piece of its body, the end of that body (where the head announced one), or an error, after which nothing is parsed."""


class RequestParser:
    """Parses the requests of one connection, one behind the other.

    After an error or a WebSocket handshake it must not be fed again.

    A body whose length is known does not pass through httptools, which copies each piece: in an upload through the gateway the
    copies took, together with uvicorn's, 40 % of the CPU.

    An upgrade to a protocol that is not offered is ignored (RFC 9110, 7.8): the request is parsed as one without it.

    Attributes:
        in_head: a head has begun and is not complete.
        in_body: a body has begun and is not complete.
        trailing_data: what came behind a WebSocket handshake.
    """

    __slots__ = (
        "_body_left",
        "_body_pieces",
        "_bytes_without_progress",
        "_error",
        "_events",
        "_head_count",
        "_head_text",
        "_headers",
        "_offers_websocket",
        "_parser",
        "_progress",
        "_raw_body",
        "_requests",
        "_target",
        "_upgrade_ignored",
        "_valid_target",
        "_validator",
        "_validator_class",
        "in_body",
        "in_head",
        "trailing_data",
    )

    def __init__(
        self, validator_class: type[RequestHeadValidator] = RequestHeadValidator, *, offers_websocket: bool = False
    ) -> None:
        """`validator_class` has the limits of a head."""
        self._validator_class = validator_class
        self._offers_websocket = offers_websocket
        self._parser = self._new_parser(self)
        self._events: list[Event] = []
        self._error: GridcastError | None = None
        self._validator = validator_class()
        self._target = self._valid_target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._requests = self._head_count = 0
        self._body_left: int | None = 0  # None: chunked
        self._body_pieces: list[bytes] = []
        self.in_body = self._raw_body = self._progress = self._upgrade_ignored = False
        self._head_text = b""  # what came of the present head in earlier reads
        self._bytes_without_progress = 0
        self.in_head = False
        self.trailing_data = b""

    def feed(self, data: bytes) -> list[Event]:
        """Parse bytes as they arrived. An error is the last event."""
        events = self._events = []
        if self._raw_body:
            data = self._feed_raw_body(data, self._body_left or 0)
            if not data:
                return events
        at_head = not (self.in_head or self.in_body)
        self._progress = False
        self._requests = self._head_count = 0
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserUpgrade, httptools.HttpParserError) as stop:
            self._on_stop(data, stop)
        if self.in_head or self._head_count > 1 or not at_head:
            self._check_protocol(data)
        elif self._head_count:
            line_end = data.find(b"\n")
            if data[line_end - 9 : line_end - 4] != b"HTTP/":
                self._check_protocol(data)
        if self._error is not None:
            # The frames of its traceback hold this parser: a cycle that would keep the bytes of a head until it is collected.
            self._error.with_traceback(None)
            return events
        self._raw_body = bool(self._body_left)
        self._emit_body()
        # httptools holds a field, a trailer or a chunk's extension until it is complete, and sets no limit.
        if self._progress:
            self._bytes_without_progress = 0
            return events
        self._bytes_without_progress += len(data)
        if self._bytes_without_progress > MAX_TARGET + self._validator_class.max_field_bytes:
            events.append(HeadersTooLarge("the header fields are too large"))
        return events

    @property
    def body_left(self) -> int | None:
        """Bytes of the present body that were not fed yet; 0 where there is none, None where it is chunked."""
        return self._body_left

    def close(self) -> None:
        """Release httptools' parser, which refers back to this object: no garbage collection is needed to free the two."""
        del self._parser

    def _new_parser(self, callbacks: object) -> Any:
        parser = httptools.HttpRequestParser(callbacks)
        # A request behind one with `Connection: close` is no error: the one before is still to be answered.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _on_stop(self, data: bytes, stop: Exception) -> None:
        """Handle what stops httptools: an error, a WebSocket handshake, or an ignored upgrade, behind which parsing goes on."""
        while isinstance(stop, httptools.HttpParserUpgrade):
            data = data[stop.args[0] :]
            if not self._upgrade_ignored:
                self.trailing_data = data
                return
            data = self._resume_after_upgrade(data)
            if not data:
                return
            try:
                self._parser.feed_data(data)
            except (httptools.HttpParserUpgrade, httptools.HttpParserError) as next_stop:
                stop = next_stop
            else:
                return
        self._emit_body()
        self._error = self._error or BadRequest("malformed HTTP/1.1 request")
        self._events.append(self._error)

    def _feed_raw_body(self, data: bytes, left: int) -> bytes:
        """Take the rest of a body; return what is behind it."""
        if len(data) < left:
            self.on_body(data)
            self._emit_body()
            return b""
        self.on_body(data[:left])
        self._raw_body = False
        self._parser = self._new_parser(self)  # the present one is in the middle of this body
        self.on_message_complete()
        return data[left:]

    def _emit_body(self) -> None:
        """Emit the pieces of the body that came in one read as one: a client may send a chunk for each byte."""
        if pieces := self._body_pieces:
            self._events.append(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            pieces.clear()

    @property
    def reads_raw_body(self) -> bool:
        """Whether what comes next is a part of a body whose length is known: it is passed on as it is."""
        return self._raw_body

    def _resume_after_upgrade(self, data: bytes) -> bytes:
        """Go on behind a head whose upgrade is ignored: httptools stops there. Returns what is to be parsed."""
        self._upgrade_ignored = False
        if self._body_left is None:
            callbacks = _ChunkedBodyCallbacks(self)
            self._parser = self._new_parser(callbacks)
            self._parser.feed_data(_CHUNKED_HEAD)
            callbacks.active = True
            return data
        self._parser = self._new_parser(self)
        if not self._body_left or not data:
            return data
        return self._feed_raw_body(data, self._body_left)

    def _check_protocol(self, data: bytes) -> None:
        """Replace a head of RTSP, which httptools takes for one of HTTP, by an error.

        httptools does not tell the protocol. So the request lines are searched for, in the order of the heads out of this read.
        """
        text = self._head_text + data
        self._head_text = text[-MAX_TARGET - self._validator_class.max_field_bytes :] if self.in_head else b""
        if not self._head_count or b"RTSP/" not in text:
            return
        position = 0
        for index, event in enumerate(self._events):
            if isinstance(event, RequestHead):
                line = (event.method.encode("ascii"), re.escape(event.target[1:]))
                pattern = re.compile(rb"(?:\A|\n)%s +(?:(?i:https?)://[^ /?]*)?/?%s +([A-Z]+)/" % line)
                if (match := pattern.search(text, position)) is None:
                    continue
                if match[1] == b"RTSP":
                    self._error = BadRequest(_NOT_HTTP)
                    self._events[index:] = [self._error]
                    return
                position = match.end()

    def _fail(self, error: GridcastError) -> Never:
        self._error = error
        raise error

    # Called by httptools. An error raised here comes out of feed_data as HttpParserError.

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._requests += 1
        if self._requests > MAX_REQUESTS_PER_READ:
            self._fail(TooManyRequests("too many pipelined requests on one connection"))
        self._target = b""
        self._headers = []
        self._validator = self._validator_class()
        self.in_head = True

    def on_url(self, target: bytes) -> None:
        """Take a piece of the request target."""
        self._target += target
        if len(self._target) > MAX_TARGET:
            self._fail(URITooLong(f"the request target is longer than {MAX_TARGET} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head, or a trailer: that is counted and dropped (RFC 9110, 6.5.1 forbids to merge it unseen)."""
        try:
            self._validator.count_field(name, value)
            if self.in_head:
                name = name.lower()
                # RFC 9110, 5.5: SP and HTAB; httptools removes those in front, and accepts no other white space.
                value = value.rstrip()
                if name in VALIDATED_HEADERS:
                    self._validator.validate_field(name, value)
                self._headers.append((name, value))
        except GridcastError as error:
            self._fail(error)

    def on_headers_complete(self) -> None:
        """Validate the head and emit it."""
        parser, validator = self._parser, self._validator
        version: str = parser.get_http_version()
        method: bytes = parser.get_method()
        upgrade: bool = parser.should_upgrade()
        websocket = False
        try:
            if method in _UNSUPPORTED_METHODS:
                raise BadRequest("CONNECT is not supported" if method == b"CONNECT" else _NOT_HTTP)
            validator.validate_head(version)
            if self._target == self._valid_target:
                self._target = self._valid_target  # the same object: its hash and what was made of it are known
            elif not is_origin_form(self._target):
                self._replace_absolute_form(method)
            elif len(self._target) <= MAX_REMEMBERED_TARGET:
                self._valid_target = self._target
            if upgrade:
                websocket = self._offers_websocket and version == "1.1" and names_websocket(self._headers)
                self._upgrade_ignored = not websocket
                if websocket and (method != b"GET" or validator.has_body):
                    # A body would be read as frames.
                    raise BadRequest("a WebSocket handshake must be a GET without a body")
        except GridcastError as error:
            self._fail(error)
        self.in_head = False
        self._progress = True
        self._head_count += 1
        self._body_left = length = validator.content_length
        self.in_body = length != 0
        keep_alive: bool = version != "1.0" and parser.should_keep_alive()
        head = RequestHead(
            method.decode("ascii"),
            self._target,
            version,
            self._headers,
            length,
            validator.expect_continue,
            keep_alive,
            websocket,
        )
        self._events.append(head)

    def _replace_absolute_form(self, method: bytes) -> None:
        """Put the target into origin form. Its authority replaces Host (RFC 9112, 3.2.2)."""
        authority, target = split_absolute_form(self._target)
        if method == b"OPTIONS" and self._target.endswith(authority):
            raise BadRequest("the asterisk form is not supported")  # what an empty path means here (RFC 9112, 3.2.4)
        self._target = target
        self._headers = [field for field in self._headers if field[0] != b"host"]
        self._headers.append((b"host", authority))

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._progress = True
        if self._body_left is not None:
            self._body_left -= len(data)
        self._body_pieces.append(data)

    def on_message_complete(self) -> None:
        """Emit the end of the body, where there is one. Where an upgrade is ignored, httptools leaves out the body."""
        self._emit_body()
        if self.in_body and not self._upgrade_ignored:
            self.in_body = False
            self._events.append(END_OF_MESSAGE)


class _ChunkedBodyCallbacks:
    """Callbacks of an httptools parser that begins with a chunked body: it parses `_CHUNKED_HEAD` while they are not `active`."""

    __slots__ = ("_owner", "active")

    def __init__(self, owner: RequestParser) -> None:
        self._owner = owner
        self.active = False

    def on_message_begin(self) -> None:
        if self.active:
            self._owner.on_message_begin()

    def on_url(self, target: bytes) -> None:
        if self.active:
            self._owner.on_url(target)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.active:
            self._owner.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.active:
            self._owner.on_headers_complete()

    def on_body(self, data: bytes) -> None:
        self._owner.on_body(data)

    def on_message_complete(self) -> None:
        self._owner.on_message_complete()
