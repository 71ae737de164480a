"""The Date field of responses, encoded once for each second."""

import time
from datetime import UTC, datetime
from functools import lru_cache

from services.common.http.dates import format_http_date
from services.common.http.encoding import Field, encode_headers


def date_header() -> Field:
    """Return the Date field of a response that is made now (RFC 9110, 6.6.1).

    uvicorn's own is up to a second old, and a file stored in that second would have a Last-Modified in the future (8.8.2.1).
    """
    return _encode(int(time.time()))


def date_line() -> bytes:
    """Return the line of `date_header`, encoded."""
    return _encode_line(int(time.time()))


@lru_cache(maxsize=2)
def _encode_line(second: int) -> bytes:
    return encode_headers([_encode(second)])


@lru_cache(maxsize=2)
def _encode(second: int) -> Field:
    return b"date", format_http_date(datetime.fromtimestamp(second, UTC)).encode("ascii")
