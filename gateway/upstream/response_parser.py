"""A sans-I/O parser of HTTP/1.1 responses: takes bytes, split anywhere; returns status, headers and chunks of the body.

The one file of the gateway that names httptools, which checks the grammar. This adds what httptools leaves open: a response to HEAD
has no body, interim responses are skipped, trailers are dropped, heads have limits, and a response without a length ends with its
connection, but only if that is closed by a FIN (RFC 9112, 6.3). The caller bounds what is buffered.
"""

from collections import deque
from typing import cast

import httptools

from services.common.http.headers import Header

MAX_RESPONSE_HEADERS = 128
"""Largest number of header fields of a response, and of its trailers."""
MAX_RESPONSE_HEADER_BYTES = 64 * 1024
"""Largest number of bytes that neither complete a head nor add to a body. A single read may exceed it once."""
MAX_COALESCED_BYTES = 32 * 1024
"""Bytes of buffered chunks up to which they are joined into one: sending a chunk costs more than copying it."""


class RemoteProtocolError(Exception):
    """The upstream sent something else than an HTTP/1.1 response within the limits."""


class ResponseParser:
    """Parses the responses on one connection, one after the other: `start_response` for each request, then `receive_data`.

    Attributes:
        status, headers: valid when `headers_complete`.
        headers_complete: the head of the final response was parsed.
        message_complete: the whole response was parsed; chunks of its body may still be buffered.
        buffered: bytes of the body that `next_chunk` has not returned.
        reusable: the connection may carry another request after this response.
        got_100_continue: the upstream asked for the request body (RFC 9110, 15.2.1).
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
        """Expect the response to a request with this method."""
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
        """Whether no chunk is buffered."""
        return not self._chunks

    def next_chunk(self) -> bytes:
        """Return the next chunk of the body. There must be one (`empty`)."""
        chunks = self._chunks
        if len(chunks) > 1 and self.buffered <= MAX_COALESCED_BYTES:
            data = b"".join(chunks)
            chunks.clear()
        else:
            data = chunks.popleft()
        self.buffered -= len(data)
        return data

    def receive_data(self, data: bytes) -> None:
        """Parse received bytes. Raises RemoteProtocolError. Bytes after the end of the response only make it not `reusable`."""
        if self.message_complete:
            self.reusable = False
        elif self.headers_complete and self._remaining is not None:
            self._receive_sized_body(data, self._remaining)
        else:
            self._feed_parser(data)

    def receive_eof(self) -> bool:
        """Handle a FIN. Returns whether the response is complete."""
        if self.headers_complete and self._remaining is None and not self._is_chunked:
            self.message_complete = True
        self.reusable = False
        return self.message_complete

    def close(self) -> None:
        """Release httptools' parser, which refers back to this object. Nothing is received any more; what was can still be read."""
        self._parser = None

    def _receive_sized_body(self, data: bytes, remaining: int) -> None:
        """Take a part of a body with a known length. It bypasses httptools, which would copy it."""
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
            cause = error.__context__
            raise (
                cause if isinstance(cause, RemoteProtocolError) else RemoteProtocolError(f"not HTTP/1.1: {error}")
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
            self._parser = None  # its state is in the middle of a body

    # What httptools calls. It raises HttpParserError from feed_data for an error raised here.

    def on_message_begin(self) -> None:
        """Start a response, interim or final."""
        if self.message_complete:
            raise RemoteProtocolError("unsolicited response")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field; count and drop a trailer, which must not be merged into the head unseen (RFC 9110, 6.5.1)."""
        if not self.headers_complete:
            self.headers.append((name.lower(), value.rstrip()))  # httptools removes the white space in front
            return
        self._trailer_count += 1
        if self._trailer_count > MAX_RESPONSE_HEADERS:
            raise RemoteProtocolError("too many trailers")

    def on_headers_complete(self) -> None:
        """Finish a head: skip an interim response, or determine the length of the body."""
        parser = cast("httptools.HttpResponseParser", self._parser)
        status = parser.get_status_code()
        if not 100 <= status <= 599 or status == 101:  # RFC 9110, 15: others are invalid, and 101 was not asked for
            raise RemoteProtocolError(f"unexpected status {status}")
        if status < 200:
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
                self._parser = None  # it would parse the next response as the body of this one

    def on_body(self, body: bytes) -> None:
        """Buffer a chunk of the body."""
        if self.message_complete:
            self.reusable = False
            return
        self._progressed = True
        if self._remaining is not None:
            self._remaining -= len(body)
        self._chunks.append(body)
        self.buffered += len(body)

    def on_message_complete(self) -> None:
        """Finish a response, interim or final."""
        if self._in_interim_response:
            self._in_interim_response = False
        else:
            self.message_complete = True
