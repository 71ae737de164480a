"""CORS: the response headers for pages of other origins, and those of preflight responses (Fetch, "CORS protocol").

Credentials are never allowed across origins: this API authenticates by the Authorization header, which a page sets itself, not by
cookies.
"""

import re

from services.common.http.headers import Header, find_header
from services.common.http.origins import OriginPolicy

EXPOSED_HEADERS = (
    b"Accept-Ranges, Content-Disposition, Content-Range, ETag, Location, Repr-Digest, Retry-After, X-Request-ID, "
    b"Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, Tus-Checksum-Algorithm, "
    b"Upload-Offset, Upload-Length, Upload-Expires, Upload-Concat, Upload-Defer-Length, Upload-Metadata"
)
PREFLIGHT_MAX_AGE = b"600"
"""Seconds for which a browser may cache a preflight response."""

_HEADER_NAME_LIST = re.compile(rb"[A-Za-z0-9-]{1,64}(?: *, *[A-Za-z0-9-]{1,64}){0,31}\Z")


def response_headers(request_headers: list[Header], origins: OriginPolicy) -> list[Header]:
    """Return the headers to add to the response of a request: no Access-Control-* where its origin is not allowed."""
    if not origins.allowed_origins:
        return []
    origin = find_header(request_headers, b"origin")
    if origin is None or not origins.allows(origin.decode("latin-1")):
        return [] if "*" in origins.allowed_origins else [(b"vary", b"Origin")]
    if "*" in origins.allowed_origins:
        return [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", EXPOSED_HEADERS)]
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", EXPOSED_HEADERS),
        (b"vary", b"Origin"),
    ]


def preflight_headers(request_headers: list[Header], allow: str) -> list[Header]:
    """Return the further headers of a preflight response. `allow`: the methods of the resource, separated by commas.

    All requested header names are allowed, unless their list is malformed or has more than 32 names.
    """
    names = find_header(request_headers, b"access-control-request-headers")
    added = [(b"access-control-allow-methods", allow.encode("ascii")), (b"access-control-max-age", PREFLIGHT_MAX_AGE)]
    if names is not None and _HEADER_NAME_LIST.match(names):
        added.append((b"access-control-allow-headers", names))
    return added
