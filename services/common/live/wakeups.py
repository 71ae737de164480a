"""The messages by which the processes that serve a stream hear that there is more of it (Redis pub/sub). Pure.

They may be lost or late: a reader also asks the store from time to time, so nothing depends on them but the delay.
"""

import json
from typing import NamedTuple

CHANNEL = "gridcast:live"
"""One channel for all streams; a message has about 100 bytes, and each stream one a segment."""
_MAX_MESSAGE_BYTES = 1_000


class WakeUp(NamedTuple):
    """A stream has changed: it has segments up to `last_segment` (-1 for none), and is in the state `state`."""

    stream_id: str
    last_segment: int
    state: str


def encode_wake_up(wake_up: WakeUp) -> bytes:
    """Return the message."""
    return json.dumps({"id": wake_up.stream_id, "n": wake_up.last_segment, "state": wake_up.state}).encode()


def decode_wake_up(message: bytes) -> WakeUp | None:
    """Read a message; None for anything else."""
    if len(message) > _MAX_MESSAGE_BYTES:
        return None
    try:
        fields = json.loads(message)
        found = WakeUp(fields["id"], fields["n"], fields["state"])
    except (ValueError, TypeError, KeyError):
        return None
    kinds = (str, int, str)
    return found if all(type(value) is kind for value, kind in zip(found, kinds, strict=True)) else None
