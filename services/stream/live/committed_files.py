"""Finds the files that ended streams have become, for a second each: one query for all who ask for segments."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from services.common.aio.singleflight import SingleFlight
from services.common.media import MediaInfo
from services.common.store.live_store import LiveStream

FILE_TTL_SECONDS = 1.0
MAX_REMEMBERED_FILES = 1_000


class FileFinder(Protocol):
    """The part of the store's port that is needed. Raises ServiceUnavailable."""

    async def find_file(self, stream: LiveStream) -> MediaInfo | None:
        """Return the file that a stream has become, None where there is none, or none any more."""


@dataclass(frozen=True, slots=True)
class _Lookup:
    find: SingleFlight[MediaInfo | None]
    found: list[MediaInfo | None]
    expires_at: float


class CommittedFiles:
    """Remembers where the bytes of ended streams are."""

    def __init__(self, finder: FileFinder, clock: Callable[[], float] = time.monotonic) -> None:
        self._finder = finder
        self._clock = clock
        self._lookups: OrderedDict[tuple[str, str], _Lookup] = OrderedDict()

    async def find(self, stream: LiveStream) -> MediaInfo | None:
        """Return the file of a stream, None where there is none. Raises ServiceUnavailable."""
        key = (stream.new.id, stream.file_id)
        known = self._lookups.get(key)
        if known is None or self._clock() >= known.expires_at:
            found: list[MediaInfo | None] = []

            async def find() -> MediaInfo | None:
                found.append(await self._finder.find_file(stream))
                return found[0]

            known = _Lookup(SingleFlight(find), found, self._clock() + FILE_TTL_SECONDS)
            self._lookups[key] = known
            self._lookups.move_to_end(key)
            while len(self._lookups) > MAX_REMEMBERED_FILES:
                self._lookups.popitem(last=False)
        return known.found[0] if known.found else await known.find()
