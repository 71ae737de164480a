"""Commit and delete: the changes whose outcome must be known. Where an answer was lost, the outcome is read back first.

It is read in a transaction that locks the name: one that is still being committed is waited for, and after it none can follow.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import bindparam, update

from services.common.errors import PreconditionFailed, ServiceUnavailable
from services.common.media import MediaName, Poster
from services.common.store.files import file_changes as changes
from services.common.store.files import quotas, schema, upload_changes
from services.common.store.files.database import Database, Transaction
from services.common.store.files.ids import make_id
from services.common.store.files.names import lock_media, lock_name
from services.common.store.files.outbox import append_event, read_event
from services.common.store.files.rows import FilesUploadKey, Row, encode_owner, version_of
from services.common.store.files.upload_changes import milliseconds, preconditions_hold
from services.common.store.limits import ATTEMPT_TIMEOUT_SECONDS, RESOLVE_TIMEOUT_SECONDS
from services.common.store.preconditions import Preconditions
from services.common.store.quotas import Quota
from services.common.store.timings import StoreTimings
from services.common.store.upload_store import (
    OutboxEvent,
    StoredFile,
    UploadHandle,
)

RETRY_INTERVAL_SECONDS = 0.2

media = schema.media
_UPDATE_MEDIA = update(media).where(media.c.id == bindparam("of_id"))
"""Built once: to build a statement takes longer than to run it."""
T = TypeVar("T")


class FilesCommitter:
    """Makes files current and deletes them."""

    def __init__(self, database: Database, timings: StoreTimings, quota: Quota, *, relays_events: bool = False) -> None:
        self._database = database
        self._timings = timings
        self._quota = quota
        self._relays_events = relays_events

    async def commit(
        self, upload: UploadHandle, key: FilesUploadKey, stored_file: StoredFile, preconditions: Preconditions
    ) -> OutboxEvent:
        """Make the file current. Raises Conflict where the handle is void, AlreadyExists, PreconditionFailed."""
        event_id = make_id()

        def attempt(transaction: Transaction) -> OutboxEvent:
            read_at = time.monotonic()
            row = lock_media(transaction, key.media_id)
            removed = upload_changes.remove_upload(transaction, key, upload.fencing_token)
            if row is None or removed is None:
                # An attempt that was given up may have been committed after it was looked for.
                if (
                    row is not None
                    and (event := read_event(transaction.connection, row, event_id, read_at)) is not None
                ):
                    return event
                upload_changes.raise_lease_lost()
            if not preconditions_hold(preconditions, row):
                raise upload_changes.precondition_error(upload.name, preconditions)
            return self._make_current(transaction, row, removed, stored_file, event_id, read_at)

        def read_back(transaction: Transaction) -> OutboxEvent | None:
            read_at = time.monotonic()
            row = lock_media(transaction, key.media_id)
            return read_event(transaction.connection, row, event_id, read_at) if row is not None else None

        event = await self._run_until_resolved(attempt, read_back)
        if event is None:
            raise RuntimeError("a commit has no event")
        return event

    def _make_current(
        self,
        transaction: Transaction,
        row: Row,
        upload: Row,
        stored_file: StoredFile,
        event_id: str,
        read_at: float,
    ) -> OutboxEvent:
        """Make the file current, finish the upload, add a tombstone for the old version and an event: one step for every reader."""
        version = {
            "file_id": upload["file_id"],
            "length": stored_file.length,
            "content_type": stored_file.content_type,
            "sha256": stored_file.sha256,
            "etag": stored_file.etag,
            "uploaded_at": transaction.clock.wall,
            "metadata": stored_file.metadata_json,
            "media_facts": stored_file.media_facts_json,
            "poster": None,
            "owner": upload["owner"],
        }
        revision = row["revision"] + 1
        replaces = row["uploaded_at"] is not None
        change = Counter({upload["owner"]: stored_file.length})
        if replaces:
            self._doom_current(transaction, row)
            change[row["owner"]] -= quotas.counted_bytes(transaction, row)
        quotas.add_stored(transaction, self._quota, change)
        transaction.connection.execute(_UPDATE_MEDIA, {**version, "of_id": row["id"], "revision": revision})
        upload_changes.keep_outcome(transaction, upload, "stored", stored_file)
        event = {
            **version,
            "id": event_id,
            "media_id": row["id"],
            "type": "file.replaced" if replaces else "file.created",
            "revision": revision,
            "identity": row["identity"],
            "previous_owner": row["owner"] if replaces else None,
        }
        return append_event(
            transaction, row, event, read_at, is_first=not row["revision"], unrelayed=self._relays_events
        )

    def _doom_current(self, transaction: Transaction, row: Row) -> None:
        due = transaction.now + milliseconds(self._timings.tombstone_ttl)
        upload_changes.add_tombstone(transaction, row["id"], row["file_id"], due)

    async def delete(self, name: MediaName, preconditions: Preconditions) -> OutboxEvent | None:
        """Make the current file invisible, None where there is none. Raises PreconditionFailed."""
        event_id = make_id()

        def attempt(transaction: Transaction) -> OutboxEvent | None:
            read_at = time.monotonic()
            row = lock_name(transaction, name)
            if row is None:
                return None
            if (event := read_event(transaction.connection, row, event_id, read_at)) is not None:
                return event
            if row["uploaded_at"] is None:
                return None
            if not preconditions_hold(preconditions, row):
                raise PreconditionFailed("the file does not match the precondition")
            revision = row["revision"] + 1
            due = transaction.now + milliseconds(self._timings.tombstone_ttl)
            changes.doom_deleted(transaction, row, due)
            quotas.add_stored(transaction, self._quota, {row["owner"]: -quotas.counted_bytes(transaction, row)})
            nothing = dict.fromkeys(schema.VERSION_FIELDS)
            transaction.connection.execute(_UPDATE_MEDIA, {**nothing, "of_id": row["id"], "revision": revision})
            deleted = {
                **version_of(row),
                "id": event_id,
                "media_id": row["id"],
                "type": "file.deleted",
                "revision": revision,
                "identity": row["identity"],
                "previous_owner": None,
            }
            return append_event(transaction, row, deleted, read_at, unrelayed=self._relays_events)

        def read_back(transaction: Transaction) -> OutboxEvent | None:
            read_at = time.monotonic()
            row = lock_name(transaction, name)
            return read_event(transaction.connection, row, event_id, read_at) if row is not None else None

        return await self._run_until_resolved(attempt, read_back)

    async def move(
        self, name: MediaName, new_name: MediaName, preconditions: Preconditions
    ) -> tuple[OutboxEvent, ...] | None:
        """Move the current file, None where there is none. Raises AlreadyExists, PreconditionFailed."""
        event_id = make_id()

        def attempt(transaction: Transaction) -> tuple[OutboxEvent, ...] | None:
            # An attempt that was given up may have been committed after it was looked for.
            return read_back(transaction) or changes.move(
                transaction, name, new_name, preconditions, event_id, unrelayed=self._relays_events
            )

        def read_back(transaction: Transaction) -> tuple[OutboxEvent, ...] | None:
            read_at = time.monotonic()
            row = lock_name(transaction, new_name)
            event = row and read_event(transaction.connection, row, event_id, read_at)
            return (event,) if event else None

        return await self._run_until_resolved(attempt, read_back)

    async def set_poster(
        self, name: MediaName, poster: Poster | None, preconditions: Preconditions
    ) -> OutboxEvent | None:
        """Set or remove the poster of the current file; None where there is none. Raises PreconditionFailed, QuotaExceeded."""
        event_id = make_id()

        def attempt(transaction: Transaction) -> OutboxEvent | None:
            return read_back(transaction) or changes.set_poster(
                transaction, self._quota, name, poster, preconditions, event_id, unrelayed=self._relays_events
            )

        def read_back(transaction: Transaction) -> OutboxEvent | None:
            read_at = time.monotonic()
            row = lock_name(transaction, name)
            return read_event(transaction.connection, row, event_id, read_at) if row is not None else None

        return await self._run_until_resolved(attempt, read_back)

    async def restore(self, name: MediaName) -> OutboxEvent:
        """Make the file current again that was deleted last. Raises AlreadyExists, Gone."""
        event_id = make_id()

        def attempt(transaction: Transaction) -> OutboxEvent:
            if (done := read_back(transaction)) is not None:
                return done
            event = changes.restore(transaction, name, event_id, unrelayed=self._relays_events)
            info = event.info
            length = info.length + quotas.poster_bytes(transaction, info.file_id, info.poster_etag)
            quotas.add_stored(transaction, self._quota, {encode_owner(info.owner): length})
            return event

        def read_back(transaction: Transaction) -> OutboxEvent | None:
            read_at = time.monotonic()
            row = lock_name(transaction, name)
            return read_event(transaction.connection, row, event_id, read_at) if row is not None else None

        event = await self._run_until_resolved(attempt, read_back)
        if event is None:
            raise RuntimeError("a restored file has no event")
        return event

    async def _run_until_resolved(
        self, attempt: Callable[[Transaction], T | None], read_back: Callable[[Transaction], T | None]
    ) -> T | None:
        """Return the result of `attempt`.

        Where it got no answer, `read_back` finds out whether it was committed, and where it was not, `attempt` is made again.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + RESOLVE_TIMEOUT_SECONDS
        step: Callable[[Transaction], T | None] = attempt
        while True:
            try:
                async with asyncio.timeout(ATTEMPT_TIMEOUT_SECONDS):
                    result = await self._database.write(step)
            except (ServiceUnavailable, TimeoutError) as error:
                if clock() > deadline:
                    raise ServiceUnavailable("the outcome of the write is unknown") from error
                step = read_back
                await asyncio.sleep(RETRY_INTERVAL_SECONDS)
                continue
            if step is attempt or result is not None:
                return result
            step = attempt
