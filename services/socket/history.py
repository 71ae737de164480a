"""What sockets have missed: reads the histories of several targets and merges them by number.

It knows Redis and the layout of a history; it does not know who asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.common.push import SEQUENCE
from services.common.redis import Redis
from services.socket.scripts import REPLAY

MAX_BYTES = 2 * 1024 * 1024
"""Of one call. What is longer counts as lost, and the client is told."""
MAX_TOTAL = 64 * 1024 * 1024
"""Of one reading, which for a replica that catches up with all its sockets takes many calls."""
BATCH = 100
"""Targets in one call."""


@dataclass(frozen=True, slots=True)
class Target:
    """A history, and the number after which it is wanted. `kind` is sid, topic or all; `name` is empty for all."""

    kind: str
    name: str
    after: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One event that was pushed to a target."""

    number: int
    kind: str
    name: str
    reply: str
    event: bytes


@dataclass(frozen=True, slots=True)
class Missed:
    """The entries of all targets in the order of the sequence, and the targets of which something is lost."""

    entries: list[Entry]
    lost: list[Target]


class History:
    """The histories of one epoch after another; those of an epoch that is over cannot be read."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def after(self, epoch: str, targets: Sequence[Target]) -> Missed:
        """Everything that came to `targets` after their numbers, up to one moment: that of the first call. What was pushed later
        is not given, even where a later call sees it: whoever listened before he asked hears all of it, and to him who was
        given a part, the rest would be older than what he has. Raises Unavailable while Redis is away.
        """
        entries: list[Entry] = []
        lost: list[Target] = []
        room = MAX_TOTAL
        last: int | str = ""
        for start in range(0, len(targets), BATCH):
            batch = targets[start : start + BATCH]
            args = [part for target in batch for part in (target.kind, target.name, target.after)]
            number, answer = await self._redis.run(REPLAY, (SEQUENCE,), (epoch, min(room, MAX_BYTES), last, *args))
            last = int(number)
            for target, (gap, found) in zip(batch, answer, strict=True):
                if gap:
                    lost.append(target)
                entries += [
                    Entry(int(number), target.kind, target.name, reply.decode(), event)
                    for number, reply, event in found
                ]
                room -= sum(len(event) for _, _, event in found)
        entries.sort(key=lambda entry: entry.number)
        return Missed(entries, lost)
