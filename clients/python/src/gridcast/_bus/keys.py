"""Builds the name of every Redis key and channel. docs/messages.md lists them with their types and lifetimes.

The Lua scripts compute some of these names themselves: tests/unit/client/test_keys.py compares their literals with this module.
"""

SEQUENCE_KEY = "gridcast:sequence"
"""Hash with the epoch and the offset of the last event."""
SESSIONS_KEY = "gridcast:sids"
"""Sorted set of all sids."""
ALL_CHANNEL = "gridcast:all"
"""Wake-ups of broadcasts. Every socket replica subscribes to it."""
REVOCATIONS_KEY = "gridcast:revocations"
"""The revoked tokens, subjects and links, as JSON. The upload service writes it each second, the socket service reads it."""
INVALIDATION_CHANNEL = "gridcast:invalidate"
"""Changed files, each as the JSON array `[folder, filename]`. Every stream replica subscribes to it."""


def session_key(sid: str) -> str:
    """The hash with the session of one sid."""
    return f"gridcast:sid:{sid}"


def closed_key(sid: str) -> str:
    """The mark of a session that an operator has deleted."""
    return f"gridcast:closed:{sid}"


def node_key(node: str) -> str:
    """The key that exists while the socket replica `node` is alive. Its channel has the same name."""
    return f"gridcast:node:{node}"


def node_channel(node: str) -> str:
    """The channel of the socket replica `node`: wake-ups for its sids, and control messages."""
    return f"gridcast:node:{node}"


def topic_channel(topic: str) -> str:
    """The channel of one topic's wake-ups."""
    return f"gridcast:topic:{topic}"


def history_key(epoch: str, kind: str, name: str) -> str:
    """The stream with the recent events of one target: kind `sid`, `topic` or `all`; the name is empty for `all`."""
    return f"gridcast:history:{epoch}:{kind}:{name}"


def deduplication_key(kind: str, name: str, source: str, event_id: str) -> str:
    """The sequence that an event got when it was published to this target for the first time."""
    return f"gridcast:once:{kind}:{name} {source} {event_id}"
