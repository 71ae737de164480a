"""The head of a request as a service gets it, and what it says of the body. Pure: what was parsed in, bytes out."""

from typing import NamedTuple

from gateway.forwarded import Client
from gateway.proxy import headers

_METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
"""Methods that say so when there is no body (RFC 9110, 8.6)."""


class EncodedHead(NamedTuple):
    """`length` of the body in bytes, None where it comes in chunks; `waits`: it is sent when the service asks for it with a 100."""

    raw: bytes
    content_length: int | None
    expect_continue: bool


def encode_request_head(
    method: str, target: bytes, fields: headers.HeaderIterable, client: Client, request_id: str
) -> EncodedHead:
    """The head to send. Raises BadRequest."""
    length: int | None = 0
    framing = b"content-length: 0\r\n" if method in _METHODS_WITH_BODY else b""
    waits = False
    for name, value in fields:
        if name == b"content-length":
            length, framing = int(value), b""  # it stands among the fields
        elif name == b"transfer-encoding":
            length, framing = None, b"transfer-encoding: chunked\r\n"
        elif name == b"expect":
            waits = True
    lines = headers.build_request_headers(fields, client, request_id)
    raw = b"%s %s HTTP/1.1\r\n%s%s\r\n" % (method.encode("ascii"), target, lines, framing)
    return EncodedHead(raw, length, waits)
