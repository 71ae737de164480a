"""CORS and Cross-Origin-Resource-Policy: the response headers for pages of other origins, and those of preflight responses (Fetch).

CORS lets a page read a response with `fetch`. Cross-Origin-Resource-Policy is about what a page embeds without asking for CORS, as
an image or a script: only the server's own pages may, and those of allowed origins.

Credentials are never allowed across origins: this API authenticates by the Authorization header, which a page sets itself, not by
cookies.
"""

import re

from services.common.http.headers import Header, find_header
from services.common.http.origins import OriginPolicy
from services.common.web.browser_protection import SAME_ORIGIN_ONLY

EXPOSED_HEADERS = (
    b"Accept-Ranges, Content-Disposition, Content-Range, ETag, Location, Repr-Digest, Retry-After, WWW-Authenticate, X-Request-ID, "
    b"Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, Tus-Checksum-Algorithm, "
    b"Upload-Offset, Upload-Length, Upload-Expires, Upload-Concat, Upload-Defer-Length, Upload-Metadata"
)
PREFLIGHT_MAX_AGE = b"600"
"""Seconds for which a browser may cache a preflight response."""

_ANY_ORIGIN: Header = (b"cross-origin-resource-policy", b"cross-origin")
_HEADER_NAME_LIST = re.compile(rb"[A-Za-z0-9-]{1,64}(?: *, *[A-Za-z0-9-]{1,64}){0,31}\Z")


def response_headers(request_headers: list[Header], origins: OriginPolicy) -> tuple[Header, ...]:
    """Return the headers to add to the response of a request: no Access-Control-* where its origin is not allowed.

    A request for an image or a script has no Origin, but the origin of its page in Referer, which a page can leave out and not
    change. Responses with `no-cache` need no `Vary: Referer`: the 304 that lets a cache use them again has the policy anew.
    """
    if origins.allows_none:
        return SAME_ORIGIN_ONLY
    origin = find_header(request_headers, b"origin")
    if origins.allows_all:
        if origin is None:
            return (_ANY_ORIGIN,)
        return (
            (b"access-control-allow-origin", b"*"),
            (b"access-control-expose-headers", EXPOSED_HEADERS),
            _ANY_ORIGIN,
        )
    if origin is None:
        referrer = find_header(request_headers, b"referer")
        embeds = referrer is not None and origins.allows_referrer(referrer.decode("latin-1"))
        return ((b"vary", b"Origin"), *((_ANY_ORIGIN,) if embeds else SAME_ORIGIN_ONLY))
    if not origins.allows(origin.decode("latin-1")):
        return ((b"vary", b"Origin"), *SAME_ORIGIN_ONLY)
    return (
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", EXPOSED_HEADERS),
        (b"vary", b"Origin"),
        _ANY_ORIGIN,
    )


def has_cors_headers(request_headers: list[Header], origins: OriginPolicy) -> bool:
    """Return whether the response of a request has Access-Control-*: it comes from a page of an allowed origin."""
    origin = find_header(request_headers, b"origin")
    return origin is not None and origins.allows(origin.decode("latin-1"))


def preflight_headers(request_headers: list[Header], allow: str) -> list[Header]:
    """Return the further headers of a preflight response. `allow`: the methods of the resource, separated by commas.

    All requested header names are allowed, unless their list is malformed or has more than 32 names.
    """
    names = find_header(request_headers, b"access-control-request-headers")
    added = [(b"access-control-allow-methods", allow.encode("ascii")), (b"access-control-max-age", PREFLIGHT_MAX_AGE)]
    if names is not None and _HEADER_NAME_LIST.match(names):
        added.append((b"access-control-allow-headers", names))
    return added
