"""The commands of a client: parses one message into a command."""

import json
from dataclasses import dataclass, field

from gridcast._bus import events


@dataclass(frozen=True, slots=True)
class Ping:
    """Answered with a pong, as any message that is not a command."""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Subscribe to a topic."""

    topic: str


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Unsubscribe from a topic."""

    topic: str


@dataclass(frozen=True, slots=True)
class Ack:
    """Confirm that the event with this id has been handled."""

    event_id: str


@dataclass(frozen=True, slots=True)
class Token:
    """Replace the token of the connection by a newer one."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class InvalidCommand:
    """A command that breaks a rule; `detail` names the rule."""

    detail: str


Command = Ping | Subscribe | Unsubscribe | Ack | Token | InvalidCommand


def parse_command(data: str | bytes) -> Command:
    """Parse the command in a message: the text of a text frame, or the bytes of a binary one, which are read as UTF-8.

    Any other message (RxJS's `"ping"`, plain text, other bytes) is a Ping.
    """
    try:
        message = json.loads(data if isinstance(data, str) else data.decode())
    except (ValueError, RecursionError):
        return Ping()
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        return Ping()
    match message["type"]:
        case "ping":
            return Ping()
        case "subscribe" | "unsubscribe" as kind:
            topic = message.get("topic")
            if not isinstance(topic, str) or not events.is_valid_topic(topic):
                return InvalidCommand(
                    f"{kind} needs a topic of 1 to {events.MAX_TOPIC_LENGTH} permitted ASCII characters"
                )
            return Subscribe(topic) if kind == "subscribe" else Unsubscribe(topic)
        case "ack":
            event_id = message.get("id")
            if not isinstance(event_id, str) or not events.is_valid_event_id(event_id):
                return InvalidCommand("ack needs the id of an event")
            return Ack(event_id)
        case "token":
            token = message.get("token")
            if not isinstance(token, str) or not token.isascii():
                return InvalidCommand("token needs a token")
            return Token(token)
        case _:
            return InvalidCommand("unknown type: expected ping, subscribe, unsubscribe, ack or token")
