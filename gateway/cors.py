"""What a browser is told about pages of other origins (Fetch, CORS protocol). Pure.

Cookies are never allowed across origins: this API authenticates by the Authorization field, which a page has to send itself.
"""

import re

from services.common.origins import Origins

Fields = list[tuple[bytes, bytes]]

EXPOSED = (
    b"Accept-Ranges, Content-Disposition, Content-Range, ETag, Location, Repr-Digest, Retry-After, X-Request-ID, "
    b"Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, Tus-Checksum-Algorithm, "
    b"Upload-Offset, Upload-Length, Upload-Expires, Upload-Concat, Upload-Defer-Length, Upload-Metadata"
)
KEPT_SECONDS = b"600"
"""How long a browser may remember a preflight."""

_NAMES = re.compile(rb"[A-Za-z0-9-]{1,64}(?: *, *[A-Za-z0-9-]{1,64}){0,31}\Z")


def field(fields: Fields, wanted: bytes) -> bytes | None:
    """The first field of that name."""
    return next((value for name, value in fields if name == wanted), None)


def answer(fields: Fields, origins: Origins) -> Fields:
    """What is added to the answer of a request with these fields: nothing where no setting lets its origin in."""
    if not origins.allowed:
        return []
    origin = field(fields, b"origin")
    if origin is None or not origins.allows(origin.decode("latin-1")):
        return [] if "*" in origins.allowed else [(b"vary", b"Origin")]
    if "*" in origins.allowed:
        return [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", EXPOSED)]
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", EXPOSED),
        (b"vary", b"Origin"),
    ]


def preflight(fields: Fields, allow: str) -> Fields:
    """What is added, beside that, to the answer of a preflight: the resource's methods and the fields asked for."""
    asked = field(fields, b"access-control-request-headers")
    added = [(b"access-control-allow-methods", allow.encode("ascii")), (b"access-control-max-age", KEPT_SECONDS)]
    if asked is not None and _NAMES.match(asked):
        added.append((b"access-control-allow-headers", asked))
    return added
