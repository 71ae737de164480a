"""The event envelope: CloudEvents 1.0 attributes in one JSON object, and the rules for the names in it.

Pure: the sender passes the id and the time.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gridcast.errors import EventTooLarge, InvalidEvent

MAX_EVENT_BYTES = 64 * 1024
"""Size of one encoded event. A media service sends references, never content."""
MAX_EVENT_DEPTH = 500
"""Levels of arrays and objects in one encoded event. Parsers have limits of their own: 1000 is that of Python and of Redis."""
MAX_TOPIC_LENGTH = 200
MAX_EVENT_ID_LENGTH = 128

_TYPE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_TOPIC_PATTERN = re.compile(r"[A-Za-z0-9._~:/@%+=-]{1,200}", re.ASCII)
_EVENT_ID_PATTERN = re.compile(r"[!-~]{1,128}", re.ASCII)
_SID_PATTERN = re.compile(r"[A-Z2-7]{52}", re.ASCII)
_SOURCE_PATTERN = re.compile(r"/[A-Za-z0-9._~/-]{1,127}", re.ASCII)
_POSITION_PATTERN = re.compile(r"([0-9a-f]{1,24})-(0|[1-9][0-9]{0,15})", re.ASCII)
RESERVED_TYPE_PREFIXES = ("file.", "socket.")
"""Only Gridcast's services publish types with these prefixes."""


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """One event. `source` names its sender; `(source, id)` is its identity (CloudEvents 1.0, 3.1.1)."""

    id: str
    source: str
    type: str
    time: str
    data: Any
    topic: str | None = None
    sequence: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class StreamPosition:
    """A position in the one global sequence of events. Offsets of different epochs cannot be compared."""

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.offset}"

    @classmethod
    def try_parse(cls, text: str) -> "StreamPosition | None":
        """Parse `EPOCH-OFFSET`; None for any other text."""
        found = _POSITION_PATTERN.fullmatch(text)
        return cls(found[1], int(found[2])) if found else None

    @classmethod
    def from_string(cls, text: str) -> "StreamPosition":
        """Parse `EPOCH-OFFSET`. Raises ValueError for any other text."""
        position = cls.try_parse(text)
        if position is None:
            raise ValueError(f"not a stream position: {text!r}")
        return position


def is_valid_sid(text: str) -> bool:
    """Whether `text` has the form of a sid: 32 bytes in base32 without padding."""
    return _SID_PATTERN.fullmatch(text) is not None


def is_valid_topic(text: str) -> bool:
    """Whether `text` is a valid topic. There are no wildcards; the caller percent-encodes anything but ASCII."""
    return _TOPIC_PATTERN.fullmatch(text) is not None


def is_valid_event_id(text: str) -> bool:
    """Whether `text` is a valid event id."""
    return _EVENT_ID_PATTERN.fullmatch(text) is not None


def validate_event_type(text: str) -> str:
    """Return `text`. Raises InvalidEvent unless it is a valid event type."""
    if _TYPE_PATTERN.fullmatch(text) is None:
        raise InvalidEvent("an event type is 1 to 128 ASCII letters, digits, dots, hyphens and underscores")
    return text


def validate_topic(text: str) -> str:
    """Return `text`. Raises InvalidEvent unless it is a valid topic."""
    if not is_valid_topic(text):
        raise InvalidEvent(
            f"a topic is 1 to {MAX_TOPIC_LENGTH} ASCII letters, digits and characters of . _ ~ : / @ % + = -"
        )
    return text


def validate_event_id(text: str) -> str:
    """Return `text`. Raises InvalidEvent unless it is a valid event id."""
    if not is_valid_event_id(text):
        raise InvalidEvent(f"an event id is 1 to {MAX_EVENT_ID_LENGTH} visible ASCII characters")
    return text


def validate_source(text: str) -> str:
    """Return `text`. Raises ValueError unless it is a valid source: code sets it, never a client."""
    if _SOURCE_PATTERN.fullmatch(text) is None:
        raise ValueError(f"not an event source: {text!r}")
    return text


def is_reserved_type(event_type: str) -> bool:
    """Whether only Gridcast's services publish this type."""
    return event_type.startswith(RESERVED_TYPE_PREFIXES)


def encode_event(event: CloudEvent) -> str:
    """Encode an event as one JSON object on one line, without `sequence`, which Redis assigns.

    Raises InvalidEvent where `data` is not JSON serializable, and EventTooLarge above MAX_EVENT_BYTES.
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
        raise InvalidEvent("the data is not JSON serializable") from None
    if size > MAX_EVENT_BYTES:
        raise EventTooLarge(f"an event is at most {MAX_EVENT_BYTES} bytes")
    # No text is nested deeper than it has brackets, and nearly all have few.
    if text.count("[") + text.count("{") > MAX_EVENT_DEPTH and _depth(members) > MAX_EVENT_DEPTH:
        raise InvalidEvent(f"an event is nested at most {MAX_EVENT_DEPTH} deep")
    return text


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [value for value in level if isinstance(value, Mapping | list | tuple)]:
        depth += 1
        level = [child for value in level for child in (value.values() if isinstance(value, Mapping) else value)]
    return depth


def with_sequence(encoded_event: bytes, sequence: bytes) -> bytes:
    """What a client receives: the encoded event with its `sequence` as the first member."""
    return b'{"sequence":"' + sequence + b'",' + encoded_event[1:]


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_reject_constant)


def decode_published_event(encoded_event: bytes) -> CloudEvent:
    """Decode an event as it was published. Raises ValueError for one that breaks a rule of docs/messages.md.

    `encode_event` keeps the rules; another client that calls the push script may not.
    """
    if len(encoded_event) > MAX_EVENT_BYTES:
        raise ValueError(f"more than {MAX_EVENT_BYTES} bytes")
    if not encoded_event.startswith(b"{"):
        raise ValueError("not a JSON object at its first byte")
    event = decode_event(encoded_event)
    if event.sequence is not None:
        raise ValueError("a sequence, which Redis assigns")
    return event


def decode_event(text: str | bytes) -> CloudEvent:
    """Decode the event in a frame. Raises ValueError for anything else."""
    try:
        members = _DECODER.decode(text if isinstance(text, str) else text.decode())
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
