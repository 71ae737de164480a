"""Builds the header fields of proxied requests and responses anew, instead of copying them.

The order matters. First go the fields that `Connection` names (RFC 9110, 7.6.1), then those that a client must not set, such as
X-Forwarded-For; the gateway's own fields are added last, so that a client cannot have them removed. Framing is never copied:
Content-Length is set from the parsed value, Transfer-Encoding by the request encoder.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache

from gateway.forwarded import Client
from services.common.errors import BadGateway
from services.common.http.headers import Header

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-authentication-info",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
_REMOVED_FROM_REQUEST = _HOP_BY_HOP | {b"forwarded", b"x-real-ip", b"x-request-id", b"x-original-url", b"x-rewrite-url"}
_IDENTITY_PREFIXES = (
    b"x-forwarded-",
    b"x-gridcast-",
    b"x-auth-",
    b"x-user",
    b"x-remote-",
    b"remote-user",
    b"x-webauth-",
)
"""Fields in which proxies state who a client is. No service reads them, and none ever shall: a client could set them."""
_MERGED_IN_REQUEST = frozenset(
    {b"connection", b"host", b"content-length", b"expect", b"cookie", b"traceparent", b"tracestate"}
)
_FORWARDED_HEADERS_FORMAT = (
    b"x-forwarded-for: %s\r\nx-forwarded-proto: %s\r\nx-forwarded-host: %s\r\nx-request-id: %s\r\n"
)
_REMOVED_FROM_RESPONSE = _HOP_BY_HOP | {
    b"content-length",
    b"date",
    b"server",
    b"x-powered-by",
    b"x-request-id",
    b"alt-svc",
}
_CROSS_ORIGIN_HEADERS = (b"access-control-", b"cross-origin-resource-policy")
"""What other origins may do is for the gateway to say (`gateway.cors`)."""
_LOCATION_HEADERS = frozenset({b"location", b"content-location"})

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")
_AUTHORITY = re.compile(rb"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//[^/?#]*")


def build_request_headers(fields: Iterable[Header], client: Client, request_id: str) -> bytes:
    """Return the encoded field lines for the upstream, without Transfer-Encoding.

    Bytes above 0x7F in a value are opaque and pass (RFC 9110, 5.5). Raises ValueError for a line break in a field, which would
    inject another one.
    """
    merged: dict[bytes, list[bytes]] = {}
    kept: list[Header] = []
    for field in fields:
        name, value = field
        if _is_end_to_end(name):
            kept.append(field)
        elif name in _MERGED_IN_REQUEST:
            merged.setdefault(name, []).append(value)
    connection_options = _connection_options(merged.get(b"connection", ()))
    if connection_options:
        kept = [field for field in kept if field[0] not in connection_options]
    if host := merged.pop(b"host", (b"",))[0]:
        kept.append((b"host", host))
    if merged:
        kept += _merge_headers(merged, connection_options)
    lines = [b"%s: %s\r\n" % field for field in kept]
    forwarded = (
        client.address.encode("ascii"),
        client.scheme.encode("ascii"),
        host if client.host is None else client.host.encode("ascii"),
        request_id.encode("ascii"),
    )
    encoded = b"".join(lines) + _FORWARDED_HEADERS_FORMAT % forwarded
    if encoded.count(b"\n") != len(lines) + len(forwarded):
        raise ValueError("line break in a header field")
    return encoded


def _merge_headers(values: Mapping[bytes, list[bytes]], connection_options: Collection[bytes]) -> list[Header]:
    """Return the fields of _MERGED_IN_REQUEST: cookies joined into one, trace context where it is valid, framing as parsed."""
    merged = [(name, values[name][0]) for name in (b"content-length", b"expect") if name in values]
    if (cookies := values.get(b"cookie")) is not None and b"cookie" not in connection_options:
        # The one list that is not joined by commas (RFC 9113, 8.2.3).
        merged.append((b"cookie", b"; ".join(cookies)))
    if (traces := values.get(b"traceparent")) is not None and len(traces) == 1 and _TRACEPARENT.match(traces[0]):
        merged.append((b"traceparent", traces[0]))
        merged += ((b"tracestate", state) for state in values.get(b"tracestate", ()))
    return merged


def filter_response_headers(fields: Iterable[Header], status: int) -> list[Header]:
    """Return the fields for the client. `fields`: those of the upstream's response, validated, their names in lower case.

    Raises BadGateway where the framing of the response is ambiguous (RFC 9112, 6.3).
    """
    kept: list[Header] = []
    removed: list[Header] = []
    for field in fields:
        name = field[0]
        if name in _REMOVED_FROM_RESPONSE:
            removed.append(field)
        elif name in _LOCATION_HEADERS:
            kept.append((name, make_location_relative(field[1])))
        elif not name.startswith(_CROSS_ORIGIN_HEADERS):
            kept.append(field)
    if connection_options := _connection_options([value for name, value in removed if name == b"connection"]):
        kept = [field for field in kept if field[0] not in connection_options]
    length = _content_length(removed)
    if length is not None and status not in {204, 304}:  # neither has a body, though a 304 may have a Content-Length
        kept.append((b"content-length", length))
    return kept


def _content_length(fields: Iterable[Header]) -> bytes | None:
    """Return the one Content-Length; None where the response is chunked or ends with its connection."""
    length, framings = None, 0
    for name, value in fields:
        if name == b"content-length":
            length = value
            framings += 1 if value.isdigit() else 2
        elif name == b"transfer-encoding":
            framings += 1 if value.lower() == b"chunked" else 2
    if framings > 1:
        raise BadGateway("upstream response with an ambiguous length")
    return length


def make_location_relative(location: bytes) -> bytes:
    """Return a URI reference without scheme and authority, which would disclose the address of a service."""
    if (match := _AUTHORITY.match(location)) is None:
        return location
    rest = location[match.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


@lru_cache(maxsize=128)
def _is_end_to_end(name: bytes) -> bool:
    """Whether a request field is forwarded unchanged. Cached: clients send few different names."""
    return not (
        name in _REMOVED_FROM_REQUEST
        or name in _MERGED_IN_REQUEST
        or b"_" in name
        or name.startswith(_IDENTITY_PREFIXES)
    )


def _connection_options(values: Collection[bytes]) -> frozenset[bytes]:
    """Return the field names that `Connection` fields with these values declare to be hop-by-hop."""
    if not values:
        return frozenset()
    return frozenset(token.strip().lower() for value in values for token in value.split(b",")) - {b"keep-alive"}
