"""The media facts of files that were stored without them, read when they are asked for: three blocks at most.

Kept in memory by the id of the bytes, which never change. Facts that were stored with the file are returned as they are.
"""

import asyncio
import logging
from collections import OrderedDict

from services.common.aio.singleflight import SingleFlight
from services.common.containers.facts import facts_json
from services.common.containers.scanner import FactsScanner
from services.common.errors import GridcastError
from services.common.media import MediaInfo
from services.common.store.errors import CorruptFile
from services.stream.block_cache import BlockCache

MAX_FACTS_ENTRIES = 1024
"""Files whose facts are kept: up to 8 KiB of each, usually 200 bytes."""
MAX_INDEX_BLOCKS = 2
"""Blocks that are read where the first one says that the index is elsewhere."""

_log = logging.getLogger("gridcast.stream")


class MediaFactsReader:
    """Reads media facts through the block cache."""

    def __init__(self, cache: BlockCache) -> None:
        self._cache = cache
        self._known: OrderedDict[str, str] = OrderedDict()
        self._in_flight: dict[str, SingleFlight[str | None]] = {}

    async def get_json(self, info: MediaInfo) -> str | None:
        """Return the facts of a file as JSON text; None where they cannot be read now."""
        if info.media_facts_json is not None:
            return info.media_facts_json
        if (known := self._known.get(info.file_id)) is not None:
            self._known.move_to_end(info.file_id)
            return known
        if (reading := self._in_flight.get(info.file_id)) is None:

            async def read() -> str | None:
                try:
                    return await self._read(info)
                finally:
                    del self._in_flight[info.file_id]

            reading = self._in_flight[info.file_id] = SingleFlight(read)
        return await reading()

    async def _read(self, info: MediaInfo) -> str | None:
        try:
            facts = await self._scan(info)
        except (CorruptFile, GridcastError) as error:
            _log.warning("media facts of %s not read: %s", info.id, error)
            return None
        self._known[info.file_id] = facts
        if len(self._known) > MAX_FACTS_ENTRIES:
            self._known.popitem(last=False)
        return facts

    async def _scan(self, info: MediaInfo) -> str:
        """Show the scanner the first block, and those at which it wants to go on. Raises CorruptFile and GridcastError."""
        scanner, fed = FactsScanner(), 0
        for _ in range(1 + MAX_INDEX_BLOCKS):
            wanted = scanner.wanted
            if wanted is None:
                break
            offset = max(info.length + wanted if wanted < 0 else wanted, fed)
            if offset >= info.length:
                break
            index, start = divmod(offset, self._cache.block_size)
            block = self._cache.get(info.file_id, index) or await self._cache.get_or_fetch(info, index, index)
            scanner.skip_to(offset)
            await asyncio.to_thread(scanner.feed, block[start:])  # hostile bytes may take some milliseconds
            fed = offset - start + len(block)
        return facts_json(await asyncio.to_thread(scanner.finish, info.length))
