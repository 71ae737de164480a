"""Caches the metadata of files by name, for one second or until an invalidation arrives.

Not cached: that a file does not exist, and anything at all while the invalidation subscription is down.
"""

import json
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from services.common.aio.singleflight import SingleFlight
from services.common.errors import NotFound
from services.common.media import MediaName
from services.common.store.media_reader import MediaReader
from services.common.telemetry import metrics
from services.stream.response_plan import Representation, build_representation

METADATA_TTL_SECONDS = 1.0
MAX_CACHED_TEXT_BYTES = 8 * 1024 * 1024
"""Memory for what uploaders and containers say of files, up to 24 KiB of each."""

_METADATA_LOOKUPS = metrics.CACHE_LOOKUPS.counts
_METADATA_HIT, _METADATA_MISS = ("metadata", "hit"), ("metadata", "miss")


@dataclass(frozen=True, slots=True)
class _CachedMetadata:
    representation: Representation
    expires_at: float


@dataclass(frozen=True, slots=True)
class _InFlightLookup:
    fetch: SingleFlight[Representation]
    joinable_until: float


class MetadataCache:
    """Metadata by name. `invalidations_live` returns whether `on_invalidation` is called for every change as it happens."""

    def __init__(self, reader: MediaReader, max_entries: int, invalidations_live: Callable[[], bool]) -> None:
        self._reader = reader
        self._max_entries = max_entries
        self._invalidations_live = invalidations_live
        self._entries: OrderedDict[MediaName, _CachedMetadata] = OrderedDict()
        self._text_bytes = 0
        self._in_flight: dict[MediaName, _InFlightLookup] = {}
        self._invalidation_count = 0

    def get(self, name: MediaName) -> Representation | None:
        """Return the cached metadata of a name, or None."""
        entry = self._entries.get(name)
        if entry is None or time.monotonic() >= entry.expires_at or not self._invalidations_live():
            return None
        _METADATA_LOOKUPS[_METADATA_HIT] += 1
        return entry.representation

    async def get_or_fetch(self, name: MediaName, *, bypass_cache: bool = False) -> Representation:
        """Return the metadata of a name; `bypass_cache` reads it from the store. Raises NotFound and ServiceUnavailable."""
        if bypass_cache or not self._invalidations_live():
            return await self._fetch(name)
        if (file := self.get(name)) is not None:
            return file
        _METADATA_LOOKUPS[_METADATA_MISS] += 1
        now = time.monotonic()
        # Single-flight: a lookup in flight also answers later callers, as long as its result is no older than a cached one may be.
        lookup = self._in_flight.get(name)
        if lookup is not None and now < lookup.joinable_until:
            with suppress(NotFound):  # a miss is valid for the caller that started the lookup only
                return await lookup.fetch()
            return await self._fetch(name)

        async def fetch() -> Representation:
            try:
                return await self._fetch(name)
            finally:
                # Its own one, unless another one was begun since. It is not named here: it refers to this function.
                if (latest := self._in_flight.get(name)) is not None and latest.joinable_until == joinable_until:
                    del self._in_flight[name]

        joinable_until = now + METADATA_TTL_SECONDS
        started = self._in_flight[name] = _InFlightLookup(SingleFlight(fetch), joinable_until)
        return await started.fetch()

    async def _fetch(self, name: MediaName) -> Representation:
        began, changes = (
            time.monotonic(),
            self._invalidation_count,
        )  # before the lookup: its result may be as old as that
        info = await self._reader.find(name)
        before = self._remove(name)
        if info is None:
            raise NotFound("file not found")
        file = (
            before.representation
            if before is not None and before.representation.info == info
            else build_representation(info, datetime.now(UTC))
        )
        if self._invalidations_live() and changes == self._invalidation_count:
            self._add(name, _CachedMetadata(file, began + METADATA_TTL_SECONDS))
        return file

    def _add(self, name: MediaName, entry: _CachedMetadata) -> None:
        """Add an entry, and drop the oldest ones beyond the limits."""
        self._remove(name)
        self._entries[name] = entry
        self._text_bytes += _text_size(entry)
        while len(self._entries) > self._max_entries or self._text_bytes > MAX_CACHED_TEXT_BYTES:
            self._remove(next(iter(self._entries)))

    def _remove(self, name: MediaName) -> _CachedMetadata | None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            self._text_bytes -= _text_size(entry)
        return entry

    def on_invalidation(self, _channel: bytes, payload: bytes) -> None:
        """Drop the metadata of a changed file; a lookup in flight is not cached.

        `payload` is a JSON list of folder and filename; anything else drops all metadata.
        """
        self._invalidation_count += 1
        try:
            folder, filename = json.loads(payload)
            name = MediaName(folder, filename)
            self._in_flight.pop(name, None)
            self._remove(name)
        except (ValueError, TypeError):
            self.clear()

    def clear(self) -> None:
        """Drop everything, because invalidations may have been lost."""
        self._invalidation_count += 1
        self._in_flight.clear()
        self._entries.clear()
        self._text_bytes = 0


def _text_size(entry: _CachedMetadata) -> int:
    """Bytes of memory of what an uploader and the container say of a file."""
    info = entry.representation.info
    return sys.getsizeof(info.metadata_json) + sys.getsizeof(info.media_facts_json)
