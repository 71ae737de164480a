"""The wake-up: the message that announces one event on a Redis channel. PUBLISH_EVENT writes it, Wakeup.parse reads it.

A wake-up is the fields `sequence kind name last reply`, separated by tabs, then a line feed and the encoded event.
"""

from typing import NamedTuple, Self

from gridcast._bus.events import StreamPosition
from gridcast._bus.lua_script import LuaScript

PUBLISH_EVENT = LuaScript.load("gridcast._bus", "publish_event")
"""Numbers one event, appends it to the history of its target and publishes the wake-up, atomically. docs/messages.md prints it."""


class Wakeup(NamedTuple):
    """One announced event. `kind` is `sid`, `topic` or `all`; `name` is empty for `all`.

    `conflation_key` is the script's argument `last`, `ack_channel` its argument `reply`; each may be empty.
    A named tuple, because one is made for each message that a replica receives.
    """

    position: StreamPosition
    kind: str
    name: str
    conflation_key: str
    ack_channel: str
    event: bytes

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Parse the payload of a message. Raises ValueError for any other payload; the event is not decoded."""
        head, _, event = payload.partition(b"\n")
        sequence, kind, name, conflation_key, ack_channel = head.decode().split("\t")
        return cls(StreamPosition.from_string(sequence), kind, name, conflation_key, ack_channel, event)
