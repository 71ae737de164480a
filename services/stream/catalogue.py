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

from services.common import metrics
from services.common.errors import NotFound
from services.common.media import MediaName
from services.common.store.reading import MediaReader
from services.stream.reply import Representation, represent

REMEMBERED_SECONDS = 1.0

_READS = metrics.CACHE_READS.counts
_HIT, _MISS = ("names", "hit"), ("names", "miss")


@dataclass(frozen=True, slots=True)
class _Entry:
    file: Representation
    until: float


@dataclass(frozen=True, slots=True)
class _Question:
    answer: asyncio.Task[Representation]
    until: float


class Catalogue:
    """Files by name. `is_live` says whether `changed` is told of every change as it happens."""

    def __init__(self, reader: MediaReader, entries: int, is_live: Callable[[], bool]) -> None:
        self._reader = reader
        self._most = entries
        self._is_live = is_live
        self._entries: OrderedDict[MediaName, _Entry] = OrderedDict()
        self._asking: dict[MediaName, _Question] = {}
        self._changes = 0

    def recall(self, name: MediaName) -> Representation | None:
        """What is remembered of that name: `find` without waiting."""
        entry = self._entries.get(name)
        if entry is None or time.monotonic() >= entry.until or not self._is_live():
            return None
        _READS[_HIT] += 1
        return entry.file

    async def find(self, name: MediaName, *, fresh: bool = False) -> Representation:
        """The current file of that name; `fresh` asks the store whatever is remembered. Raises NotFound and Unavailable."""
        if fresh or not self._is_live():
            return await self._ask(name)
        if (file := self.recall(name)) is not None:
            return file
        _READS[_MISS] += 1
        now = time.monotonic()
        # A question under way answers for others too, as long as its answer is no older than a remembered one may be.
        question = self._asking.get(name)
        if question is not None and now < question.until:
            with suppress(NotFound):  # a miss is good for nobody but the one who asked
                return await asyncio.shield(question.answer)
            return await self._ask(name)
        question = self._asking[name] = _Question(asyncio.create_task(self._ask(name)), now + REMEMBERED_SECONDS)
        question.answer.add_done_callback(lambda _: self._answered(name, question))
        return await asyncio.shield(question.answer)

    def _answered(self, name: MediaName, question: _Question) -> None:
        if self._asking.get(name) is question:
            del self._asking[name]
        if not question.answer.cancelled():
            question.answer.exception()  # there may be nobody left who waits for it

    async def _ask(self, name: MediaName) -> Representation:
        began, changes = time.monotonic(), self._changes  # before the question: the answer may be as old as that
        info = await self._reader.find(name)
        before = self._entries.pop(name, None)
        if info is None:
            raise NotFound("file not found")
        file = before.file if before is not None and before.file.info == info else represent(info)
        if self._is_live() and changes == self._changes:
            self._entries[name] = _Entry(file, began + REMEMBERED_SECONDS)
            if len(self._entries) > self._most:
                self._entries.popitem(last=False)
        return file

    def changed(self, _channel: bytes, payload: bytes) -> None:
        """What a writer published: a JSON list of folder and filename. An answer under way is not remembered either."""
        self._changes += 1
        try:
            folder, filename = json.loads(payload)
            name = MediaName(folder, filename)
            self._asking.pop(name, None)
            self._entries.pop(name, None)
        except (ValueError, TypeError):
            self.forget()

    def forget(self) -> None:
        """Changes may have been missed."""
        self._changes += 1
        self._asking.clear()
        self._entries.clear()
