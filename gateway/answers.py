"""Reading an answer of a service: bytes in, cut anywhere; a status, fields and pieces of a body out. Pure.

The one file of the gateway that names the HTTP parser. httptools judges the grammar. This adds what it leaves open: an answer to
HEAD has no body, interim answers are skipped, trailers are dropped, a head has limits, and an answer without a length ends with its
connection, but only where that closes in order (RFC 9112, 6.3). It knows no connection: who feeds it sets a bound to what waits.
"""

from collections import deque
from typing import cast

import httptools

MAX_FIELDS = 128
"""Fields of an answer; and of its trailers."""
MAX_HEAD = 64 * 1024
"""Bytes that may come without completing a head or adding to a body. One read from a connection may go past it once."""
JOINED = 32 * 1024
"""Pieces that come to no more than this together are handed out as one: sending one costs more than copying it."""

Fields = list[tuple[bytes, bytes]]


class Unreadable(Exception):
    """What came is not an HTTP/1.1 answer within limits."""


class Answer:
    """The answers on one connection, one after the other: `begin` for each request, then `feed`.

    `ready`: status and fields are there. `over`: so is the whole body, though pieces of it may still have to be taken. `clean`: the
    connection stands where the next answer would begin. `continued`: the service asked for the request's body with a 100.
    """

    __slots__ = (
        "_chunked",
        "_fed",
        "_interim",
        "_left",
        "_method",
        "_moved",
        "_parser",
        "_pieces",
        "_trailers",
        "clean",
        "continued",
        "fields",
        "over",
        "ready",
        "status",
        "waiting",
    )

    def __init__(self) -> None:
        self._parser: httptools.HttpResponseParser | None = None
        self._pieces: deque[bytes] = deque()
        self.begin("")

    def begin(self, method: str) -> None:
        """The next answer is to a request with this method."""
        self._method = method
        self._left: int | None = None
        self._chunked = self._interim = self._moved = False
        self._fed = self._trailers = 0
        self._pieces.clear()
        self.status = 0
        self.fields: Fields = []
        self.waiting = 0
        self.ready = self.over = self.continued = False
        self.clean = True

    @property
    def empty(self) -> bool:
        """Whether no piece waits to be taken."""
        return not self._pieces

    def take(self) -> bytes:
        """The next piece of the body; there must be one."""
        pieces = self._pieces
        if len(pieces) > 1 and self.waiting <= JOINED:
            data = b"".join(pieces)
            pieces.clear()
        else:
            data = pieces.popleft()
        self.waiting -= len(data)
        return data

    def feed(self, data: bytes) -> None:
        """What the service sent. Raises Unreadable; what comes behind the end is no error, but `clean` no more."""
        if self.over:
            self.clean = False
        elif self.ready and self._left is not None:
            self._rest(data, self._left)
        else:
            self._parse(data)

    def end(self) -> bool:
        """The service closed the connection in order. Whether the answer is whole."""
        if self.ready and self._left is None and not self._chunked:
            self.over = True
        self.clean = False
        return self.over

    def _rest(self, data: bytes, left: int) -> None:
        """A body whose length is known passes the parser by, which would copy it."""
        if len(data) > left:
            data = data[:left]
            self.clean = False
        self._left = left - len(data)
        self.over = self._left == 0
        self._pieces.append(data)
        self.waiting += len(data)

    def _parse(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            parser = self._parser = httptools.HttpResponseParser(self)
        self._moved = False
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._parser = None
            if self.over:
                self.clean = False
                return
            why = error.__context__
            raise why if isinstance(why, Unreadable) else Unreadable(f"not HTTP/1.1: {error}") from None
        if self.over:
            return
        if self._moved:
            self._fed = 0
        else:
            self._fed += len(data)
            if self._fed > MAX_HEAD:
                raise Unreadable("the fields are too large")
        if self.ready and self._left is not None:
            self._parser = None  # it stands in the middle of a body

    # What httptools calls. An error raised here comes out of feed_data as HttpParserError.

    def on_message_begin(self) -> None:
        """The first byte of an answer, interim or final."""
        if self.over:
            raise Unreadable("an answer to nothing")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field of the head, or a trailer, which is counted and dropped (RFC 9110, 6.5.1 forbids to merge it unseen)."""
        if not self.ready:
            self.fields.append((name.lower(), value))
            return
        self._trailers += 1
        if self._trailers > MAX_FIELDS:
            raise Unreadable("too many trailers")

    def on_headers_complete(self) -> None:
        """The head of an answer is whole."""
        parser = cast("httptools.HttpResponseParser", self._parser)
        status = parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101:
                raise Unreadable(f"an answer that nobody asked for: {status}")
            self._interim = self._moved = True
            self.continued = self.continued or status == 100
            self.fields.clear()
            return
        if len(self.fields) > MAX_FIELDS:
            raise Unreadable("too many fields")
        if parser.get_http_version() not in {"1.1", "1.0"}:
            raise Unreadable("the version is neither HTTP/1.1 nor HTTP/1.0")
        self.status = status
        self.ready = self._moved = True
        self.clean = parser.should_keep_alive()
        for name, value in self.fields:
            if name == b"content-length":
                self._left = int(value)
            elif name == b"transfer-encoding":
                self._chunked = True
        if self._method == "HEAD":
            self.over = True
            if self._chunked or self._left != 0:
                self._parser = None  # it would take the next answer for the body of this one

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        if self.over:
            self.clean = False
            return
        self._moved = True
        if self._left is not None:
            self._left -= len(body)
        self._pieces.append(body)
        self.waiting += len(body)

    def on_message_complete(self) -> None:
        """An answer is whole."""
        if self._interim:
            self._interim = False
        else:
            self.over = True
