"""Pushes time-coded messages: each is stored with its place in the media, then published on the topic of its stream."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from gridcast._bus.events import (
    CloudEvent,
    encode_event,
    is_reserved_type,
    validate_event_id,
    validate_event_type,
)
from services.common.bus.errors import translated_bus_errors
from services.common.bus.publisher import EventPublisher
from services.common.errors import BadRequest, ContentTooLarge
from services.common.store.live_messages import MAX_MESSAGE_DATA_BYTES, LiveMessages, NewMessage, StoredMessage

MESSAGE_TYPE = "live.message"
"""Of the event that carries a message."""


class TimedMessages:
    """The messages of all streams. `limit`: how many one stream may have."""

    def __init__(self, messages: LiveMessages, publisher: EventPublisher, limit: int) -> None:
        self._messages = messages
        self._publisher = publisher
        self._limit = limit

    async def push(self, stream_id: str, message: NewMessage) -> tuple[StoredMessage, bool]:
        """Store a message and publish it; return it, and whether it is new.

        It is stored where publishing fails: a caller that repeats the call with the same id publishes what is stored. Raises
        NotFound, NotLive, Gone, TooManyMessages, ServiceUnavailable.
        """
        stored, is_new = await self._messages.add_message(stream_id, message, self._limit)
        data = {"id": stream_id, **describe_message(stored), "data": json.loads(stored.data_json)}
        await self._publisher.publish(topic_of(stream_id), MESSAGE_TYPE, data, id=stored.id)
        return stored, is_new


def topic_of(stream_id: str) -> str:
    """Return the topic of a stream."""
    return f"live/{stream_id}"


def describe_message(message: StoredMessage) -> dict[str, Any]:
    """Return all of a message but its data: `time` in seconds of the file."""
    return {
        "message": message.id,
        "type": message.type,
        "time": message.place.milliseconds / 1000,
        "epoch": message.epoch,
        "date": datetime.fromtimestamp(message.date, UTC).isoformat(timespec="milliseconds"),
    }


def new_message(event_type: str, data: Any, message_id: str | None, at: float | None) -> NewMessage:
    """Return a valid message, with an id of its own where none is given. Raises BadRequest, ContentTooLarge."""
    with translated_bus_errors():
        validate_event_type(event_type)
        identifier = uuid4().hex if message_id is None else validate_event_id(message_id)
        # Nothing is stored that could not be published: the depth is that of the event that carries it.
        encode_event(CloudEvent(identifier, "/live", MESSAGE_TYPE, "", {"data": data}))
    if is_reserved_type(event_type) or event_type.startswith("live."):
        raise BadRequest("types that begin with file., socket. or live. are reserved for the services")
    text = json.dumps(data, separators=(",", ":"))
    if len(text) > MAX_MESSAGE_DATA_BYTES:
        raise ContentTooLarge(f"the data of a message has at most {MAX_MESSAGE_DATA_BYTES} bytes of JSON in ASCII")
    return NewMessage(identifier, event_type, text, None if at is None else round(at * 1000))
