"""Writes of unfinished uploads: each holds the lock of its file, and checks the fencing token while it does.

So a writer that was paused after its check cannot write over its successor: to acquire an upload takes the lock as well, and waits
for a write in progress. Where a paused process holds the lock, the successor continues in a copy of the file.
"""

import asyncio
import functools
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from services.common.errors import Gone, ServiceUnavailable
from services.common.store.errors import CorruptFile
from services.common.store.files import file_io, upload_changes
from services.common.store.files.database import BlockingConnections, Database, Execute
from services.common.store.files.media_folder import MediaFolder
from services.common.store.files.rows import FilesUploadKey, Row
from services.common.store.files.upload_changes import raise_lease_lost

DISK_THREADS = 16
"""Calls to the file system at the same time, in one process."""
LOCK_TIMEOUT_SECONDS = 2.0
"""How long a write in progress is waited for: one takes some 10 ms."""
LOCK_RETRY_SECONDS = 0.01
MAX_SYNCED_FILES = 1024
"""Files of which it is known how many bytes are durable."""

T = TypeVar("T")


class DiskThreads:
    """Runs blocking calls in a bounded number of threads. Calls that belong together run to their end."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(DISK_THREADS, thread_name_prefix="disk")
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, call: Callable[..., T], *args: Any) -> T:
        """Run one call in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, *args)

    async def run_to_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Run several calls that belong together to their end, also where the caller is cancelled."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    async def aclose(self) -> None:
        """Wait for the calls in progress."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.to_thread(self._pool.shutdown)


class ExclusiveFiles:
    """The files of unfinished uploads."""

    def __init__(self, database: Database, folder: MediaFolder, threads: DiskThreads) -> None:
        self._database = database
        self._folder = folder
        self._threads = threads
        self._synced: OrderedDict[tuple[str, int], int] = OrderedDict()
        """By file and fencing token, how many bytes are durable: of writers whose writes sync."""

    def sync_writes(self, key: FilesUploadKey, fencing_token: int, length: int) -> None:
        """Let each write with this handle sync the file from now on: its offset follows every batch. `length` bytes are durable.

        The disk then writes while the batch is hashed, in the thread that has the file open.
        """
        writer = key.file_id, fencing_token
        self._synced[writer] = max(length, self._synced.pop(writer, 0))
        if len(self._synced) > MAX_SYNCED_FILES:
            self._synced.popitem(last=False)

    def end_synced_writes(self, key: FilesUploadKey, fencing_token: int) -> None:
        """Undo `sync_writes`."""
        self._synced.pop((key.file_id, fencing_token), None)

    async def read_fenced(self, key: FilesUploadKey, fencing_token: int) -> Row:
        """Return the row of the upload. Raises Conflict where its fencing token is another."""
        return _require(
            await self._database.read(lambda connection: upload_changes.read_fenced(connection, key, fencing_token))
        )

    async def write(
        self,
        key: FilesUploadKey,
        fencing_token: int,
        offset: int,
        pieces: Sequence[bytes],
        hash_pieces: Callable[[], object] | None = None,
        then: Callable[[Execute], T] | None = None,
    ) -> T | None:
        """Write bytes from `offset` on. They are durable once `make_durable` has returned.

        `hash_pieces` is called in the thread that writes, while the disk takes the bytes. Where the bytes are synced there, `then`
        follows in the same thread, and its result is returned; otherwise it is not called.
        """
        writer = key.file_id, fencing_token
        sync = writer in self._synced
        write_at = functools.partial(file_io.write_at, sync=sync, meanwhile=hash_pieces)

        def write_and_follow(connections: BlockingConnections) -> tuple[bool, T | None]:
            if not self._write_if_unlocked(connections, write_at, key, fencing_token, offset, pieces):
                return False, None
            return True, then(connections.write) if sync and then is not None else None

        async def run() -> T | None:
            if self._database.blocking is not None:
                written, result = await self._threads.run(write_and_follow, self._database.blocking)
                if written:
                    return result
            async with self._locked(key, fencing_token) as (descriptor, _):
                await self._threads.run(write_at, descriptor, offset, pieces)
            return None

        result = await self._threads.run_to_end(run())
        if sync and writer in self._synced:
            self._synced[writer] = offset + sum(map(len, pieces))
        return result

    def _write_if_unlocked(
        self,
        connections: BlockingConnections,
        write_at: Callable[[int, int, Sequence[bytes]], None],
        key: FilesUploadKey,
        fencing_token: int,
        offset: int,
        pieces: Sequence[bytes],
    ) -> bool:
        """Do all that a write is within one thread; False, and nothing was done, where another one holds the lock."""
        fence = upload_changes.fence(key, fencing_token)
        opened = self._folder.open_locked(key.file_id)
        if opened is None:
            _require(
                connections.read(upload_changes.READ_FENCED, fence)
            )  # a void handle must not create the file again
            opened = _require_created(self._folder.open_locked(key.file_id, create=True))
        descriptor, locked = opened
        try:
            if locked:
                _require(connections.read(upload_changes.READ_FENCED, fence))
                write_at(descriptor, offset, pieces)
        finally:
            os.close(descriptor)
        return locked

    async def truncate(self, key: FilesUploadKey, fencing_token: int, length: int) -> None:
        """Cut off what is beyond `length` bytes, but nothing of what is durable."""
        self.end_synced_writes(key, fencing_token)

        async def run() -> None:
            if await self._threads.run(self._folder.length_of, key.file_id) is None:
                await self.read_fenced(key, fencing_token)
                return
            async with self._locked(key, fencing_token) as (descriptor, row):
                await self._threads.run(file_io.truncate_to, descriptor, max(length, row["offset"]))

        await self._threads.run_to_end(run())

    async def make_durable(self, key: FilesUploadKey, fencing_token: int, length: int) -> None:
        """Sync the first `length` bytes, unless a write has.

        Raises Gone where there are fewer, Conflict where the handle is void.
        """
        if self._synced.get((key.file_id, fencing_token), 0) < length:
            await self._sync(key, fencing_token, length)

    async def _sync(self, key: FilesUploadKey, fencing_token: int, length: int) -> int:
        try:
            return await self._threads.run(self._folder.sync, key.file_id, length)
        except CorruptFile as error:
            await self.read_fenced(key, fencing_token)
            raise Gone("the stored data of this upload is corrupt; start a new upload") from error

    async def finish(self, key: FilesUploadKey, fencing_token: int, length: int) -> None:
        """Make a file of exactly `length` bytes durable. Raises as `make_durable`."""
        self.end_synced_writes(key, fencing_token)
        if not length:
            if await self._threads.run(self._folder.length_of, key.file_id):
                await self.truncate(key, fencing_token, length)
        elif await self._sync(key, fencing_token, length) > length:
            # The last write of an older writer has gone past the end.
            await self.truncate(key, fencing_token, length)
            await self.make_durable(key, fencing_token, length)

    async def hold(self, key: FilesUploadKey, action: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """Run `action` while no write is in progress; the second value says whether that could be waited for."""

        async def run() -> tuple[T, bool]:
            try:
                descriptor = await self._threads.run(self._folder.open_for_reading, key.file_id)
            except CorruptFile:  # no file yet, or none any more: nothing is being written
                return await action(), True
            try:
                locked = await self._wait_for_lock(descriptor)
                return await action(), locked
            finally:
                os.close(descriptor)

        return await self._threads.run_to_end(run())

    async def join(
        self,
        key: FilesUploadKey,
        fencing_token: int,
        sources: Sequence[tuple[str, int]],
        add_content: Callable[[bytes], object],
        on_progress: Callable[[int], object],
    ) -> None:
        """Copy the first bytes of each source, one after another, from the beginning of the file on.

        `add_content` is called in a thread with what was copied, as it is read back. Raises CorruptFile where a source has fewer
        bytes.
        """
        offset = 0

        async def copy_piece(source_id: str, start: int, length: int) -> None:
            async with self._locked(key, fencing_token) as (descriptor, _):
                copied = await self._threads.run(self._folder.append_from, source_id, start, length, descriptor, offset)
                await self._threads.run(add_content, copied)

        for source_id, source_length in sources:
            for start in range(0, source_length, file_io.COPY_BYTES):
                length = min(file_io.COPY_BYTES, source_length - start)
                await self._threads.run_to_end(copy_piece(source_id, start, length))
                offset += length
                on_progress(offset)

    async def copy(self, source_id: str, target_id: str, length: int) -> None:
        """Copy the first `length` bytes of a file into a new one, durably. Raises CorruptFile where there are fewer."""

        def copy() -> None:
            if not length:
                return
            source = self._folder.open_for_reading(source_id)
            try:
                target = self._folder.open_for_writing(target_id)
                try:
                    file_io.copy_range(source, target, 0, 0, length)
                finally:
                    os.close(target)
            finally:
                os.close(source)
            self._folder.sync(target_id, length)

        await self._threads.run_to_end(self._threads.run(copy))

    @asynccontextmanager
    async def _locked(self, key: FilesUploadKey, fencing_token: int) -> AsyncIterator[tuple[int, Row]]:
        """The locked file, and the row of the upload as it is while the lock is held."""
        opened = await self._threads.run(self._folder.open_locked, key.file_id)
        if opened is None:
            await self.read_fenced(key, fencing_token)  # a void handle must not create the file again
            create = functools.partial(self._folder.open_locked, key.file_id, create=True)
            opened = _require_created(await self._threads.run(create))
        descriptor, locked = opened
        try:
            if not (locked or await self._wait_for_lock(descriptor)):
                await self.read_fenced(key, fencing_token)
                raise ServiceUnavailable("another write of this upload is in progress")
            yield descriptor, await self.read_fenced(key, fencing_token)
        finally:
            os.close(descriptor)

    async def _wait_for_lock(self, descriptor: int) -> bool:
        deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
        while not await self._threads.run(file_io.try_lock, descriptor):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(LOCK_RETRY_SECONDS)
        return True


def _require(row: T | None) -> T:
    if row is None:
        raise_lease_lost()
    return row


def _require_created(opened: tuple[int, bool] | None) -> tuple[int, bool]:
    if opened is None:
        raise RuntimeError("a file that was created is not there")
    return opened
