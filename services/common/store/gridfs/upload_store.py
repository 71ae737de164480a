"""Writes media into MongoDB: blocks as inserted chunks, every change of state as one fenced update of the `media` document.

There are no transactions: a standalone server, a replica set and a sharded cluster are used in the same way.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from bson import ObjectId
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError
from pymongo.write_concern import WriteConcern

from services.common.errors import (
    AlreadyExists,
    Conflict,
    GridcastError,
    PreconditionFailed,
    ServiceUnavailable,
    TooManyRequests,
)
from services.common.media import MediaName
from services.common.store.gridfs import document_updates, documents, indexes
from services.common.store.gridfs.chunks import BLOCK_SIZE, ChunkStore
from services.common.store.gridfs.commit import Committer
from services.common.store.gridfs.documents import Document, UploadKey, make_handle, parse_upload_id, upload_key
from services.common.store.gridfs.mongo import MongoDatabase, map_mongo_errors
from services.common.store.gridfs.revisions import RevisionFloors
from services.common.store.timings import StoreTimings
from services.common.store.upload_store import (
    MUST_NOT_EXIST,
    NO_PRECONDITIONS,
    FinishedUpload,
    InProgressUpload,
    NewUpload,
    OutboxEvent,
    Preconditions,
    StoredFile,
    UploadHandle,
    UploadState,
)

UPSERT_ATTEMPTS = 20
"""Concurrent upserts of one new name fail with a duplicate key for all but one, and find the document at the next attempt."""


class GridFSUploadStore:
    """An `UploadStore` in the GridFS layout."""

    block_size = BLOCK_SIZE

    def __init__(self, mongo: MongoDatabase, timings: StoreTimings | None = None) -> None:
        self.timings = timings or StoreTimings()
        self.lease_ttl = self.timings.lease_ttl
        self._mongo = mongo
        self._media = mongo.collection("media")
        # Chunks are journaled before the offset is set; the offset itself need not be until it is read as durable. Journaled,
        # setting it took 2.2 to 4.3 ms beside the 10 to 13 ms of a batch; without the journal 1.4 to 2.3 ms.
        self._media_unjournaled = self._media.with_options(write_concern=WriteConcern(w=1, j=False))
        self._chunk_store = ChunkStore(mongo)
        self._committer = Committer(mongo, self.timings)
        self._floors = RevisionFloors(mongo)
        self._schema_ready = False

    async def ensure_schema(self) -> None:
        """Create the indexes and verify that they exist."""
        await indexes.ensure_indexes(self._mongo)
        self._schema_ready = True

    async def check_health(self) -> None:
        """Check that a primary responds and that the indexes exist."""
        await self._mongo.ping()
        if not self._schema_ready:
            raise ServiceUnavailable("the indexes are not built yet")

    async def get_free_bytes(self) -> int | None:
        """Return the free bytes on the volume of the database as `dbStats` reports them; with shards, on the fullest one."""
        async with map_mongo_errors():
            stats = await self._mongo.database.command("dbStats")
        # A database that does not exist yet is reported on a volume of 0 bytes, which means nothing.
        volumes = [shard for shard in stats.get("raw", {"": stats}).values() if shard.get("fsTotalSize")]
        return min((int(volume["fsTotalSize"] - volume["fsUsedSize"]) for volume in volumes), default=None)

    async def create_upload(
        self, name: MediaName | None, new_upload: NewUpload, preconditions: Preconditions = MUST_NOT_EXIST
    ) -> UploadHandle:
        """Add an upload to the document of its name."""
        return await self._add_upload(name, ObjectId(), ObjectId(), new_upload, preconditions)

    async def _add_upload(
        self,
        name: MediaName | None,
        record_id: ObjectId,
        file_id: ObjectId,
        new_upload: NewUpload,
        preconditions: Preconditions,
    ) -> UploadHandle:
        update = document_updates.add_upload(record_id, file_id, ObjectId(), new_upload, preconditions, self.timings)
        document = await self._upsert(documents.name_filter(name, record_id), update)
        if any(entry["id"] == record_id for entry in document["uploads"]):
            return make_handle(UploadKey(document["_id"], record_id, file_id), name, fencing_token=1)
        if len(document["uploads"]) >= document_updates.MAX_UPLOADS_PER_NAME:
            raise TooManyRequests(
                f"{document_updates.MAX_UPLOADS_PER_NAME} unfinished uploads of this name are under way"
            )
        if len(document["doomed"]) >= document_updates.MAX_TOMBSTONES:
            raise TooManyRequests("too many replaced versions of this name await deletion")
        if document["current"] is None:  # then the upsert may have created the document, with nothing in it
            await self._floors.delete_if_empty(document["_id"])
        raise _precondition_error(name, preconditions)

    async def _upsert(self, query: Document, update: document_updates.Pipeline) -> Document:
        for _ in range(UPSERT_ATTEMPTS):
            try:
                async with map_mongo_errors():
                    document: Document = await self._media.find_one_and_update(
                        query, update, upsert=True, return_document=ReturnDocument.AFTER
                    )
                    return document
            except DuplicateKeyError:
                await asyncio.sleep(0)
        raise ServiceUnavailable("too many concurrent uploads of this name")

    async def assign_name(
        self, upload: UploadHandle, name: MediaName, preconditions: Preconditions = MUST_NOT_EXIST
    ) -> UploadHandle:
        """Add the upload to the document of its name, then remove it from the nameless one. Conflict where that has lost it."""
        key = upload_key(upload)
        named = await self._add_upload(name, key.record_id, key.file_id, NewUpload(), preconditions)
        removal = document_updates.remove_upload(key.record_id, self.timings)
        async with map_mongo_errors():
            removed = await self._media.update_one(_fenced_filter(upload), removal)
            if not removed.matched_count:
                await self._media.update_one(_fenced_filter(named), removal)
                _raise_lease_lost()
        await self._floors.delete_if_empty(key.media_id)
        return named

    def upload_age(self, upload_id: str) -> float | None:
        """Read the time of creation out of the upload's ObjectId."""
        ids = parse_upload_id(upload_id)
        return None if ids is None else (datetime.now(UTC) - ids[1].generation_time).total_seconds()

    async def get_info(self, upload_id: str) -> UploadState:
        """Read the document."""
        if (ids := parse_upload_id(upload_id)) is None:
            return None
        media_id, record_id = ids
        async with map_mongo_errors():
            document = await self._media.find_one({"_id": media_id}, documents.UPLOAD_PROJECTION)
        return documents.decode_upload(document, record_id) if document else None

    async def get_durable_info(self, upload_id: str) -> UploadState:
        """Read the document by a journaled write to it: once that is acknowledged, all that it returned is durable."""
        if (ids := parse_upload_id(upload_id)) is None:
            return None
        media_id, record_id = ids
        async with map_mongo_errors():
            query = await self._media.find_one({"_id": media_id}, documents.NAME_PROJECTION)
            document = query and await self._media.find_one_and_update(
                query, documents.TOUCH_UPDATE, documents.UPLOAD_PROJECTION, return_document=ReturnDocument.AFTER
            )
        return documents.decode_upload(document, record_id) if document else None

    async def acquire(self, upload_id: str) -> tuple[UploadHandle, InProgressUpload] | FinishedUpload | None:
        """Increment the fencing token."""
        if (ids := parse_upload_id(upload_id)) is None:
            return None
        media_id, record_id = ids
        update = document_updates.increment_fencing_token(record_id, ObjectId(), self.timings)
        async with map_mongo_errors():
            query = await self._media.find_one({"_id": media_id}, documents.NAME_PROJECTION)
            document = query and await self._media.find_one_and_update(
                {**query, "$expr": document_updates.upload_not_expired(record_id)},
                update,
                return_document=ReturnDocument.AFTER,
            )
        if document is None:
            state = await self.get_durable_info(upload_id)
            return state if isinstance(state, FinishedUpload) else None
        entry = documents.find_upload(document, record_id) or {}
        key = UploadKey(media_id, record_id, entry["file"])
        upload = make_handle(key, documents.decode_name(document), entry["fence"])
        return upload, documents.decode_in_progress(document, entry, write_in_progress=True)

    async def write_blocks(self, upload: UploadHandle, first_block: int, blocks: Sequence[bytes]) -> None:
        """Insert the blocks as chunks."""
        file_id = upload_key(upload).file_id
        await self._chunk_store.insert(file_id, first_block, blocks, lambda: self.renew_lease(upload))

    async def truncate_blocks(self, upload: UploadHandle, first_block: int) -> None:
        """Delete chunks `first_block` and up."""
        await self._chunk_store.truncate(upload_key(upload).file_id, first_block, lambda: self.renew_lease(upload))

    async def set_offset(
        self,
        upload: UploadHandle,
        offset: int,
        tail: bytes,
        length: int | None,
        *,
        keep_lease: bool,
        extend_expiry: bool = True,
    ) -> datetime:
        """Set the offset, while the tails of this name fit into its document; journaled only where the lease is released."""
        record_id = upload_key(upload).record_id
        update = document_updates.set_offset(
            record_id, offset, tail, length, self.timings, keep_lease=keep_lease, extend_expiry=extend_expiry
        )
        query = _fenced_filter(upload) | ({"$expr": document_updates.tails_fit(record_id, tail)} if tail else {})
        async with map_mongo_errors():
            document = await (self._media_unjournaled if keep_lease else self._media).find_one_and_update(
                query, update, {"uploads.id": 1, "uploads.expires_at": 1}, return_document=ReturnDocument.AFTER
            )
        if document is None:
            await self.renew_lease(upload)
            raise TooManyRequests("the unfinished uploads of this name buffer too much data")
        expires_at: datetime = next(entry["expires_at"] for entry in document["uploads"] if entry["id"] == record_id)
        return expires_at

    async def renew_lease(self, upload: UploadHandle) -> None:
        """Extend the lease. Raises Conflict where the fencing token is another."""
        update = document_updates.renew_lease(upload_key(upload).record_id, self.timings)
        async with map_mongo_errors():
            result = await self._media.update_one(_fenced_filter(upload), update)
        if not result.matched_count:
            _raise_lease_lost()

    async def release_lease(self, upload: UploadHandle) -> None:
        """Set the lease to null."""
        update = document_updates.set_upload_fields(upload_key(upload).record_id, {"lease_until": None}, self.timings)
        async with map_mongo_errors():
            await self._media.update_one(_fenced_filter(upload), update)

    def iter_blocks(self, upload: UploadHandle, block_count: int) -> AsyncGenerator[bytes, None]:
        """Yield the first chunks."""
        return self._chunk_store.iter_chunks(upload_key(upload).file_id, block_count)

    async def commit(
        self, upload: UploadHandle, stored_file: StoredFile, preconditions: Preconditions = MUST_NOT_EXIST
    ) -> OutboxEvent:
        """Write the `fs.files` entry for other tools, then make the file current."""
        if upload.fencing_token > 1:  # the last insert of an older writer may have gone past the end
            await self.truncate_blocks(upload, -(-stored_file.length // BLOCK_SIZE))
        files_entry = _fs_files_document(upload, stored_file)
        revision_floor, _ = await asyncio.gather(
            self._floors.get(upload.name),
            self._chunk_store.write_files_entry(upload_key(upload).file_id, files_entry),
        )
        event = await self._committer.commit(upload, stored_file, preconditions, revision_floor)
        if event is None:
            raise _precondition_error(upload.name, preconditions)
        return event

    async def abort(self, upload: UploadHandle, *, name_taken: bool = False, second_purge: bool = False) -> None:
        """Replace the upload by a tombstone, delete its chunks, then remove the tombstone."""
        media_id, record_id, file_id = upload_key(upload)
        update = document_updates.abort_upload(
            record_id, file_id, self.timings, name_taken=name_taken, second_purge=second_purge
        )
        async with map_mongo_errors():
            aborted = await self._media.update_one(_fenced_filter(upload), update)
        if aborted.matched_count:
            await self._chunk_store.delete(file_id)
            async with map_mongo_errors():
                await self._media.update_one({"_id": media_id}, document_updates.mark_purged(file_id, self.timings))
            await self._floors.delete_if_empty(media_id)

    async def delete(self, name: MediaName, preconditions: Preconditions = NO_PRECONDITIONS) -> OutboxEvent | None:
        """Replace the current version by a tombstone."""
        return await self._committer.delete(name, preconditions, await self._floors.get(name))

    async def ack_event(self, event: OutboxEvent) -> None:
        """Remove the event from the document, and mark those before it."""
        media_id = ObjectId(event.info.id)
        async with map_mongo_errors():
            await self._media.update_one(
                {"_id": media_id}, document_updates.remove_event(ObjectId(event.id), self.timings)
            )
        if event.type == "file.deleted":
            await self._floors.delete_if_empty(media_id)


def _fenced_filter(upload: UploadHandle) -> Document:
    return documents.fenced_filter(upload_key(upload), upload.name, upload.fencing_token)


def _fs_files_document(upload: UploadHandle, stored_file: StoredFile) -> dict[str, Any]:
    name = upload.name or MediaName("", str(upload_key(upload).record_id))
    return {
        "length": stored_file.length,
        "uploadDate": datetime.now(UTC),
        "filename": f"{name.folder}/{name.filename}" if name.folder else name.filename,
        "metadata": {"contentType": stored_file.content_type, "sha256": stored_file.sha256},
    }


def _precondition_error(name: MediaName | None, preconditions: Preconditions) -> GridcastError:
    if preconditions.must_not_exist and name is not None:
        return AlreadyExists(name.folder, name.filename)
    return PreconditionFailed("the file does not match the precondition")


def _raise_lease_lost() -> NoReturn:
    raise Conflict("another writer has acquired this upload, or it has expired")
