"""Reading an answer of a service: bytes in, cut anywhere; a status, fields and pieces of a body out. Pure.

The one file of the gateway that names the HTTP parser. httptools judges the grammar. This adds what it leaves open: an answer to
HEAD has no body, interim answers are skipped, trailers are dropped, a head has limits, and an answer without a length ends with its
connection, but only where that closes in order (RFC 9112, 6.3). It knows no connection: who feeds it sets a bound to what waits.
"""

from collections import deque
from typing import cast

import httptools

from services.common.http.headers import Header

MAX_RESPONSE_HEADERS = 128
"""Fields of an answer; and of its trailers."""
MAX_RESPONSE_HEADER_BYTES = 64 * 1024
"""Bytes that may come without completing a head or adding to a body. One read from a connection may go past it once."""
MAX_COALESCED_BYTES = 32 * 1024
"""Pieces that come to no more than this together are handed out as one: sending one costs more than copying it."""


class RemoteProtocolError(Exception):
    """What came is not an HTTP/1.1 answer within limits."""


class ResponseParser:
    """The answers on one connection, one after the other: `begin` for each request, then `feed`.

    `ready`: status and fields are there. `over`: so is the whole body, though pieces of it may still have to be taken. `clean`: the
    connection stands where the next answer would begin. `continued`: the service asked for the request's body with a 100.
    """

    __slots__ = (
        "_bytes_without_progress",
        "_chunks",
        "_in_interim_response",
        "_is_chunked",
        "_method",
        "_parser",
        "_progressed",
        "_remaining",
        "_trailer_count",
        "buffered",
        "got_100_continue",
        "headers",
        "headers_complete",
        "message_complete",
        "reusable",
        "status",
    )

    def __init__(self) -> None:
        self._parser: httptools.HttpResponseParser | None = None
        self._chunks: deque[bytes] = deque()
        self.start_response("")

    def start_response(self, method: str) -> None:
        """The next answer is to a request with this method."""
        self._method = method
        self._remaining: int | None = None
        self._is_chunked = self._in_interim_response = self._progressed = False
        self._bytes_without_progress = self._trailer_count = 0
        self._chunks.clear()
        self.status = 0
        self.headers: list[Header] = []
        self.buffered = 0
        self.headers_complete = self.message_complete = self.got_100_continue = False
        self.reusable = True

    @property
    def empty(self) -> bool:
        """Whether no piece waits to be taken."""
        return not self._chunks

    def next_chunk(self) -> bytes:
        """The next piece of the body; there must be one."""
        pieces = self._chunks
        if len(pieces) > 1 and self.buffered <= MAX_COALESCED_BYTES:
            data = b"".join(pieces)
            pieces.clear()
        else:
            data = pieces.popleft()
        self.buffered -= len(data)
        return data

    def receive_data(self, data: bytes) -> None:
        """What the service sent. Raises Unreadable; what comes behind the end is no error, but `clean` no more."""
        if self.message_complete:
            self.reusable = False
        elif self.headers_complete and self._remaining is not None:
            self._receive_sized_body(data, self._remaining)
        else:
            self._feed_parser(data)

    def receive_eof(self) -> bool:
        """The service closed the connection in order. Whether the answer is whole."""
        if self.headers_complete and self._remaining is None and not self._is_chunked:
            self.message_complete = True
        self.reusable = False
        return self.message_complete

    def _receive_sized_body(self, data: bytes, remaining: int) -> None:
        """A body whose length is known passes the parser by, which would copy it."""
        if len(data) > remaining:
            data = data[:remaining]
            self.reusable = False
        self._remaining = remaining - len(data)
        self.message_complete = self._remaining == 0
        self._chunks.append(data)
        self.buffered += len(data)

    def _feed_parser(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            parser = self._parser = httptools.HttpResponseParser(self)
        self._progressed = False
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._parser = None
            if self.message_complete:
                self.reusable = False
                return
            why = error.__context__
            raise (
                why if isinstance(why, RemoteProtocolError) else RemoteProtocolError(f"not HTTP/1.1: {error}")
            ) from None
        if self.message_complete:
            return
        if self._progressed:
            self._bytes_without_progress = 0
        else:
            self._bytes_without_progress += len(data)
            if self._bytes_without_progress > MAX_RESPONSE_HEADER_BYTES:
                raise RemoteProtocolError("header fields too large")
        if self.headers_complete and self._remaining is not None:
            self._parser = None  # it stands in the middle of a body

    # What httptools calls. An error raised here comes out of feed_data as HttpParserError.

    def on_message_begin(self) -> None:
        """The first byte of an answer, interim or final."""
        if self.message_complete:
            raise RemoteProtocolError("unsolicited response")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field of the head, or a trailer, which is counted and dropped (RFC 9110, 6.5.1 forbids to merge it unseen)."""
        if not self.headers_complete:
            self.headers.append((name.lower(), value))
            return
        self._trailer_count += 1
        if self._trailer_count > MAX_RESPONSE_HEADERS:
            raise RemoteProtocolError("too many trailers")

    def on_headers_complete(self) -> None:
        """The head of an answer is whole."""
        parser = cast("httptools.HttpResponseParser", self._parser)
        status = parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101:
                raise RemoteProtocolError(f"unexpected status {status}")
            self._in_interim_response = self._progressed = True
            self.got_100_continue = self.got_100_continue or status == 100
            self.headers.clear()
            return
        if len(self.headers) > MAX_RESPONSE_HEADERS:
            raise RemoteProtocolError("too many header fields")
        if parser.get_http_version() not in {"1.1", "1.0"}:
            raise RemoteProtocolError("unsupported HTTP version")
        self.status = status
        self.headers_complete = self._progressed = True
        self.reusable = parser.should_keep_alive()
        for name, value in self.headers:
            if name == b"content-length":
                self._remaining = int(value)
            elif name == b"transfer-encoding":
                self._is_chunked = True
        if self._method == "HEAD":
            self.message_complete = True
            if self._is_chunked or self._remaining != 0:
                self._parser = None  # it would take the next answer for the body of this one

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        if self.message_complete:
            self.reusable = False
            return
        self._progressed = True
        if self._remaining is not None:
            self._remaining -= len(body)
        self._chunks.append(body)
        self.buffered += len(body)

    def on_message_complete(self) -> None:
        """An answer is whole."""
        if self._in_interim_response:
            self._in_interim_response = False
        else:
            self.message_complete = True
