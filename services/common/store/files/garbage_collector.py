"""The garbage collector of the files store. Each decision is one transaction; everything else may be done twice.

So any number of collectors may run at the same time, and what one leaves undone when it is killed, the next one finds again.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from sqlalchemy import Column, Connection, delete, or_, select, union

from services.common.store.files import live_changes, quotas, schema, upload_changes
from services.common.store.files.clock import read_clock
from services.common.store.files.database import Transaction
from services.common.store.files.files_database import FilesDatabase
from services.common.store.files.ids import creation_time
from services.common.store.files.media_folder import FOLDERS
from services.common.store.files.names import delete_if_empty, lock_media
from services.common.store.files.outbox import drop_published, read_outbox
from services.common.store.files.rows import decode_event
from services.common.store.files.upload_changes import milliseconds
from services.common.store.limits import DUE_PAGE_SIZE, MIN_ORPHAN_AGE, ORPHAN_SCAN_FILES
from services.common.store.quotas import NO_QUOTA, Quota
from services.common.store.timings import StoreTimings
from services.common.store.upload_store import OutboxEvent
from services.common.telemetry import metrics

PURGE_BATCH_FILES = 64
"""Files deleted before their tombstones are removed by one transaction."""
REFERENCE_BATCH = 200
"""Ids compared by one query: databases limit the parameters of a statement."""
LISTED_FOLDERS = 64
"""Empty folders that one call to a thread may list: to call it takes longer than to list one."""

uploads, finished_uploads, tombstones, outbox, media = (
    schema.uploads,
    schema.finished_uploads,
    schema.tombstones,
    schema.outbox,
    schema.media,
)
_log = logging.getLogger("gridcast.gc")


class FilesGarbageCollector:
    """A `GarbageCollector` of files."""

    def __init__(
        self,
        files: FilesDatabase,
        timings: StoreTimings | None = None,
        quota: Quota = NO_QUOTA,
        *,
        relays_events: bool = True,
    ) -> None:
        self._files = files
        self._relays_events = relays_events
        self._database = files.database
        self._timings = timings or StoreTimings()
        self._quota = quota
        self._next_folder = 0
        self._checked_through = ""

    async def list_due(self) -> AsyncGenerator[str, None]:
        """Yield the ids of names under which something is due by the lease clock, each once."""
        now = await self._database.write(lambda transaction: transaction.now, durable=False)
        retry_after = milliseconds(self._timings.outbox_retry_after)
        seen: set[str] = set()
        for due, identifier, media_id, until in (
            (uploads.c.expires_at, uploads.c.id, uploads.c.media_id, now),
            (tombstones.c.due, tombstones.c.file_id, tombstones.c.media_id, now),
            (finished_uploads.c.until, finished_uploads.c.id, finished_uploads.c.media_id, now),
            (outbox.c.at, outbox.c.id, outbox.c.media_id, now - retry_after),
        ):
            async for found in self._list_due(due, identifier, media_id, until):
                if found not in seen:
                    seen.add(found)
                    yield found

    async def _list_due(
        self, due: Column[Any], identifier: Column[Any], media_id: Column[Any], until: int
    ) -> AsyncGenerator[str, None]:
        statement = select(due, identifier, media_id).where(due <= until).order_by(due, identifier).limit(DUE_PAGE_SIZE)
        page = statement
        while True:
            current = page
            rows = await self._database.read(lambda connection, query=current: connection.execute(query).all())  # type: ignore[misc]
            for row in rows:
                yield row[2]
            if len(rows) < DUE_PAGE_SIZE:
                return
            last_due, last_id, _ = rows[-1]
            page = statement.where(due >= last_due, or_(due > last_due, identifier > last_id))

    async def collect(self, media_id: str) -> int:
        """Expire uploads, delete the files of tombstones that are due, and the row of the name with the last of it."""
        due = await self._database.write(lambda transaction: self._expire(transaction, media_id))
        for start in range(0, len(due), PURGE_BATCH_FILES):
            batch = due[start : start + PURGE_BATCH_FILES]
            for file_id in batch:
                await self._files.threads.run(self._files.folder.delete, file_id)
            await self._database.write(
                lambda transaction, purged=batch: upload_changes.mark_purged(  # type: ignore[misc]
                    transaction, media_id, purged, self._timings
                ),
                durable=False,
            )
        return len(due)

    def _expire(self, transaction: Transaction, media_id: str) -> list[str]:
        """Add tombstones for expired uploads, drop what has served its time, and return the files that are due."""
        if lock_media(transaction, media_id) is None:
            return []
        now, execute = transaction.now, transaction.connection.execute
        expired = select(uploads).where(uploads.c.media_id == media_id, uploads.c.expires_at <= now)
        upload_changes.doom_uploads(transaction, list(execute(expired).mappings()))
        execute(
            delete(finished_uploads).where(finished_uploads.c.media_id == media_id, finished_uploads.c.until <= now)
        )
        old = now - milliseconds(self._timings.outbox_retry_after)
        drop_published(transaction, media_id, old, keep_unrelayed=self._relays_events)
        due = select(tombstones.c.file_id).where(tombstones.c.media_id == media_id, tombstones.c.due <= now)
        found = list(execute(due).scalars())
        if not found:
            delete_if_empty(transaction, media_id)
        return found

    async def list_unpublished(self, media_id: str) -> Sequence[OutboxEvent]:
        """Return the events that are older than any attempt of the writer itself, and those before them."""
        read_at = time.monotonic()

        def read(connection: Connection) -> list[OutboxEvent]:
            name = connection.execute(select(media).where(media.c.id == media_id)).mappings().first()
            if name is None:
                return []
            old = read_clock(connection).now - milliseconds(self._timings.outbox_retry_after)
            rows = [row for row in read_outbox(connection, media_id) if not row["told"]]
            count = max((number for number, row in enumerate(rows, 1) if row["at"] <= old), default=0)
            return [decode_event(name, row, read_at) for row in rows[:count]]

        return await self._database.read(read)

    async def count_quotas(self) -> int:
        """Count in one transaction for each row of `quotas`."""
        if not self._quota.is_set:
            return 0
        counted = 0
        statement = select(schema.quotas.c.owner).order_by(schema.quotas.c.owner).limit(DUE_PAGE_SIZE)
        page = statement
        while True:
            current = page
            owners = await self._database.read(
                lambda connection, query=current: list(connection.execute(query).scalars())  # type: ignore[misc]
            )
            for owner in owners:
                await self._database.write(
                    lambda transaction, one=owner: quotas.count_stored(transaction, one),  # type: ignore[misc]
                    durable=False,
                )
            counted += len(owners)
            if len(owners) < DUE_PAGE_SIZE:
                return counted
            page = statement.where(schema.quotas.c.owner > owners[-1])

    async def delete_orphans(self) -> int:
        """Delete old files that no row references, and report rows whose files are missing or have another length."""
        await self._report_broken_files()
        for stream_id in await self._database.read(live_changes.list_left):
            await self._database.write(
                lambda transaction, left=stream_id: live_changes.delete_stream(transaction, left),  # type: ignore[misc]
                durable=False,
            )
        clock = await self._database.read(read_clock)
        limit = clock.wall / 1000 - MIN_ORPHAN_AGE.total_seconds()
        deleted = examined = 0
        for _ in range(FOLDERS):
            found, self._next_folder = await self._files.threads.run(self._list_next_files, self._next_folder)
            old = [file_id for file_id, changed_at in found if max(changed_at, creation_time(file_id)) < limit]
            for start in range(0, len(old), REFERENCE_BATCH):
                deleted += await self._delete_unreferenced(old[start : start + REFERENCE_BATCH])
            examined += len(found)
            if examined >= ORPHAN_SCAN_FILES or not self._next_folder:
                break
            await asyncio.sleep(0)
        return deleted

    def _list_next_files(self, index: int) -> tuple[list[tuple[str, float]], int]:
        """The files of the first folder that has some, from this one on, and the next folder to look at."""
        for _ in range(LISTED_FOLDERS):
            found = self._files.folder.list_folder(index)
            index = (index + 1) % FOLDERS
            if found or not index:
                return found, index
        return [], index

    async def _delete_unreferenced(self, file_ids: list[str]) -> int:
        columns = (media.c.file_id, uploads.c.file_id, tombstones.c.file_id)
        statement = union(*(select(column).where(column.in_(file_ids)) for column in columns))
        referenced = await self._database.read(lambda connection: set(connection.execute(statement).scalars()))
        orphans = [file_id for file_id in file_ids if file_id not in referenced]
        for file_id in orphans:
            await self._files.threads.run(self._files.folder.delete, file_id)
        return len(orphans)

    async def _report_broken_files(self) -> None:
        """Compare the files of the next rows with what the rows say. Readers find out by themselves."""
        statement = (
            select(media.c.id, media.c.file_id, media.c.length)
            .where(media.c.uploaded_at.is_not(None), media.c.id > self._checked_through)
            .order_by(media.c.id)
            .limit(ORPHAN_SCAN_FILES)
        )
        rows = await self._database.read(lambda connection: connection.execute(statement).all())
        self._checked_through = rows[-1].id if len(rows) == ORPHAN_SCAN_FILES else ""
        for row in rows:
            if row.length and await self._is_broken(row.id, row.file_id, row.length):
                metrics.DAMAGED_FILES.inc()
                _log.error("file %s of %s is missing or has another length than its row says", row.file_id, row.id)

    async def _is_broken(self, media_id: str, file_id: str, length: int) -> bool:
        """Whether the current file of a name is not there as it was written; one may have been replaced and deleted meanwhile."""
        if await self._files.threads.run(self._files.folder.length_of, file_id) == length:
            return False
        statement = select(media.c.id).where(media.c.id == media_id, media.c.file_id == file_id)
        return await self._database.read(lambda connection: connection.execute(statement).first()) is not None
