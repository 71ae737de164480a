"""Parses HTTP/1.1 requests: bytes in, cut anywhere; heads, pieces of bodies and errors out.

The twin of the gateway's response parser. httptools checks the grammar. This adds what it accepts and two parsers could read
differently (request smuggling), and limits; each error carries the status with which it is answered.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, Never

import httptools

from services.common.errors import (
    BadRequest,
    ExpectationFailed,
    GridcastError,
    HeadersTooLarge,
    TooManyRequests,
    URITooLong,
)

MAX_TARGET = 8 * 1024
"""Bytes of path and query: 414 beyond."""
MAX_FIELDS = 100
"""Header fields: 431 beyond."""
MAX_FIELD_BYTES = 32 * 1024
"""Bytes of all header fields together, and of trailers: 431 beyond."""
MAX_REQUESTS_PER_READ = 64
"""Requests parsed out of one read: 429 beyond. One read brings 256 KiB, and the ten thousand small requests in it took 9 MiB. More
than a connection accepts before it has answered one, so the limit only bounds memory.
"""

VALIDATED_HEADERS = frozenset({b"host", b"transfer-encoding", b"content-length", b"expect"})
"""Names of the fields that `RequestHeadValidator.validate_field` checks."""

_LENGTH = re.compile(rb"[0-9]{1,19}\Z")
_TARGET = re.compile(rb"/[!\"$-~]*\Z")
_HOST = re.compile(rb"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")


class RequestHeadValidator:
    """Validates one request's head as it arrives.

    `content_length` is that of the body, None where it is chunked; `expect_continue`: the client waits for a 100 before it
    sends it.
    """

    # On the class, so that a head costs only what it says: setting all of them took 0.2 of 8 us for a small request.
    _bytes = _count = _hosts = 0
    _chunked = False
    content_length: int | None = 0
    expect_continue = False

    def count_field(self, name: bytes, value: bytes) -> None:
        """Count a field or a trailer. Raises FieldsTooLarge beyond MAX_FIELDS or MAX_FIELD_BYTES."""
        self._bytes += len(name) + len(value) + 4
        self._count += 1
        if self._bytes > MAX_FIELD_BYTES or self._count > MAX_FIELDS:
            raise HeadersTooLarge("the header fields are too large or too many")

    def validate_field(self, name: bytes, value: bytes) -> None:
        """Validate a field whose name is in lower case. Raises BadRequest or ExpectationFailed."""
        if name == b"host":
            self._hosts += 1
            if not _HOST.match(value):
                raise BadRequest("malformed Host header")
        elif name == b"transfer-encoding":
            self._chunked, self.content_length = True, None
            if value.lower() != b"chunked":
                raise BadRequest("unsupported transfer coding: only chunked is supported")
        elif name == b"content-length":
            if not _LENGTH.match(value):
                raise BadRequest("Content-Length is not a number")
            self.content_length = None if self._chunked else int(value)
        elif name == b"expect":
            self.expect_continue = True
            if value.lower() != b"100-continue":
                raise ExpectationFailed("unsupported expectation: only 100-continue is supported")

    @property
    def has_body(self) -> bool:
        """Whether a body follows the head."""
        return self.content_length != 0

    def validate_head(self, version: str, target: bytes) -> None:
        """Validate a complete head. Raises BadRequest."""
        if version not in {"1.0", "1.1"}:
            raise BadRequest("unsupported HTTP version: only HTTP/1.0 and HTTP/1.1 are supported")
        if not _TARGET.match(target):
            raise BadRequest("the request target must be a path")
        if self._hosts > 1 or (self._hosts == 0 and version == "1.1"):
            raise BadRequest("exactly one Host header is required")
        if version == "1.0":
            if self._chunked:
                raise BadRequest("Transfer-Encoding is not allowed in HTTP/1.0")
            self.expect_continue = (
                False  # nor interim responses: its client would take a 100 for the response (RFC 9110, 10.1.1)
            )


@dataclass(slots=True)
class RequestHead:
    """A complete and valid head. Names in `headers` are in lower case.

    `content_length` is None for a chunked body. `expect_continue`: the client waits for a 100 before it sends the body.
    `keep_alive`: it lets the connection persist. `upgrade`: it asks for another protocol; nothing behind this head is parsed.
    """

    method: str
    target: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    content_length: int | None
    expect_continue: bool
    keep_alive: bool
    upgrade: bool

    def asks_for_websocket(self) -> bool:
        """Whether `upgrade` names the WebSocket protocol (RFC 6455, 4.2.1)."""
        options: list[bytes] = []
        protocol = b""
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.lower().split(b",")]
            elif name == b"upgrade":
                protocol = value.lower()
        return self.upgrade and b"upgrade" in options and protocol == b"websocket"


class EndOfMessage:
    """The body of the last head is complete."""

    __slots__ = ()


END_OF_MESSAGE: Final = EndOfMessage()

Event = RequestHead | bytes | EndOfMessage | GridcastError
"""A head, a piece of its body, the end of that body (where the head announced one), or an error, after which nothing is parsed."""


class RequestParser:
    """Parses the requests of one connection, one behind the other. After an error or an upgrade it must not be fed again.

    A body whose length is known does not pass through httptools, which copies each piece: in an upload through the gateway the
    copies took, together with uvicorn's, 40 % of the CPU.

    `in_head`: a head has begun and is not complete. `trailing_data`: what came behind a head that asks for an upgrade.
    """

    __slots__ = (
        "_body_left",
        "_body_pieces",
        "_bytes_without_progress",
        "_error",
        "_events",
        "_has_body",
        "_headers",
        "_parser",
        "_progress",
        "_raw_body",
        "_requests",
        "_target",
        "_validator",
        "in_head",
        "trailing_data",
    )

    def __init__(self) -> None:
        self._parser = self._new_parser()
        self._events: list[Event] = []
        self._error: GridcastError | None = None
        self._validator = RequestHeadValidator()
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._requests = 0
        self._body_left: int | None = 0  # None: chunked
        self._body_pieces: list[bytes] = []
        self._has_body = self._raw_body = self._progress = False
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
        self._progress = False
        self._requests = 0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.trailing_data = data[upgrade.args[0] :]
            return events
        except httptools.HttpParserError:
            self._emit_body()
            events.append(self._error or BadRequest("malformed HTTP/1.1 request"))
            return events
        self._raw_body = bool(self._body_left)
        self._emit_body()
        # httptools holds a field, a trailer or a chunk's extension until it is complete, and sets no limit.
        if self._progress:
            self._bytes_without_progress = 0
            return events
        self._bytes_without_progress += len(data)
        if self._bytes_without_progress > MAX_TARGET + MAX_FIELD_BYTES:
            events.append(HeadersTooLarge("the header fields are too large"))
        return events

    def close(self) -> None:
        """Release httptools' parser, which refers back to this object: no garbage collection is needed to free the two."""
        del self._parser

    def _new_parser(self) -> Any:
        parser = httptools.HttpRequestParser(self)
        # A request behind one with `Connection: close` is no error: the one before is still to be answered.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _feed_raw_body(self, data: bytes, left: int) -> bytes:
        """Take the rest of a body; return what is behind it."""
        if len(data) < left:
            self.on_body(data)
            self._emit_body()
            return b""
        self.on_body(data[:left])
        self._raw_body = False
        self._parser = self._new_parser()  # the present one is in the middle of this body
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
        self._validator = RequestHeadValidator()
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
        try:
            validator.validate_head(version, self._target)
        except GridcastError as error:
            self._fail(error)
        if upgrade and (method == b"CONNECT" or validator.has_body):
            # httptools ends such a request at its head: its body would be read as the next request.
            self._fail(BadRequest("CONNECT and the upgrade of a request with a body are not supported"))
        self.in_head = False
        self._progress = True
        self._body_left = length = validator.content_length
        self._has_body = length != 0
        keep_alive: bool = version != "1.0" and parser.should_keep_alive()
        head = RequestHead(
            method.decode("ascii"),
            self._target,
            version,
            self._headers,
            length,
            validator.expect_continue,
            keep_alive,
            upgrade,
        )
        self._events.append(head)

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._progress = True
        if self._body_left is not None:
            self._body_left -= len(data)
        self._body_pieces.append(data)

    def on_message_complete(self) -> None:
        """Emit the end of the body, where there is one."""
        self._emit_body()
        if self._has_body:
            self._has_body = False
            self._events.append(END_OF_MESSAGE)
