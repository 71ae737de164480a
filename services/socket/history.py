"""What sockets have missed: reads the histories of several targets and merges them by number.

It knows Redis and the layout of a history; it does not know who asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gridcast._bus.keys import SEQUENCE_KEY
from services.common.bus.redis import RedisClient
from services.socket.scripts import READ_HISTORY

MAX_BYTES_PER_CALL = 2 * 1024 * 1024
"""Of one call. What is longer counts as lost, and the client is told."""
MAX_RECOVERY_BYTES = 64 * 1024 * 1024
"""Of one reading, which for a replica that catches up with all its sockets takes many calls."""
QUERIES_PER_CALL = 100
"""Targets in one call."""


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """A history, and the number after which it is wanted. `kind` is sid, topic or all; `name` is empty for all."""

    kind: str
    name: str
    after_offset: int


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One event that was pushed to a target."""

    offset: int
    kind: str
    name: str
    ack_channel: str
    event: bytes


@dataclass(frozen=True, slots=True)
class Recovery:
    """The entries of all targets in the order of the sequence, and the targets of which something is lost."""

    entries: list[HistoryEntry]
    incomplete: list[HistoryQuery]


class History:
    """The histories of one epoch after another; those of an epoch that is over cannot be read."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    async def read_after(self, epoch: str, queries: Sequence[HistoryQuery]) -> Recovery:
        """Everything that came to `targets` after their numbers, up to one moment: that of the first call. What was pushed later
        is not given, even where a later call sees it: whoever listened before he asked hears all of it, and to him who was
        given a part, the rest would be older than what he has. Raises Unavailable while Redis is away.
        """
        entries: list[HistoryEntry] = []
        lost: list[HistoryQuery] = []
        room = MAX_RECOVERY_BYTES
        last: int | str = ""
        for start in range(0, len(queries), QUERIES_PER_CALL):
            batch = queries[start : start + QUERIES_PER_CALL]
            args = [part for target in batch for part in (target.kind, target.name, target.after_offset)]
            number, answer = await self._redis.eval(
                READ_HISTORY, (SEQUENCE_KEY,), (epoch, min(room, MAX_BYTES_PER_CALL), last, *args)
            )
            last = int(number)
            for target, (gap, found) in zip(batch, answer, strict=True):
                if gap:
                    lost.append(target)
                entries += [
                    HistoryEntry(int(number), target.kind, target.name, reply.decode(), event)
                    for number, reply, event in found
                ]
                room -= sum(len(event) for _, _, event in found)
        entries.sort(key=lambda entry: entry.offset)
        return Recovery(entries, lost)
