"""What a request for the messages of a live stream asks for, and its answer. Pure."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from services.common.errors import BadRequest
from services.common.http.encoding import Field
from services.common.http.query import parse_query
from services.common.store.live_messages import MAX_MESSAGES_READ, MessagePlace, StoredMessage

ENDED_MAX_AGE_SECONDS = 60
"""How long the messages of a stream that has ended may be kept: nothing is added to them, but they can be deleted."""
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)
_PLACE = re.compile(r"([0-9]{1,15})-([0-9]{1,9})", re.ASCII)


class MessageRequest(NamedTuple):
    """Messages from a time on and before another one, in milliseconds, behind a place, `limit` at most."""

    first: int = 0
    end: int | None = None
    after: MessagePlace | None = None
    limit: int = MAX_MESSAGES_READ


def parse_message_request(query: bytes) -> MessageRequest:
    """Read a query: `from` and `to` in seconds of the file, `after`, `limit`. Raises BadRequest."""
    fields = parse_query(query)
    first = _milliseconds(fields, "from") or 0
    limit = fields.get("limit", str(MAX_MESSAGES_READ))
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 4 and 1 <= int(limit) <= MAX_MESSAGES_READ):
        raise BadRequest(f"limit is not a number from 1 to {MAX_MESSAGES_READ}")
    after = None
    if text := fields.get("after"):
        if (found := _PLACE.fullmatch(text)) is None:
            raise BadRequest("after is not the `next` of a page")
        after = MessagePlace(int(found[1]), int(found[2]))
    return MessageRequest(first, _milliseconds(fields, "to"), after, int(limit))


def _milliseconds(fields: dict[str, str], name: str) -> int | None:
    text = fields.get(name)
    if text is None:
        return None
    if _SECONDS.fullmatch(text) is None:
        raise BadRequest(f"{name} is not a time in the stream in seconds")
    return round(float(text) * 1000)


def render_messages(messages: Sequence[StoredMessage], limit: int) -> bytes:
    """Return a page as JSON. A full one leads to the next one."""
    last = messages[-1].place if len(messages) == limit else None
    following = "null" if last is None else f'"{last.milliseconds}-{last.number}"'
    return f'{{"messages":[{",".join(map(_render, messages))}],"next":{following}}}'.encode()


def _render(message: StoredMessage) -> str:
    """One message; its data is JSON already."""
    date = datetime.fromtimestamp(message.date, UTC).isoformat(timespec="milliseconds")
    members = {
        "message": message.id,
        "type": message.type,
        "time": message.place.milliseconds / 1000,
        "epoch": message.epoch,
        "date": date,
    }
    return f'{json.dumps(members, separators=(",", ":"))[:-1]},"data":{message.data_json}}}'


def message_headers(length: int, cache_scope: str, *, ended: bool) -> list[Field]:
    """Return the fields of an answer with `length` bytes. `cache_scope` is `public` or `private`."""
    control = f"{cache_scope}, max-age={ENDED_MAX_AGE_SECONDS}" if ended else "no-store"
    return [
        (b"content-type", b"application/json"),
        (b"x-content-type-options", b"nosniff"),
        (b"content-length", b"%d" % length),
        (b"cache-control", control.encode("ascii")),
    ]
