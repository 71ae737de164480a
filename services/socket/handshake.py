"""What a handshake asks for, and whether its page may ask: reads the request. Pure: it knows neither Redis nor a transport."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from services.common import events
from services.common.errors import BadRequest
from services.common.origins import Origins

MAX_META = 1024
MAX_META_DEPTH = 32
SUBPROTOCOL = "cloudevents.json"


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
        said = json.loads(text)
        # What others shall see must be JSON again: Python reads NaN, 1e999 and halves of a surrogate pair, and cannot send them on.
        json.dumps(said, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise BadRequest("meta is not JSON") from None
    if _deeper(said, MAX_META_DEPTH):
        raise BadRequest(f"meta is nested more than {MAX_META_DEPTH} deep")
    return text


def _deeper(said: Any, levels: int) -> bool:
    inner = said.values() if isinstance(said, dict) else said if isinstance(said, list) else ()
    return bool(inner) and (levels == 0 or any(_deeper(one, levels - 1) for one in inner))


def headers_of(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Header fields by lower-case name; of a repeated one the last."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}


def check_origin(headers: Mapping[str, str], origins: Origins) -> None:
    """Raise Forbidden for a page of an origin that is neither ours nor allowed.

    The gateway overwrites X-Forwarded-Host, and a page cannot set it at all.
    """
    host = headers.get("x-forwarded-host") or headers.get("host")
    origins.check(headers.get("origin"), host, cookies="cookie" in headers)
