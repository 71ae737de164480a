"""The event envelope: CloudEvents 1.0 attributes in one JSON object, and the rules for the names in it.

Values in, text out. It knows neither Redis nor sockets nor a clock: who sends an event hands its id and time over.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.common.errors import BadRequest, ContentTooLarge

MAX_EVENT_BYTES = 64 * 1024
"""Bytes of one encoded event. A media service sends references, never content."""
MAX_TOPIC_LENGTH = 200
MAX_EVENT_ID_LENGTH = 128

_TYPE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_TOPIC_PATTERN = re.compile(r"[A-Za-z0-9._~:/@%+=-]{1,200}", re.ASCII)
_EVENT_ID_PATTERN = re.compile(r"[!-~]{1,128}", re.ASCII)
_SID_PATTERN = re.compile(r"[A-Z2-7]{52}", re.ASCII)
_SOURCE_PATTERN = re.compile(r"/[A-Za-z0-9._~/-]{1,127}", re.ASCII)
_POSITION_PATTERN = re.compile(r"([0-9a-f]{1,24})-(0|[1-9][0-9]{0,15})", re.ASCII)
RESERVED_TYPE_PREFIXES = ("file.", "socket.")
"""Types with these beginnings are said by the services alone."""


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """One event. `source` names who says it, `(source, id)` is its identity (CloudEvents 1.0, 3.1.1)."""

    id: str
    source: str
    type: str
    time: str
    data: Any
    topic: str | None = None
    sequence: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class StreamPosition:
    """A place in the one global sequence. Places of different epochs cannot be compared."""

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.offset}"

    @classmethod
    def try_parse(cls, text: str) -> "StreamPosition | None":
        """The place that `text` names, or None where it names none."""
        found = _POSITION_PATTERN.fullmatch(text)
        return cls(found[1], int(found[2])) if found else None

    @classmethod
    def from_string(cls, text: str) -> "StreamPosition":
        """The place that `text` names. ValueError where it names none."""
        place = cls.try_parse(text)
        if place is None:
            raise ValueError(f"not a stream position: {text!r}")
        return place


def is_valid_sid(text: str) -> bool:
    """Whether `text` has the form of a sid: 32 bytes in base32 without padding."""
    return _SID_PATTERN.fullmatch(text) is not None


def is_valid_topic(text: str) -> bool:
    """Whether `text` may name a topic. There are no wildcards; anything but ASCII is percent-encoded by its owner."""
    return _TOPIC_PATTERN.fullmatch(text) is not None


def is_valid_event_id(text: str) -> bool:
    """Whether `text` may be an event's id."""
    return _EVENT_ID_PATTERN.fullmatch(text) is not None


def validate_event_type(text: str) -> str:
    """`text`, or BadRequest where it is no event type."""
    if _TYPE_PATTERN.fullmatch(text) is None:
        raise BadRequest("an event type is 1 to 128 ASCII letters, digits, dots, hyphens and underscores")
    return text


def validate_topic(text: str) -> str:
    """`text`, or BadRequest where it names no topic."""
    if not is_valid_topic(text):
        raise BadRequest(
            f"a topic is 1 to {MAX_TOPIC_LENGTH} ASCII letters, digits and characters of . _ ~ : / @ % + = -"
        )
    return text


def validate_event_id(text: str) -> str:
    """`text`, or BadRequest where it cannot be an id."""
    if not is_valid_event_id(text):
        raise BadRequest(f"an event id is 1 to {MAX_EVENT_ID_LENGTH} visible ASCII characters")
    return text


def validate_source(text: str) -> str:
    """`text`, or ValueError: a source is set by code, never by a client."""
    if _SOURCE_PATTERN.fullmatch(text) is None:
        raise ValueError(f"not an event source: {text!r}")
    return text


def is_reserved_type(event_type: str) -> bool:
    """Whether only the services may say this type."""
    return event_type.startswith(RESERVED_TYPE_PREFIXES)


def encode_event(event: CloudEvent) -> str:
    """One JSON object on one line, without `sequence`, which Redis gives.

    Raises BadRequest where `data` cannot be JSON and TooLarge past MAX_EVENT.
    """
    members: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "time": event.time,
    }
    if event.topic is not None:
        members["topic"] = event.topic
    members["data"] = event.data
    try:
        text = json.dumps(members, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError):
        raise BadRequest("the data is not JSON serializable") from None
    if size > MAX_EVENT_BYTES:
        raise ContentTooLarge(f"an event is at most {MAX_EVENT_BYTES} bytes")
    return text


def with_sequence(encoded_event: bytes, sequence: bytes) -> bytes:
    """What the client receives: the encoded event with its `sequence` in front."""
    return b'{"sequence":"' + sequence + b'",' + encoded_event[1:]


def decode_event(text: str | bytes) -> CloudEvent:
    """The event in a frame. ValueError where it is none."""
    try:
        members = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(members, Mapping) or members.get("specversion") != "1.0":
        raise ValueError("not a CloudEvents 1.0 object")
    try:
        event = CloudEvent(
            id=members["id"],
            source=members["source"],
            type=members["type"],
            time=members.get("time", ""),
            data=members.get("data"),
            topic=members.get("topic"),
            sequence=members.get("sequence"),
        )
    except KeyError as missing:
        raise ValueError(f"missing attribute {missing.args[0]}") from None
    if not all(isinstance(value, str) and value for value in (event.id, event.source, event.type)):
        raise ValueError("id, source and type are non-empty strings")
    return event
