"""What a handshake asks for, and whether its page may ask: reads the request. Pure: it knows neither Redis nor a transport."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from gridcast._bus import events
from services.common.bus.errors import translated_bus_errors
from services.common.errors import BadRequest
from services.common.http.origins import OriginPolicy

MAX_META_BYTES = 1024
MAX_META_DEPTH = 32
SUBPROTOCOL = "cloudevents.json"


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """What a client asks for when it connects. `resume` is a sid and a secret; both are empty for a new socket."""

    sid: str
    secret: str
    after_position: str
    topics: tuple[str, ...]
    meta: str


def parse_connect_request(query: bytes, max_topics: int) -> ConnectRequest:
    """The wish in a query string. BadRequest where it cannot be granted."""
    try:
        fields = parse_qs(query.decode("ascii"), keep_blank_values=True, max_num_fields=16, errors="strict")
    except ValueError:
        raise BadRequest("malformed query string") from None
    topics = tuple(dict.fromkeys(topic for topic in ",".join(fields.get("topics", [])).split(",") if topic))
    if len(topics) > max_topics:
        raise BadRequest(f"too many topics: at most {max_topics} per connection")
    with translated_bus_errors():
        for topic in topics:
            events.validate_topic(topic)
    sid, _, secret = fields.get("resume", [""])[-1].partition(".")
    known = events.is_valid_sid(sid) and bool(secret)
    return ConnectRequest(
        sid=sid if known else "",
        secret=secret if known else "",
        after_position=fields.get("after", [""])[-1],
        topics=topics,
        meta=_parse_meta(fields.get("meta", [""])[-1]),
    )


def _parse_meta(text: str) -> str:
    if not text:
        return ""
    if len(text.encode()) > MAX_META_BYTES:
        raise BadRequest(f"meta is at most {MAX_META_BYTES} bytes")
    try:
        said = json.loads(text)
        # What others shall see must be JSON again: Python reads NaN, 1e999 and halves of a surrogate pair, and cannot send them on.
        json.dumps(said, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise BadRequest("meta is not JSON") from None
    if _exceeds_depth(said, MAX_META_DEPTH):
        raise BadRequest(f"meta is nested more than {MAX_META_DEPTH} deep")
    return text


def _exceeds_depth(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(inner) and (levels == 0 or any(_exceeds_depth(one, levels - 1) for one in inner))


def headers_by_name(raw_headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Header fields by lower-case name; of a repeated one the last."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw_headers}


def check_origin(headers: Mapping[str, str], origins: OriginPolicy) -> None:
    """Raise Forbidden for a page of an origin that is neither ours nor allowed.

    The gateway overwrites X-Forwarded-Host, and a page cannot set it at all.
    """
    host = headers.get("x-forwarded-host") or headers.get("host")
    origins.check_websocket_origin(headers.get("origin"), host, has_cookies="cookie" in headers)
