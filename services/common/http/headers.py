"""Header fields as ASGI has them, and how to find one."""

import re
from collections.abc import Iterable

Header = tuple[bytes, bytes]
"""A header field: its name in lower case, its value."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}\Z")


def find_header(headers: Iterable[Header], name: bytes) -> bytes | None:
    """Return the value of the first field named `name`, which is in lower case; None where there is none."""
    for field_name, value in headers:
        if field_name == name:
            return value
    return None


def forwarded_client(headers: Iterable[Header], peer: str) -> str:
    """Return the client's address as the gateway reports it (X-Forwarded-For); `peer`, that of the connection, where it does not.

    For services only: their clients are the gateway, which overwrites the field.
    """
    forwarded = find_header(headers, b"x-forwarded-for")
    return peer if forwarded is None else forwarded.decode("latin-1")


def incoming_request_id(headers: Iterable[Header]) -> str | None:
    """Return the first well-formed X-Request-ID: 1 to 64 letters, digits, `.`, `_` or `-`. The caller decides if it is trusted."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.match(value):
            return str(value, "ascii")
    return None
