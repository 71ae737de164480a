"""Writes media into files, and every change of state as one fenced transaction of the database.

A file is visible only by its row, which is committed after its bytes are durable.
"""

import functools
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Table, select, update

from services.common.errors import Gone, ServiceUnavailable
from services.common.media import MediaName, Poster
from services.common.store.errors import CorruptFile
from services.common.store.files import offset_changes, schema, upload_changes
from services.common.store.files.clock import StoreClock, read_clock
from services.common.store.files.commit import FilesCommitter
from services.common.store.files.database import Transaction
from services.common.store.files.exclusive_files import ExclusiveFiles
from services.common.store.files.files_database import FilesDatabase
from services.common.store.files.ids import creation_time, make_id
from services.common.store.files.names import delete_if_empty, lock_media
from services.common.store.files.outbox import remove_event
from services.common.store.files.rows import (
    FilesUploadKey,
    Row,
    decode_finished,
    decode_in_progress,
    decode_name,
    encode_owner,
    make_handle,
    upload_key,
)
from services.common.store.limits import BLOCK_SIZE
from services.common.store.preconditions import MUST_NOT_EXIST, NO_PRECONDITIONS, Preconditions
from services.common.store.quotas import NO_QUOTA, Quota
from services.common.store.timings import StoreTimings
from services.common.store.upload_ids import UploadId, digest_secret, make_secret, parse_upload_id, secret_of
from services.common.store.upload_store import (
    AcquiredUpload,
    Checkpoint,
    FinishedUpload,
    NewUpload,
    OutboxEvent,
    StoredFile,
    UploadHandle,
    UploadState,
)

READ_BATCH_BLOCKS = 16
"""Blocks read by one call (4 MiB) when an unfinished upload is hashed again."""
_CORRUPT = "the stored data of this upload is corrupt; start a new upload"

uploads, finished_uploads, media = schema.uploads, schema.finished_uploads, schema.media


class FilesUploadStore:
    """An `UploadStore` in files."""

    block_size = BLOCK_SIZE

    def __init__(
        self,
        files: FilesDatabase,
        timings: StoreTimings | None = None,
        quota: Quota = NO_QUOTA,
        *,
        relays_events: bool = False,
    ) -> None:
        self.timings = timings or StoreTimings()
        self.lease_ttl = self.timings.lease_ttl
        self._files = files
        self._database = files.database
        self._exclusive = ExclusiveFiles(files.database, files.folder, files.threads)
        self._committer = FilesCommitter(files.database, self.timings, quota, relays_events=relays_events)
        self._quota = quota
        self._schema_ready = False

    async def ensure_schema(self) -> None:
        """Create the folders and the tables, or migrate the tables of an older schema."""
        await self._files.prepare()
        self._schema_ready = True

    async def check_health(self) -> None:
        """Check that the database and the folder are there, and that the schema is that of this program."""
        if not self._schema_ready:
            raise ServiceUnavailable("the tables are not created yet")
        await self._files.check()

    async def get_free_bytes(self) -> int | None:
        """Return the free bytes on the volume of the folder."""
        return await self._files.threads.run(self._files.folder.free_bytes)

    async def create_upload(
        self, name: MediaName | None, new_upload: NewUpload, preconditions: Preconditions = MUST_NOT_EXIST
    ) -> UploadHandle:
        """Add a row to the uploads of the name; synced where a client may come back to it.

        Else only its writer knows of it, which does not outlive a power loss of SQLite's machine. PostgreSQL may crash alone.
        """
        secret = make_secret()
        key = await self._database.write(
            lambda transaction: upload_changes.create_upload(
                transaction, name, digest_secret(secret), new_upload, preconditions, self.timings, self._quota
            ),
            durable=new_upload.ttl is not None or not self._database.is_sqlite,
        )
        return make_handle(key, name, 1, secret, new_upload.owner)

    async def reserve(self, upload: UploadHandle, length: int) -> None:
        """Extend the reservation in the row of the upload."""
        key, owner = upload_key(upload), encode_owner(upload.owner)
        if owner is not None and self._quota.is_set:
            await self._database.write(
                lambda transaction: upload_changes.reserve(transaction, key, owner, length, self._quota), durable=False
            )

    async def assign_name(
        self,
        upload: UploadHandle,
        name: MediaName,
        preconditions: Preconditions = MUST_NOT_EXIST,
        *,
        outcome_ttl: float | None = None,
        ttl: float | None = None,
    ) -> UploadHandle:
        """Move the upload to the name. Conflict where its handle is void. Its row keeps its id, by which it is played."""
        del outcome_ttl
        key, token = upload_key(upload), upload.fencing_token
        named = await self._database.write(
            lambda transaction: upload_changes.assign_name(
                transaction, key, token, name, preconditions, self.timings, ttl
            )
        )
        return make_handle(named, name, token + 1, secret_of(upload.upload_id), upload.owner)

    def upload_age(self, upload_id: str) -> float | None:
        """Read the time of creation out of the upload's id."""
        found = parse_upload_id(upload_id)
        return None if found is None else time.time() - creation_time(found.record_id)

    async def get_info(self, upload_id: str) -> UploadState:
        """Read the rows."""
        if (found := parse_upload_id(upload_id)) is None:
            return None
        return await self._database.read(lambda connection: _read_state(connection, found)[0])

    async def get_durable_info(self, upload_id: str) -> UploadState:
        """Read the rows after a commit that is synced: then all that they say is durable. Not needed where no writer is at work."""
        if (found := parse_upload_id(upload_id)) is None:
            return None
        state, is_durable = await self._database.read(lambda connection: _read_state(connection, found))
        if is_durable:
            return state

        def read(transaction: Transaction) -> UploadState:
            touched = schema.store.c.touched + 1
            transaction.connection.execute(update(schema.store).values(touched=touched))
            return _read_state(transaction.connection, found)[0]

        return await self._database.write(read)

    async def acquire(self, upload_id: str, fencing_token: int | None = None) -> AcquiredUpload | FinishedUpload | None:
        """Increment the fencing token while no write is in progress."""
        if (found := parse_upload_id(upload_id)) is None:
            return None
        row = await self._database.read(lambda connection: _read_upload(connection, found))
        if row is None:
            return await self._get_finished(upload_id)
        key = FilesUploadKey(found.media_id, found.record_id, row["file_id"])
        acquired, waited = await self._exclusive.hold(
            key,
            lambda: self._database.write(
                lambda transaction: upload_changes.acquire(transaction, key, self.timings, fencing_token)
            ),
        )
        if acquired is None:
            return await self._get_finished(upload_id)
        current, clock = acquired
        token, offset = current["fencing_token"], current["offset"]
        try:
            if not waited:  # a process that was paused holds the lock
                key = await self._continue_in_copy(key._replace(file_id=current["file_id"]), token, offset)
            tail = await self._read_tail(key.file_id, offset)
        except CorruptFile as error:
            raise Gone(_CORRUPT) from error
        named = {**row, **current}
        state = decode_in_progress(named, clock, tail=tail, write_in_progress=True)
        return make_handle(key, decode_name(named), token, secret_of(upload_id), state.owner), state

    async def _get_finished(self, upload_id: str) -> FinishedUpload | None:
        state = await self.get_durable_info(upload_id)
        return state if isinstance(state, FinishedUpload) else None

    async def _continue_in_copy(self, key: FilesUploadKey, fencing_token: int, offset: int) -> FilesUploadKey:
        copy_id = make_id()
        await self._exclusive.copy(key.file_id, copy_id, offset)
        await self._database.write(
            lambda transaction: upload_changes.move_to_file(transaction, key, fencing_token, copy_id)
        )
        return key._replace(file_id=copy_id)

    async def _read_tail(self, file_id: str, offset: int) -> bytes:
        """Return the bytes after the last whole block. Raises CorruptFile where they are missing."""
        length = offset % BLOCK_SIZE
        if not length:
            return b""
        return await self._files.threads.run(self._files.folder.read_range, file_id, offset - length, length)

    async def write_blocks(
        self,
        upload: UploadHandle,
        first_block: int,
        blocks: Sequence[bytes],
        hash_blocks: Callable[[], object] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> datetime | None:
        """Write the blocks at their places. The next offset or the commit makes them durable."""
        key, token = upload_key(upload), upload.fencing_token
        then = None
        if checkpoint is not None:
            then = functools.partial(
                offset_changes.set_offset, upload=upload, checkpoint=checkpoint, timings=self.timings
            )
        return await self._exclusive.write(key, token, first_block * BLOCK_SIZE, blocks, hash_blocks, then)

    async def truncate_blocks(self, upload: UploadHandle, first_block: int) -> None:
        """Shorten the file. What is durable stays, as the tail does in other stores."""
        await self._exclusive.truncate(upload_key(upload), upload.fencing_token, first_block * BLOCK_SIZE)

    async def set_offset(
        self,
        upload: UploadHandle,
        offset: int,
        tail: bytes,
        length: int | None,
        *,
        keep_lease: bool,
        extend_expiry: bool = True,
        durable: bool = False,
    ) -> datetime:
        """Write the tail, sync the file, then set the offset; synced itself where it is durable or the lease is released."""
        key, token = upload_key(upload), upload.fencing_token
        if tail:
            await self._exclusive.write(key, token, offset - len(tail), [tail])
        await self._exclusive.make_durable(key, token, offset)
        set_offset = functools.partial(
            offset_changes.set_offset, upload=upload, checkpoint=Checkpoint(offset, length), timings=self.timings
        )
        expires_at = await self._database.write(
            lambda transaction: set_offset(transaction.execute, keep_lease=keep_lease, extend_expiry=extend_expiry),
            durable=durable or not keep_lease,
        )
        if keep_lease and offset:  # without a byte the entry of the file is not durable
            self._exclusive.sync_writes(key, token, offset)
        else:
            self._exclusive.end_synced_writes(key, token)
        return expires_at

    async def renew_lease(self, upload: UploadHandle) -> None:
        """Extend the lease. Raises Conflict where the fencing token is another."""
        key, token = upload_key(upload), upload.fencing_token
        await self._database.write(
            lambda transaction: upload_changes.renew_lease(transaction, key, token, self.timings), durable=False
        )

    async def release_lease(self, upload: UploadHandle) -> None:
        """Set the lease to null; synced, because nothing is where no lease is held."""
        key, token = upload_key(upload), upload.fencing_token
        self._exclusive.end_synced_writes(key, token)
        await self._database.write(lambda transaction: upload_changes.release_lease(transaction, key, token))

    async def iter_blocks(self, upload: UploadHandle, block_count: int) -> AsyncGenerator[bytes, None]:
        """Yield the first blocks."""
        file_id = upload_key(upload).file_id
        for start in range(0, block_count, READ_BATCH_BLOCKS):
            count = min(READ_BATCH_BLOCKS, block_count - start)
            data = await self._files.threads.run(
                self._files.folder.read_range, file_id, start * BLOCK_SIZE, count * BLOCK_SIZE
            )
            view = memoryview(data)
            for number in range(count):
                yield bytes(view[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE])

    async def join_parts(
        self,
        upload: UploadHandle,
        parts: Sequence[tuple[UploadHandle, int]],
        add_content: Callable[[bytes], object],
        on_progress: Callable[[int], object],
    ) -> bool:
        """Copy the parts within the kernel, and read what was copied in a thread."""
        sources = [(upload_key(part).file_id, length) for part, length in parts]
        await self._exclusive.join(upload_key(upload), upload.fencing_token, sources, add_content, on_progress)
        return True

    async def commit(
        self, upload: UploadHandle, stored_file: StoredFile, preconditions: Preconditions = MUST_NOT_EXIST
    ) -> OutboxEvent:
        """Sync the file, then make it current. Raises Gone where it is shorter than `stored_file.length`."""
        key = upload_key(upload)
        await self._exclusive.finish(key, upload.fencing_token, stored_file.length)
        return await self._committer.commit(upload, key, stored_file, preconditions)

    async def abort(self, upload: UploadHandle, *, name_taken: bool = False, second_purge: bool = False) -> None:
        """Replace the upload by a tombstone, delete its file, then remove the tombstone."""
        key, token = upload_key(upload), upload.fencing_token
        self._exclusive.end_synced_writes(key, token)
        is_ended = await self._database.write(
            lambda transaction: upload_changes.abort(
                transaction, key, token, name_taken=name_taken, second_purge=second_purge
            )
        )
        if is_ended:
            await self._files.threads.run(self._files.folder.delete, key.file_id)
            await self._database.write(
                lambda transaction: upload_changes.mark_purged(transaction, key.media_id, [key.file_id], self.timings),
                durable=False,
            )

    async def delete(self, name: MediaName, preconditions: Preconditions = NO_PRECONDITIONS) -> OutboxEvent | None:
        """Replace the current version by a tombstone."""
        return await self._committer.delete(name, preconditions)

    async def move_file(
        self, name: MediaName, new_name: MediaName, preconditions: Preconditions = NO_PRECONDITIONS
    ) -> tuple[OutboxEvent, ...] | None:
        """Move the version from the row of one name to that of the other in one transaction."""
        return await self._committer.move(name, new_name, preconditions)

    async def restore(self, name: MediaName) -> OutboxEvent:
        """Make the version current again whose tombstone is the last one of a deletion."""
        return await self._committer.restore(name)

    async def set_poster(
        self, name: MediaName, poster: Poster | None, preconditions: Preconditions = NO_PRECONDITIONS
    ) -> OutboxEvent | None:
        """Write the row of the poster and that of the name in one transaction."""
        return await self._committer.set_poster(name, poster, preconditions)

    async def ack_event(self, event: OutboxEvent) -> None:
        """Remove the event, and mark those before it. Where a power loss undoes that, it is published again with the same id."""

        def acknowledge(transaction: Transaction) -> None:
            row = lock_media(transaction, event.name_key)
            if row is None:
                return
            remove_event(transaction, event.name_key, event.id)
            if row["uploaded_at"] is None:
                delete_if_empty(transaction, event.name_key)

        await self._database.write(acknowledge, durable=False)


def _is_upload(table: Table, upload_id: UploadId) -> tuple[ColumnElement[bool], ...]:
    """Conditions: the row is that of the upload, and its id has the same secret."""
    secret = table.c.secret_digest
    digest = upload_id.secret_digest
    has_secret = secret.is_(None) if digest is None else secret == digest
    return table.c.id == upload_id.record_id, table.c.media_id == upload_id.media_id, has_secret


def _read_upload(connection: Connection, upload_id: UploadId) -> Row | None:
    """The row of an unfinished upload, with the name and the clocks."""
    statement = (
        select(uploads, media.c.folder, media.c.filename)
        .join(media, media.c.id == uploads.c.media_id)
        .where(*_is_upload(uploads, upload_id))
    )
    return connection.execute(statement).mappings().first()


def _read_state(connection: Connection, upload_id: UploadId) -> tuple[UploadState, bool]:
    """The state of an upload, and whether it is durable without a further commit.

    One that has expired is not found, whether it has been collected or not.
    """
    row = _read_upload(connection, upload_id)
    clock = read_clock(connection)
    if row is not None:
        if row["expires_at"] <= clock.now:
            return None, True
        lease = row["lease_until"]
        # A writer whose lease has ended was killed, and holds no bytes that would become durable.
        state = decode_in_progress(row, clock, write_in_progress=lease is not None and lease > clock.now)
        return state, lease is None
    return _read_finished(connection, upload_id, clock), True


def _read_finished(connection: Connection, upload_id: UploadId, clock: StoreClock) -> FinishedUpload | None:
    statement = (
        select(finished_uploads, media.c.folder, media.c.filename, media.c.file_id.label("current_file"))
        .join(media, media.c.id == finished_uploads.c.media_id)
        .where(*_is_upload(finished_uploads, upload_id))
    )
    row = connection.execute(statement).mappings().first()
    return None if row is None else decode_finished(row, clock)
