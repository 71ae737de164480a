"""What a handshake asks for, and whether its page may ask: reads the request. Pure: it knows neither Redis nor a transport."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import parse_qs

from services.common import events
from services.common.errors import BadRequest, GridcastError

MAX_META = 1024
SUBPROTOCOL = "cloudevents.json"


class Forbidden(GridcastError):
    """403: a page of another origin wants to speak with its visitor's rights."""

    status: ClassVar[int] = 403
    title: ClassVar[str] = "Forbidden"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client asks for when it connects. `resume` is a sid and a secret; both are empty for a new socket."""

    sid: str
    secret: str
    after: str
    topics: tuple[str, ...]
    meta: str


def read(query: bytes, max_topics: int) -> Wish:
    """The wish in a query string. BadRequest where it cannot be granted."""
    try:
        fields = parse_qs(query.decode("ascii"), keep_blank_values=True, max_num_fields=16, errors="strict")
    except ValueError:
        raise BadRequest("the query cannot be read") from None
    topics = tuple(dict.fromkeys(topic for topic in ",".join(fields.get("topics", [])).split(",") if topic))
    if len(topics) > max_topics:
        raise BadRequest(f"a socket hears at most {max_topics} topics")
    for topic in topics:
        events.check_topic(topic)
    sid, _, secret = fields.get("resume", [""])[-1].partition(".")
    known = events.is_sid(sid) and bool(secret)
    return Wish(
        sid=sid if known else "",
        secret=secret if known else "",
        after=fields.get("after", [""])[-1],
        topics=topics,
        meta=_meta(fields.get("meta", [""])[-1]),
    )


def _meta(text: str) -> str:
    if not text:
        return ""
    if len(text.encode()) > MAX_META:
        raise BadRequest(f"meta is at most {MAX_META} bytes")
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        raise BadRequest("meta is not JSON") from None
    return text


def headers_of(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Header fields by lower-case name; of a repeated one the last."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}


def check_origin(headers: Mapping[str, str], allowed: frozenset[str]) -> None:
    """Raise Forbidden for a page of an origin that is neither ours nor allowed.

    No CORS rule covers WebSockets: a browser connects from any page and sends our cookies along (RFC 6455, 10.2).
    A client without an Origin is no browser and may connect, unless it sends cookies.
    """
    origin = headers.get("origin")
    if "*" in allowed or (origin is not None and origin.lower() in allowed):
        return
    if origin is None:
        if "cookie" in headers:
            raise Forbidden("cookies without an origin")
        return
    # The gateway overwrites X-Forwarded-Host, and a page cannot set it at all.
    host = headers.get("x-forwarded-host") or headers.get("host", "")
    scheme, _, authority = origin.lower().partition("://")
    if not scheme or not authority or authority != host.lower():
        raise Forbidden("this origin may not connect")
