"""Copies all files of one store into another: page by page, several files at a time, each checked against its digest on the way.

What was copied is found in the target again, so a copy that was interrupted is simply begun again.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeVar

from services.common.errors import GridcastError, InsufficientStorage, ServiceUnavailable
from services.common.media import MediaInfo, MediaName
from services.common.store.errors import CorruptFile
from services.common.store.file_importer import FileImporter, ImportOutcome
from services.common.store.media_reader import BlockReader, ListQuery, MediaReader, PageKey
from services.common.store.store_state import FreeSpaceReader

A = TypeVar("A")
T = TypeVar("T")

PAGE_FILES = 200
"""Files listed by one query."""
COPY_BATCH_BLOCKS = 8
"""Blocks read by one call (2 MiB). With those that are written, twice as much is in memory for each file in progress."""
CONCURRENT_FILES = 8
"""Files in progress: a small one waits for the disk most of its time."""
COPY_RETRY_SECONDS = 1.0
MAX_OUTAGE_SECONDS = 60.0
"""How long a store may be unavailable. After that the copy stops: every further file would wait as long."""
FREE_SPACE_SECONDS = 1.0
"""How old a reading of the free space may be."""
MAX_CHANGES = 5
"""How often a file may be replaced while it is copied."""
MAX_LISTED = 1000
"""Names that a report holds of each kind; the rest is counted."""


@dataclass(frozen=True, slots=True)
class CopyProblem:
    """A file that was not copied, and why."""

    name: MediaName
    reason: str


@dataclass(slots=True)
class CopyReport:
    """What a copy has done so far.

    `imported` files have `imported_bytes`. `unchanged` ones were there. `kept` ones are newer in the target. `vanished` ones were
    deleted in the source after they had been listed. `failed_count` files were not copied; the first of them are in `failed`.
    """

    imported: int = 0
    imported_bytes: int = 0
    unchanged: int = 0
    kept_count: int = 0
    vanished: int = 0
    failed_count: int = 0
    kept: list[MediaName] = field(default_factory=list)
    failed: list[CopyProblem] = field(default_factory=list)

    @property
    def seen(self) -> int:
        """Files whose outcome is known."""
        return self.imported + self.unchanged + self.kept_count + self.vanished + self.failed_count

    def add_kept(self, name: MediaName) -> None:
        """Count a file that the target has in a newer version."""
        self.kept_count += 1
        if len(self.kept) < MAX_LISTED:
            self.kept.append(name)

    def add_failed(self, name: MediaName, reason: str) -> None:
        """Count a file that was not copied."""
        self.failed_count += 1
        if len(self.failed) < MAX_LISTED:
            self.failed.append(CopyProblem(name, reason))


class StoreCopier:
    """Copies from `source` to `target`, and leaves `min_free_bytes` of its disk. `report` is current at any time."""

    def __init__(
        self,
        source: MediaReader,
        target: FileImporter,
        free_space: FreeSpaceReader,
        *,
        min_free_bytes: int = 0,
        concurrent_files: int = CONCURRENT_FILES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if source.block_size != target.block_size:
            raise ValueError("the stores have blocks of different sizes")
        self.report = CopyReport()
        self._source = source
        self._target = target
        self._free_space = free_space
        self._min_free_bytes = min_free_bytes
        self._free_bytes: int | None = None
        self._free_bytes_read_at: float | None = None
        self._concurrent_files = concurrent_files
        self._clock = clock

    async def copy_all(self) -> CopyReport:
        """Copy all files that are listed, newest first; those that are stored meanwhile perhaps.

        Raises ServiceUnavailable where a store stays unavailable, InsufficientStorage where the target is full.
        """
        files: asyncio.Queue[MediaInfo | None] = asyncio.Queue(self._concurrent_files)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._concurrent_files):
                    group.create_task(self._copy_files(files))
                await self._list_files(files)
                for _ in range(self._concurrent_files):
                    await files.put(None)
        except ExceptionGroup as errors:
            stopping = errors.subgroup((ServiceUnavailable, InsufficientStorage))
            if stopping is None or len(stopping.exceptions) != len(errors.exceptions):
                raise
            raise stopping.exceptions[0] from None
        return self.report

    async def _list_files(self, files: asyncio.Queue[MediaInfo | None]) -> None:
        after: PageKey | None = None
        while True:
            page = await self._retry(self._source.list_files, ListQuery(after=after, limit=PAGE_FILES))
            for info in page.files:
                await files.put(info)
            if (after := page.next_key) is None:
                return

    async def _copy_files(self, files: asyncio.Queue[MediaInfo | None]) -> None:
        while (info := await files.get()) is not None:
            await self._copy_file(info)

    async def _copy_file(self, info: MediaInfo) -> None:
        name = MediaName(info.folder, info.filename)
        for _ in range(MAX_CHANGES):
            try:
                outcome = await self._retry(self._import, info)
            except CorruptFile as error:
                # A version that was replaced or deleted after it was listed is deleted some time later.
                current = await self._retry(self._source.find, name)
                if current is None:
                    self.report.vanished += 1
                    return
                if current.file_id == info.file_id:
                    self.report.add_failed(name, str(error))
                    return
                info = current
            except (ServiceUnavailable, InsufficientStorage):
                raise
            except GridcastError as error:
                self.report.add_failed(name, error.detail)
                return
            else:
                self._count(outcome, name, info.length)
                return
        self.report.add_failed(name, "it was replaced again and again")

    async def _import(self, info: MediaInfo) -> ImportOutcome:
        if info.poster_etag is not None and (poster := await self._source.read_poster(info)) is not None:
            await self._target.import_poster(info, poster)
        async with aclosing(self._read_blocks(info)) as blocks:
            return await self._target.import_file(info, blocks)

    async def _read_blocks(self, info: MediaInfo) -> AsyncGenerator[bytes, None]:
        await self._reserve_space(info.length)
        async with aclosing(read_verified(self._source, info)) as blocks:
            async for block in blocks:
                yield block

    async def _reserve_space(self, length: int) -> None:
        """Raise InsufficientStorage where a file would leave too little space: a database on a full disk may crash."""
        now = self._clock()
        if self._free_bytes_read_at is None or now - self._free_bytes_read_at > FREE_SPACE_SECONDS:
            self._free_bytes_read_at = now
            self._free_bytes = await self._free_space.get_free_bytes()
        if self._free_bytes is None:  # the store cannot tell
            return
        self._free_bytes -= length
        if self._free_bytes < self._min_free_bytes:
            raise InsufficientStorage("the target has too little free disk space")

    def _count(self, outcome: ImportOutcome, name: MediaName, length: int) -> None:
        if outcome == "imported":
            self.report.imported += 1
            self.report.imported_bytes += length
        elif outcome == "unchanged":
            self.report.unchanged += 1
        else:
            self.report.add_kept(name)

    async def _retry(self, call: Callable[[A], Awaitable[T]], argument: A) -> T:
        """Repeat a call while a store is unavailable, for at most MAX_OUTAGE_SECONDS."""
        give_up_at: float | None = None
        while True:
            try:
                return await call(argument)
            except ServiceUnavailable:
                now = self._clock()
                give_up_at = give_up_at or now + MAX_OUTAGE_SECONDS
                if now >= give_up_at:
                    raise
            await asyncio.sleep(COPY_RETRY_SECONDS)


async def read_verified(reader: BlockReader, info: MediaInfo) -> AsyncGenerator[bytes, None]:
    """Yield all blocks of a file. Raises CorruptFile, at the latest after the last one, where they are not what was stored.

    A file that has no SHA-256 is checked by its length only.
    """
    digest = hashlib.sha256()
    block_count = -(-info.length // reader.block_size)
    for first in range(0, block_count, COPY_BATCH_BLOCKS):
        last = min(first + COPY_BATCH_BLOCKS, block_count) - 1
        blocks = await reader.read_blocks(info, first, last)
        if len(blocks) != last - first + 1:
            raise CorruptFile(f"file {info.file_id}: block {first + len(blocks)} is missing or has a wrong length")
        for block in blocks:
            digest.update(block)
            yield block
    if info.sha256 is not None and digest.hexdigest() != info.sha256:
        raise CorruptFile(f"file {info.file_id}: the stored bytes have another SHA-256")
