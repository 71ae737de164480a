"""Recovery of missed events: reads the histories of several targets from Redis page by page, and merges them by offset."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from gridcast._bus.keys import SEQUENCE_KEY
from services.common.bus.redis import RedisClient
from services.socket.scripts import READ_HISTORY

MAX_PAGE_BYTES = 256 * 1024
"""Event bytes of one page. One call reads its share of it, and an event of any size where that is less."""
QUERIES_PER_CALL = 128
"""Histories in one call: those of one client, whose topics are at most 100 by default, fit."""


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
class HistoryPage:
    """The entries of all histories up to `end_offset`, in the order of their offsets.

    `incomplete` has the queries whose history has lost events: before this page, or while the earlier pages were read.
    """

    entries: list[HistoryEntry]
    incomplete: list[HistoryQuery]
    end_offset: int


class History:
    """The histories of the current epoch. Those of an earlier epoch cannot be read."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    async def read_pages(self, epoch: str, queries: Sequence[HistoryQuery]) -> AsyncIterator[HistoryPage]:
        """Yield the events after each query's offset, up to the last event at the time of the first call to Redis.

        The number of pages has no limit, and their size has one: MAX_PAGE_BYTES, or one event for each QUERIES_PER_CALL queries.
        There is at least one page. Later events are left out even where a later call sees them: a caller that subscribed first
        receives all of them, and if it had been given some of them here, it would drop the rest as not newer. Raises
        ServiceUnavailable while Redis is unavailable.
        """
        batches = [queries[start : start + QUERIES_PER_CALL] for start in range(0, len(queries), QUERIES_PER_CALL)]
        reported: dict[HistoryQuery, int] = {}
        position, last_offset = 0, -1
        while True:
            pages: list[HistoryPage] = []
            for batch in batches:
                share = MAX_PAGE_BYTES // len(batches)
                last_offset, page = await self._read_page(epoch, batch, position, last_offset, share, reported)
                pages.append(page)
            # Every history has been read up to here. What a batch has beyond is read again in its turn.
            end_offset = min((page.end_offset for page in pages), default=last_offset)
            entries = [entry for page in pages for entry in page.entries if entry.offset <= end_offset]
            entries.sort(key=lambda entry: entry.offset)
            yield HistoryPage(entries, [query for page in pages for query in page.incomplete], end_offset)
            batches = [
                batch
                for batch, page in zip(batches, pages, strict=True)
                if page.end_offset < last_offset or (page.entries and page.entries[-1].offset > end_offset)
            ]
            position = end_offset
            if not batches:
                return

    async def _read_page(
        self,
        epoch: str,
        queries: Sequence[HistoryQuery],
        position: int,
        last_offset: int,
        max_bytes: int,
        reported: dict[HistoryQuery, int],
    ) -> tuple[int, HistoryPage]:
        """Read one page of one call after `position`, and return the offset of the last event to read with it.

        `last_offset` is that of an earlier call, or -1. `reported` has, by query, the newest lost event that was reported.
        """
        offsets = [max(query.after_offset, position) for query in queries]
        args = [arg for query, offset in zip(queries, offsets, strict=True) for arg in (query.kind, query.name, offset)]
        last = "" if last_offset < 0 else last_offset
        reply = await self._redis.eval(READ_HISTORY, (SEQUENCE_KEY,), (epoch, max_bytes, last, *args))
        last_offset, end_offset, predecessors, found = reply
        incomplete = []
        for query, offset, predecessor in zip(queries, offsets, predecessors, strict=True):
            if predecessor > max(offset, reported.get(query, 0)):
                incomplete.append(query)
                reported[query] = predecessor
        entries = [
            HistoryEntry(offset, queries[index].kind, queries[index].name, ack_channel.decode(), event)
            for index, offset, ack_channel, event in found
        ]
        return last_offset, HistoryPage(entries, incomplete, end_offset)
