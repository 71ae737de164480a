"""What the head of a request may be: sizes, characters, one Host, one statement about the body's length. Pure.

httptools judges the grammar. This adds what it lets pass and what two parsers could read differently; each fault is an error with
the status it is answered with.
"""

import re

from services.common.errors import BadRequest, ExpectationFailed, HeadersTooLarge

MAX_TARGET = 8 * 1024
"""Bytes of path and query: 414 beyond."""
MAX_FIELDS = 100
"""Header fields: 431 beyond."""
MAX_FIELD_BYTES = 32 * 1024
"""Bytes of all header fields together, and of trailers: 431 beyond."""

JUDGED = frozenset({b"host", b"transfer-encoding", b"content-length", b"expect"})
"""Names of the fields that `Head.field` has something to say about."""

_LENGTH = re.compile(rb"[0-9]{1,19}\Z")
_TARGET = re.compile(rb"/[!\"$-~]*\Z")
_HOST = re.compile(rb"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")


class Head:
    """One request's head, as it comes. `length`: of its body, None where that is chunked; `waits`: it comes after a 100."""

    __slots__ = ("_bytes", "_chunked", "_count", "_hosts", "length", "waits")

    def __init__(self) -> None:
        self._bytes = 0
        self._count = 0
        self._hosts = 0
        self._chunked = False
        self.length: int | None = 0
        self.waits = False

    def count(self, name: bytes, value: bytes) -> None:
        """A field, or a trailer, of that size. Raises FieldsTooLarge."""
        self._bytes += len(name) + len(value) + 4
        self._count += 1
        if self._bytes > MAX_FIELD_BYTES or self._count > MAX_FIELDS:
            raise HeadersTooLarge("the header fields are too large or too many")

    def field(self, name: bytes, value: bytes) -> None:
        """A field with its name in lower case. Raises BadRequest or ExpectationFailed."""
        if name == b"host":
            self._hosts += 1
            if not _HOST.match(value):
                raise BadRequest("malformed Host header")
        elif name == b"transfer-encoding":
            self._chunked, self.length = True, None
            if value.lower() != b"chunked":
                raise BadRequest("unsupported transfer coding: only chunked is supported")
        elif name == b"content-length":
            if not _LENGTH.match(value):
                raise BadRequest("Content-Length is not a number")
            self.length = None if self._chunked else int(value)
        elif name == b"expect":
            self.waits = True
            if value.lower() != b"100-continue":
                raise ExpectationFailed("unsupported expectation: only 100-continue is supported")

    @property
    def has_body(self) -> bool:
        """Whether it says that a body follows."""
        return self.length != 0

    def judge(self, version: str, target: bytes) -> None:
        """The head is whole. Raises BadRequest."""
        if version not in {"1.0", "1.1"}:
            raise BadRequest("unsupported HTTP version: only HTTP/1.0 and HTTP/1.1 are supported")
        if not _TARGET.match(target):
            raise BadRequest("the request target must be a path")
        if self._hosts > 1 or (self._hosts == 0 and version == "1.1"):
            raise BadRequest("exactly one Host header is required")
        if version == "1.0":
            if self._chunked:
                raise BadRequest("Transfer-Encoding is not allowed in HTTP/1.0")
            self.waits = False  # nor interim answers: its client would take a 100 for the answer (RFC 9110, 10.1.1)
