"""Header fields on their way through: a request's and an answer's, rebuilt rather than copied.

Pure. The order matters: what `Connection` names goes first (RFC 9110, 7.6.1), then what a client may not say about itself,
and only then our own fields are added, so that no client can have them removed. Framing is never taken over: Content-Length
is set from what was parsed, Transfer-Encoding where the head is put together.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache

from gateway.forwarded import Client
from services.common.errors import BadGateway, BadRequest

HeaderIterable = Iterable[tuple[bytes, bytes]]

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
_LOCATION_HEADERS = frozenset({b"location", b"content-location"})

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}\Z")
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")
_AUTHORITY = re.compile(rb"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//[^/?#]*")


def build_request_headers(fields: HeaderIterable, client: Client, request_id: str) -> bytes:
    """The field lines for the service. Raises BadRequest for a value that is not UTF-8: two parsers would read it differently."""
    said: dict[bytes, list[bytes]] = {}
    kept: list[tuple[bytes, bytes]] = []
    for field in fields:
        name, value = field
        if _is_end_to_end(name):
            kept.append(field)
            if not value.isascii():
                _require_utf8(value)
        elif name in _MERGED_IN_REQUEST:
            said.setdefault(name, []).append(value)
    named = _connection_options(said.get(b"connection", ()))
    if named:
        kept = [field for field in kept if field[0] not in named]
    if host := said.pop(b"host", (b"",))[0]:
        kept.append((b"host", host))
    if said:
        kept += _merge_headers(said, named)
    lines = [b"%s: %s\r\n" % field for field in kept]
    ours = (
        client.address.encode("ascii"),
        client.scheme.encode("ascii"),
        host if client.host is None else client.host.encode("ascii"),
        request_id.encode("ascii"),
    )
    made = b"".join(lines) + _FORWARDED_HEADERS_FORMAT % ours
    if made.count(b"\n") != len(lines) + len(ours):
        raise ValueError("line break in a header field")
    return made


def _merge_headers(
    values: Mapping[bytes, list[bytes]], connection_options: Collection[bytes]
) -> list[tuple[bytes, bytes]]:
    """What is made of several fields, or kept only where it is well-formed, or whoever wants it removed."""
    made = [(name, values[name][0]) for name in (b"content-length", b"expect") if name in values]
    if (cookies := values.get(b"cookie")) is not None and b"cookie" not in connection_options:
        # The one list that is not joined by commas (RFC 9113, 8.2.3).
        made.append((b"cookie", _require_utf8(b"; ".join(cookies))))
    if (traces := values.get(b"traceparent")) is not None and len(traces) == 1 and _TRACEPARENT.match(traces[0]):
        made.append((b"traceparent", traces[0]))
        made += ((b"tracestate", _require_utf8(state)) for state in values.get(b"tracestate", ()))
    return made


def incoming_request_id(fields: HeaderIterable) -> str | None:
    """The id that a request came with, when it is well-formed. Whether it is believed is for the caller to say."""
    return next(
        (str(value, "ascii") for name, value in fields if name == b"x-request-id" and _REQUEST_ID.match(value)), None
    )


def filter_response_headers(fields: HeaderIterable, status: int) -> list[tuple[bytes, bytes]]:
    """The fields for the client, out of those that a parser let pass, their names in lower case.

    Raises BadGateway where the answer's framing is not well-formed.
    """
    kept: list[tuple[bytes, bytes]] = []
    ended: list[tuple[bytes, bytes]] = []
    for field in fields:
        name = field[0]
        if name in _REMOVED_FROM_RESPONSE:
            ended.append(field)
        elif name in _LOCATION_HEADERS:
            kept.append((name, make_location_relative(field[1])))
        elif not name.startswith(b"access-control-"):
            kept.append(field)
    if named := _connection_options([value for name, value in ended if name == b"connection"]):
        kept = [field for field in kept if field[0] not in named]
    length = _content_length(ended)
    if length is not None and status not in {204, 304}:  # neither has a body, though 304 may tell a length
        kept.append((b"content-length", length))
    return kept


def _content_length(fields: HeaderIterable) -> bytes | None:
    """The one length; None where the answer comes in chunks or ends with its connection."""
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
    """A reference without scheme and authority: nobody learns where a service stands."""
    if (match := _AUTHORITY.match(location)) is None:
        return location
    rest = location[match.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


@lru_cache(maxsize=128)
def _is_end_to_end(name: bytes) -> bool:
    """Whether a request's field of that name is handed on as it came. Clients send few names, so the verdicts are kept."""
    return not (
        name in _REMOVED_FROM_REQUEST or name in _MERGED_IN_REQUEST or b"_" in name or name.startswith(b"x-forwarded-")
    )


def _connection_options(connection: Collection[bytes]) -> frozenset[bytes]:
    """What the `Connection` fields declare to be for one hop only."""
    if not connection:
        return frozenset()
    return frozenset(token.strip().lower() for value in connection for token in value.split(b",")) - {b"keep-alive"}


def _require_utf8(value: bytes) -> bytes:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest("a header field is not UTF-8") from error
    return value
