"""What a client may say: reads one message into a command. Pure: it knows neither a connection nor who is subscribed."""

import json
from dataclasses import dataclass

from gridcast._bus import events


@dataclass(frozen=True, slots=True)
class Ping:
    """Answered like everything that is no command."""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Begin to hear a topic."""

    topic: str


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Hear no more of a topic."""

    topic: str


@dataclass(frozen=True, slots=True)
class Ack:
    """The event with this id has been handled."""

    event_id: str


@dataclass(frozen=True, slots=True)
class InvalidCommand:
    """A command that cannot be followed, and why."""

    detail: str


Command = Ping | Subscribe | Unsubscribe | Ack | InvalidCommand


def parse_command(text: str | None) -> Command:
    """The command in a text frame. What is none (RxJS's `"ping"`, plain text, a binary frame) is a Ping, as ever."""
    if text is None:
        return Ping()
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return Ping()
    if not isinstance(said, dict) or not isinstance(said.get("type"), str):
        return Ping()
    match said["type"]:
        case "ping":
            return Ping()
        case "subscribe" | "unsubscribe" as kind:
            topic = said.get("topic")
            if not isinstance(topic, str) or not events.is_valid_topic(topic):
                return InvalidCommand(
                    f"{kind} needs a topic of 1 to {events.MAX_TOPIC_LENGTH} permitted ASCII characters"
                )
            return Subscribe(topic) if kind == "subscribe" else Unsubscribe(topic)
        case "ack":
            identifier = said.get("id")
            if not isinstance(identifier, str) or not events.is_valid_event_id(identifier):
                return InvalidCommand("ack needs the id of an event")
            return Ack(identifier)
        case _:
            return InvalidCommand("unknown type: expected ping, subscribe, unsubscribe or ack")
