"""Reads how long the body of a request is."""

from fastapi import Request

from services.common.errors import BadRequest


def parse_content_length(request: Request) -> int | None:
    """Return Content-Length in bytes, None for a chunked body. The HTTP parser has refused malformed values already."""
    value = request.headers.get("content-length")
    if value is None:
        return None if "transfer-encoding" in request.headers else 0
    if not (value.isascii() and value.isdigit()):
        raise BadRequest("Content-Length is not a number")
    return int(value)
