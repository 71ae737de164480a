"""What is known of files by name: looked up in the store, and remembered for a second while nobody says that it changed.

Never remembered: that there is no such file, and anything at all while changes cannot be heard of.
"""

import json
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from services.common.errors import NotFound
from services.common.media import MediaName
from services.common.store.port import MediaReader
from services.stream.reply import Representation, represent

REMEMBERED_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Entry:
    file: Representation
    until: float


class Catalogue:
    """Files by name. `is_live` says whether `changed` is told of every change as it happens."""

    def __init__(self, reader: MediaReader, entries: int, is_live: Callable[[], bool]) -> None:
        self._reader = reader
        self._most = entries
        self._is_live = is_live
        self._entries: OrderedDict[MediaName, _Entry] = OrderedDict()
        self._changes = 0

    async def find(self, name: MediaName, *, fresh: bool = False) -> Representation:
        """The current file of that name; `fresh` asks the store whatever is remembered. Raises NotFound and Unavailable."""
        began = time.monotonic()  # before the question: the answer may be as old as that
        entry = self._entries.get(name)
        if entry is not None and not fresh and began < entry.until and self._is_live():
            return entry.file
        changes = self._changes
        info = await self._reader.find(name)
        if info is None:
            self._entries.pop(name, None)
            raise NotFound("file not found")
        known = entry is not None and entry.file.info == info
        file = entry.file if entry is not None and known else represent(info)
        if self._is_live() and changes == self._changes:
            self._entries[name] = _Entry(file, began + REMEMBERED_SECONDS)
            self._entries.move_to_end(name)
            if len(self._entries) > self._most:
                self._entries.popitem(last=False)
        return file

    def changed(self, _channel: bytes, payload: bytes) -> None:
        """What a writer published: a JSON list of folder and filename. An answer under way is not remembered either."""
        self._changes += 1
        try:
            folder, filename = json.loads(payload)
            self._entries.pop(MediaName(folder, filename), None)
        except (ValueError, TypeError):
            self._entries.clear()

    def forget(self) -> None:
        """Changes may have been missed."""
        self._changes += 1
        self._entries.clear()
