"""Encodes the head of a request for an upstream: request line, header fields, framing."""

from collections.abc import Iterable
from typing import NamedTuple

from gateway.forwarded import Client
from gateway.proxy.headers import build_request_headers
from services.common.http.headers import Header
from services.common.http.origins import SAFE_METHODS

_METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
"""Methods that send `Content-Length: 0` where there is no body (RFC 9110, 8.6)."""

_JUDGED_HEADERS = frozenset({b"origin", b"sec-fetch-site"})
"""What the gateway has judged. A service would judge it by its own settings, which have no allowed origins."""


class EncodedHead(NamedTuple):
    """A head, and how its body is framed."""

    raw: bytes
    content_length: int | None
    """Bytes of the body; None: it is sent in chunks (RFC 9112, 7.1)."""
    expect_continue: bool
    """Send the body after a 100 (RFC 9110, 10.1.1)."""


def encode_request_head(
    method: str, target: bytes, fields: Iterable[Header], client: Client, request_id: str
) -> EncodedHead:
    """Encode a head. `fields`: those of the client's request, validated."""
    length: int | None = 0
    framing = b"content-length: 0\r\n" if method in _METHODS_WITH_BODY else b""
    expect_continue = False
    for name, value in fields:
        if name == b"content-length":
            length, framing = int(value), b""  # build_request_headers keeps the field
        elif name == b"transfer-encoding":
            length, framing = None, b"transfer-encoding: chunked\r\n"
        elif name == b"expect":
            expect_continue = True
    if method not in SAFE_METHODS:
        fields = [field for field in fields if field[0] not in _JUDGED_HEADERS]
    lines = build_request_headers(fields, client, request_id)
    raw = b"%s %s HTTP/1.1\r\n%s%s\r\n" % (method.encode("ascii"), target, lines, framing)
    return EncodedHead(raw, length, expect_continue)
