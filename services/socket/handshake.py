"""Parses the query of a WebSocket handshake, and checks its Origin (RFC 6455, section 4.2.1)."""

import json
from dataclasses import dataclass, replace
from typing import Any

from gridcast._bus import events
from services.common.bus.errors import translated_bus_errors
from services.common.errors import BadRequest
from services.common.http.headers import Header, find_header
from services.common.http.origins import OriginPolicy
from services.common.http.query import parse_query_pairs

MAX_META_BYTES = 1024
MAX_META_DEPTH = 32


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """What a client requests when it connects.

    `sid` and `secret` are those of the session to resume; both are empty for a new one. `after_position` is the last sequence that
    the client has read, or empty. `meta` is JSON text, or empty.
    """

    sid: str
    secret: str
    after_position: str
    topics: tuple[str, ...]
    meta: str

    def with_topics(self, topics: tuple[str, ...]) -> "ConnectRequest":
        """Return the same request with further topics."""
        return replace(self, topics=tuple(dict.fromkeys((*self.topics, *topics)))) if topics else self


def parse_connect_request(query: bytes, max_topics: int) -> ConnectRequest:
    """Parse `topics`, `resume`, `after` and `meta`. Raises BadRequest.

    `topics` may be repeated; of any other repeated parameter the last value counts. A malformed `resume` asks for a new session.
    """
    pairs = parse_query_pairs(query)
    values = dict(pairs)
    topic_lists = [value for name, value in pairs if name == "topics"]
    topics = tuple(dict.fromkeys(topic for topic in ",".join(topic_lists).split(",") if topic))
    if len(topics) > max_topics:
        raise BadRequest(f"too many topics: at most {max_topics} per connection")
    with translated_bus_errors():
        for topic in topics:
            events.validate_topic(topic)
    sid, _, secret = values.get("resume", "").partition(".")
    resumes = events.is_valid_sid(sid) and bool(secret)
    return ConnectRequest(
        sid=sid if resumes else "",
        secret=secret if resumes else "",
        after_position=values.get("after", ""),
        topics=topics,
        meta=_parse_meta(values.get("meta", "")),
    )


def _parse_meta(text: str) -> str:
    if not text:
        return ""
    if len(text.encode()) > MAX_META_BYTES:
        raise BadRequest(f"meta is at most {MAX_META_BYTES} bytes")
    try:
        value = json.loads(text)
        # Presence returns it as JSON, but Python also parses NaN, 1e999 and lone surrogates, which it cannot encode again.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise BadRequest("meta is not JSON") from None
    if _exceeds_depth(value, MAX_META_DEPTH):
        raise BadRequest(f"meta is nested more than {MAX_META_DEPTH} deep")
    return text


def _exceeds_depth(value: Any, levels: int) -> bool:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(children) and (levels == 0 or any(_exceeds_depth(child, levels - 1) for child in children))


def check_origin(headers: list[Header], origins: OriginPolicy) -> None:
    """Raise Forbidden for a page whose origin is neither the service's own nor allowed. Names of `headers` are in lower case.

    X-Forwarded-Host can be trusted here: the gateway overwrites it, and no page can set a field of a handshake.
    """
    host = find_header(headers, b"x-forwarded-host")
    origins.check_request(headers, None if host is None else host.decode("latin-1"))
