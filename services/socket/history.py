"""Recovery of missed events: reads the histories of several targets from Redis and merges them by offset."""

from collections.abc import Sequence
from dataclasses import dataclass

from gridcast._bus.keys import SEQUENCE_KEY
from services.common.bus.redis import RedisClient
from services.socket.scripts import READ_HISTORY

MAX_BYTES_PER_CALL = 2 * 1024 * 1024
"""Event bytes in one call. A longer history counts as lost, and its clients are sent a resync."""
MAX_RECOVERY_BYTES = 64 * 1024 * 1024
"""Event bytes in one recovery, which takes many calls when a replica recovers all its clients."""
QUERIES_PER_CALL = 100
"""Histories in one call."""


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """A history and the offset after which to read it. `kind` is sid, topic or all; `name` is empty for all."""

    kind: str
    name: str
    after_offset: int


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One event of a target's history."""

    offset: int
    kind: str
    name: str
    ack_channel: str
    event: bytes


@dataclass(frozen=True, slots=True)
class Recovery:
    """The entries of all histories in the order of their offsets, and the queries whose history has lost events."""

    entries: list[HistoryEntry]
    incomplete: list[HistoryQuery]


class History:
    """The histories of the current epoch. Those of an earlier epoch cannot be read."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    async def read_after(self, epoch: str, queries: Sequence[HistoryQuery]) -> Recovery:
        """Read the events after each query's offset, up to the last event at the time of the first call to Redis.

        Later events are left out even where a later call sees them: a caller that subscribed first receives all of them, and if it
        had been given some of them here, it would drop the rest as not newer. Raises ServiceUnavailable while Redis is unavailable.
        """
        entries: list[HistoryEntry] = []
        incomplete: list[HistoryQuery] = []
        bytes_left = MAX_RECOVERY_BYTES
        last_offset: int | str = ""
        for start in range(0, len(queries), QUERIES_PER_CALL):
            batch = queries[start : start + QUERIES_PER_CALL]
            args = [arg for query in batch for arg in (query.kind, query.name, query.after_offset)]
            reply_last, histories = await self._redis.eval(
                READ_HISTORY, (SEQUENCE_KEY,), (epoch, min(bytes_left, MAX_BYTES_PER_CALL), last_offset, *args)
            )
            last_offset = int(reply_last)
            for query, (lost, found) in zip(batch, histories, strict=True):
                if lost:
                    incomplete.append(query)
                entries += [
                    HistoryEntry(int(offset), query.kind, query.name, ack_channel.decode(), event)
                    for offset, ack_channel, event in found
                ]
                bytes_left -= sum(len(event) for _, _, event in found)
        entries.sort(key=lambda entry: entry.offset)
        return Recovery(entries, incomplete)
