"""The head of a request as a service gets it, and what it says of the body. Pure: what was parsed in, bytes out."""

from typing import NamedTuple

from gateway import headers
from gateway.clients import Client

_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
"""Methods that say so when there is no body (RFC 9110, 8.6)."""


class Head(NamedTuple):
    """`length` of the body in bytes, None where it comes in chunks; `waits`: it is sent when the service asks for it with a 100."""

    raw: bytes
    length: int | None
    waits: bool


def head(method: str, target: bytes, fields: headers.Fields, client: Client, request_id: str) -> Head:
    """The head to send. Raises BadRequest."""
    length: int | None = 0
    framing = b"content-length: 0\r\n" if method in _WITH_BODY else b""
    waits = False
    for name, value in fields:
        if name == b"content-length":
            length, framing = int(value), b""  # it stands among the fields
        elif name == b"transfer-encoding":
            length, framing = None, b"transfer-encoding: chunked\r\n"
        elif name == b"expect":
            waits = True
    lines = headers.request(fields, client, request_id)
    raw = b"%s %s HTTP/1.1\r\n%s%s\r\n" % (method.encode("ascii"), target, lines, framing)
    return Head(raw, length, waits)
