"""What a browser is told about pages of other origins (Fetch, CORS protocol). Pure.

Cookies are never allowed across origins: this API authenticates by the Authorization field, which a page has to send itself.
"""

import re

from services.common.http.origins import OriginPolicy

CORSHeaders = list[tuple[bytes, bytes]]

EXPOSED_HEADERS = (
    b"Accept-Ranges, Content-Disposition, Content-Range, ETag, Location, Repr-Digest, Retry-After, X-Request-ID, "
    b"Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, Tus-Checksum-Algorithm, "
    b"Upload-Offset, Upload-Length, Upload-Expires, Upload-Concat, Upload-Defer-Length, Upload-Metadata"
)
PREFLIGHT_MAX_AGE = b"600"
"""How long a browser may remember a preflight."""

_HEADER_NAME_LIST = re.compile(rb"[A-Za-z0-9-]{1,64}(?: *, *[A-Za-z0-9-]{1,64}){0,31}\Z")


def find_header(fields: CORSHeaders, header_name: bytes) -> bytes | None:
    """The first field of that name."""
    return next((value for name, value in fields if name == header_name), None)


def response_headers(fields: CORSHeaders, origins: OriginPolicy) -> CORSHeaders:
    """What is added to the answer of a request with these fields: nothing where no setting lets its origin in."""
    if not origins.allowed_origins:
        return []
    origin = find_header(fields, b"origin")
    if origin is None or not origins.allows(origin.decode("latin-1")):
        return [] if "*" in origins.allowed_origins else [(b"vary", b"Origin")]
    if "*" in origins.allowed_origins:
        return [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", EXPOSED_HEADERS)]
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", EXPOSED_HEADERS),
        (b"vary", b"Origin"),
    ]


def preflight_headers(fields: CORSHeaders, allow: str) -> CORSHeaders:
    """What is added, beside that, to the answer of a preflight: the resource's methods and the fields asked for."""
    asked = find_header(fields, b"access-control-request-headers")
    added = [(b"access-control-allow-methods", allow.encode("ascii")), (b"access-control-max-age", PREFLIGHT_MAX_AGE)]
    if asked is not None and _HEADER_NAME_LIST.match(asked):
        added.append((b"access-control-allow-headers", asked))
    return added
