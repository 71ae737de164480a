"""What is known of files by name: looked up in the store, and remembered for a second while nobody says that it changed.

Never remembered: that there is no such file, and anything at all while changes cannot be heard of.
"""

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from services.common.errors import NotFound
from services.common.media import MediaName
from services.common.store.media_reader import MediaReader
from services.common.telemetry import metrics
from services.stream.response_plan import Representation, build_representation

METADATA_TTL_SECONDS = 1.0

_READS = metrics.CACHE_LOOKUPS.counts
_METADATA_HIT, _METADATA_MISS = ("metadata", "hit"), ("metadata", "miss")


@dataclass(frozen=True, slots=True)
class _CachedMetadata:
    representation: Representation
    expires_at: float


@dataclass(frozen=True, slots=True)
class _InFlightLookup:
    task: asyncio.Task[Representation]
    joinable_until: float


class MetadataCache:
    """Files by name. `is_live` says whether `changed` is told of every change as it happens."""

    def __init__(self, reader: MediaReader, max_entries: int, invalidations_live: Callable[[], bool]) -> None:
        self._reader = reader
        self._max_entries = max_entries
        self._invalidations_live = invalidations_live
        self._entries: OrderedDict[MediaName, _CachedMetadata] = OrderedDict()
        self._in_flight: dict[MediaName, _InFlightLookup] = {}
        self._invalidation_count = 0

    def get(self, name: MediaName) -> Representation | None:
        """What is remembered of that name: `find` without waiting."""
        entry = self._entries.get(name)
        if entry is None or time.monotonic() >= entry.expires_at or not self._invalidations_live():
            return None
        _READS[_METADATA_HIT] += 1
        return entry.representation

    async def get_or_fetch(self, name: MediaName, *, bypass_cache: bool = False) -> Representation:
        """The current file of that name; `fresh` asks the store whatever is remembered. Raises NotFound and Unavailable."""
        if bypass_cache or not self._invalidations_live():
            return await self._fetch(name)
        if (file := self.get(name)) is not None:
            return file
        _READS[_METADATA_MISS] += 1
        now = time.monotonic()
        # A question under way answers for others too, as long as its answer is no older than a remembered one may be.
        question = self._in_flight.get(name)
        if question is not None and now < question.joinable_until:
            with suppress(NotFound):  # a miss is good for nobody but the one who asked
                return await asyncio.shield(question.task)
            return await self._fetch(name)
        question = self._in_flight[name] = _InFlightLookup(
            asyncio.create_task(self._fetch(name)), now + METADATA_TTL_SECONDS
        )
        question.task.add_done_callback(lambda _: self._on_lookup_done(name, question))
        return await asyncio.shield(question.task)

    def _on_lookup_done(self, name: MediaName, lookup: _InFlightLookup) -> None:
        if self._in_flight.get(name) is lookup:
            del self._in_flight[name]
        if not lookup.task.cancelled():
            lookup.task.exception()  # there may be nobody left who waits for it

    async def _fetch(self, name: MediaName) -> Representation:
        began, changes = (
            time.monotonic(),
            self._invalidation_count,
        )  # before the question: the answer may be as old as that
        info = await self._reader.find(name)
        before = self._entries.pop(name, None)
        if info is None:
            raise NotFound("file not found")
        file = (
            before.representation
            if before is not None and before.representation.info == info
            else build_representation(info)
        )
        if self._invalidations_live() and changes == self._invalidation_count:
            self._entries[name] = _CachedMetadata(file, began + METADATA_TTL_SECONDS)
            if len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)
        return file

    def on_invalidation(self, _channel: bytes, payload: bytes) -> None:
        """What a writer published: a JSON list of folder and filename. An answer under way is not remembered either."""
        self._invalidation_count += 1
        try:
            folder, filename = json.loads(payload)
            name = MediaName(folder, filename)
            self._in_flight.pop(name, None)
            self._entries.pop(name, None)
        except (ValueError, TypeError):
            self.clear()

    def clear(self) -> None:
        """Changes may have been missed."""
        self._invalidation_count += 1
        self._in_flight.clear()
        self._entries.clear()
