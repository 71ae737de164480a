"""Writes media into MongoDB: chunks by insert, every change of state as one fenced update of the `media` document.

No transactions: a standalone server, a replica set and a sharded cluster are the same here. It knows no HTTP.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from bson import ObjectId
from bson.errors import InvalidId
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
from services.common.store.gridfs.chunks import ChunkStore
from services.common.store.gridfs.commit import Committer
from services.common.store.gridfs.documents import StoreTimings
from services.common.store.gridfs.media_reader import BLOCK_SIZE
from services.common.store.gridfs.mongo import MongoDatabase, map_mongo_errors
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
)

UPSERT_ATTEMPTS = 20
"""Racing upserts of one new name lose against each other with a duplicate key and find the document at the next try."""


class GridFSUploadStore:
    """An `UploadStore` over the GridFS layout."""

    block_size = BLOCK_SIZE

    def __init__(self, mongo: MongoDatabase, timings: StoreTimings | None = None) -> None:
        self.timings = timings or StoreTimings()
        self.lease_ttl = self.timings.lease_ttl_ms / 1000
        self._mongo = mongo
        self._media = mongo.collection("media")
        # The chunks are journalled before their offset is set; the offset itself need not be until somebody asks for it. Journalled
        # it took 2.2 to 4.3 ms beside the 10 to 13 ms of a batch, like this 1.4 to 2.3 ms.
        self._media_unjournaled = self._media.with_options(write_concern=WriteConcern(w=1, j=False))
        self._chunk_store = ChunkStore(mongo)
        self._committer = Committer(mongo, self.timings)
        self._schema_ready = False

    async def ensure_schema(self) -> None:
        """Make the indexes and look whether they are there."""
        await indexes.ensure_indexes(self._mongo)
        self._schema_ready = True

    async def check_health(self) -> None:
        """Whether a primary answers and the indexes are there."""
        await self._mongo.ping()
        if not self._schema_ready:
            raise ServiceUnavailable("the indexes are not built yet")

    async def get_free_bytes(self) -> int | None:
        """Bytes free on the volume of the database; of the fullest one where there are shards."""
        async with map_mongo_errors():
            stats = await self._mongo.database.command("dbStats")
        # A database that does not exist yet has a volume of 0 bytes: that says nothing.
        each = [shard for shard in stats.get("raw", {"": stats}).values() if shard.get("fsTotalSize")]
        return min((int(shard["fsTotalSize"] - shard["fsUsedSize"]) for shard in each), default=None)

    async def create_upload(
        self, name: MediaName | None, new_upload: NewUpload, preconditions: Preconditions = MUST_NOT_EXIST
    ) -> UploadHandle:
        """Start an upload."""
        return await self._add_upload(name, ObjectId(), ObjectId(), new_upload, preconditions)

    async def _add_upload(
        self,
        name: MediaName | None,
        record_id: ObjectId,
        file_id: ObjectId,
        new_upload: NewUpload,
        preconditions: Preconditions,
    ) -> UploadHandle:
        update = documents.add_upload(record_id, file_id, ObjectId(), new_upload, preconditions, self.timings)
        document = await self._upsert(documents.name_filter(name, record_id), update)
        if any(entry["id"] == record_id for entry in document["uploads"]):
            return UploadHandle(str(record_id), str(document["_id"]), str(file_id), 1, name)
        if len(document["uploads"]) >= documents.MAX_UPLOADS_PER_NAME:
            raise TooManyRequests(f"{documents.MAX_UPLOADS_PER_NAME} unfinished uploads of this name are under way")
        if len(document["doomed"]) >= documents.MAX_TOMBSTONES:
            raise TooManyRequests("too many replaced versions of this name await deletion")
        if document["current"] is None:  # then the upsert may have made the document, for nobody
            async with map_mongo_errors():
                await self._media.delete_one(documents.empty_document_filter(document["_id"]))
        raise _precondition_error(name, preconditions)

    async def _upsert(self, query: dict[str, Any], update: documents.Pipeline) -> dict[str, Any]:
        for _ in range(UPSERT_ATTEMPTS):
            try:
                async with map_mongo_errors():
                    document: dict[str, Any] = await self._media.find_one_and_update(
                        query, update, upsert=True, return_document=ReturnDocument.AFTER
                    )
                    return document
            except DuplicateKeyError:
                await asyncio.sleep(0)
        raise ServiceUnavailable("too many concurrent uploads of this name")

    async def assign_name(
        self, upload: UploadHandle, name: MediaName, preconditions: Preconditions = MUST_NOT_EXIST
    ) -> UploadHandle:
        """Enter the upload under its name, then leave the nameless document. Whoever cannot leave it has lost the upload."""
        identifier = ObjectId(upload.record_id)
        named = await self._add_upload(name, identifier, ObjectId(upload.file_id), NewUpload(), preconditions)
        async with map_mongo_errors():
            left = await self._media.update_one(
                _fenced_filter(upload), document_updates.remove_upload(identifier, self.timings)
            )
            if not left.matched_count:
                await self._media.update_one(
                    _fenced_filter(named), document_updates.remove_upload(identifier, self.timings)
                )
                _raise_lease_lost()
            await self._media.delete_one(documents.empty_document_filter(ObjectId(upload.media_id)))
        return named

    def upload_age(self, upload_id: str) -> float | None:
        """Says the upload's ObjectId."""
        found = _parse_upload_id(upload_id)
        return None if found is None else (datetime.now(UTC) - found[1].generation_time).total_seconds()

    async def get_info(self, upload_id: str) -> InProgressUpload | FinishedUpload | None:
        """Read the document."""
        if (found := _parse_upload_id(upload_id)) is None:
            return None
        async with map_mongo_errors():
            document = await self._media.find_one({"_id": found[0]}, documents.UPLOAD_PROJECTION)
        return documents.decode_upload(document, found[1]) if document else None

    async def get_durable_info(self, upload_id: str) -> InProgressUpload | FinishedUpload | None:
        """Read the document by a journalled write to it: when that is acknowledged, all that it saw is durable."""
        if (found := _parse_upload_id(upload_id)) is None:
            return None
        async with map_mongo_errors():
            place = await self._media.find_one({"_id": found[0]}, documents.NAME_PROJECTION)
            document = place and await self._media.find_one_and_update(
                place, documents.TOUCH_UPDATE, documents.UPLOAD_PROJECTION, return_document=ReturnDocument.AFTER
            )
        return documents.decode_upload(document, found[1]) if document else None

    async def acquire(self, upload_id: str) -> tuple[UploadHandle, InProgressUpload] | FinishedUpload | None:
        """Raise the fence."""
        if (found := _parse_upload_id(upload_id)) is None:
            return None
        media, identifier = found
        update = documents.increment_fencing_token(identifier, ObjectId(), self.timings)
        async with map_mongo_errors():
            place = await self._media.find_one({"_id": media}, documents.NAME_PROJECTION)
            document = place and await self._media.find_one_and_update(
                {**place, "$expr": documents.upload_not_expired(identifier)},
                update,
                return_document=ReturnDocument.AFTER,
            )
        if document is None:
            seen = await self.get_durable_info(upload_id)
            return seen if isinstance(seen, FinishedUpload) else None
        entry = documents.find_upload(document, identifier) or {}
        upload = UploadHandle(
            str(identifier), str(media), str(entry["file"]), entry["fence"], documents.decode_name(document)
        )
        return upload, documents.decode_in_progress(document, entry, write_in_progress=True)

    async def write_blocks(self, upload: UploadHandle, first_block: int, blocks: Sequence[bytes]) -> None:
        """Insert chunks `first` and up."""
        await self._chunk_store.insert(ObjectId(upload.file_id), first_block, blocks, lambda: self.renew_lease(upload))

    async def truncate_blocks(self, upload: UploadHandle, first_block: int) -> None:
        """Delete chunks `first` and up."""
        await self._chunk_store.truncate(ObjectId(upload.file_id), first_block, lambda: self.renew_lease(upload))

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
        """Set the offset, while the tails of this name fit into its document."""
        identifier = ObjectId(upload.record_id)
        update = documents.set_offset(
            identifier, offset, tail, length, self.timings, keep_lease=keep_lease, extend_expiry=extend_expiry
        )
        query = _fenced_filter(upload) | ({"$expr": documents.tails_fit(identifier, tail)} if tail else {})
        async with map_mongo_errors():
            document = await (self._media_unjournaled if keep_lease else self._media).find_one_and_update(
                query, update, {"uploads.id": 1, "uploads.expires_at": 1}, return_document=ReturnDocument.AFTER
            )
        if document is None:
            await self.renew_lease(upload)
            raise TooManyRequests("the unfinished uploads of this name buffer too much data")
        expires: datetime = next(entry["expires_at"] for entry in document["uploads"] if entry["id"] == identifier)
        return expires

    async def renew_lease(self, upload: UploadHandle) -> None:
        """Prolong the lease."""
        async with map_mongo_errors():
            result = await self._media.update_one(
                _fenced_filter(upload), documents.renew_lease(ObjectId(upload.record_id), self.timings)
            )
        if not result.matched_count:
            _raise_lease_lost()

    def iter_blocks(self, upload: UploadHandle, block_count: int) -> AsyncGenerator[bytes, None]:
        """What is stored."""
        return self._chunk_store.iter_chunks(ObjectId(upload.file_id), block_count)

    async def commit(
        self, upload: UploadHandle, stored_file: StoredFile, preconditions: Preconditions = MUST_NOT_EXIST
    ) -> OutboxEvent:
        """Describe the file for other tools, then make it current."""
        if upload.fencing_token > 1:  # an older writer's last insert may have gone past the end
            await self.truncate_blocks(upload, -(-stored_file.length // BLOCK_SIZE))
        await self._chunk_store.write_files_entry(ObjectId(upload.file_id), _fs_files_document(upload, stored_file))
        announcement = await self._committer.commit(upload, stored_file, preconditions)
        if announcement is None:
            raise _precondition_error(upload.name, preconditions)
        return announcement

    async def abort(self, upload: UploadHandle, *, name_taken: bool = False, second_purge: bool = False) -> None:
        """Doom the upload's chunks, delete them, forget them."""
        file = ObjectId(upload.file_id)
        update = document_updates.abort_upload(
            ObjectId(upload.record_id), file, self.timings, name_taken=name_taken, second_purge=second_purge
        )
        async with map_mongo_errors():
            taken = await self._media.update_one(_fenced_filter(upload), update)
        if taken.matched_count:
            await self._chunk_store.delete(file)
            async with map_mongo_errors():
                await self._media.update_one(
                    {"_id": ObjectId(upload.media_id)}, document_updates.mark_purged(file, self.timings)
                )
                await self._media.delete_one(documents.empty_document_filter(ObjectId(upload.media_id)))

    async def delete(self, name: MediaName, preconditions: Preconditions = NO_PRECONDITIONS) -> OutboxEvent | None:
        """Doom the current version."""
        return await self._committer.delete(name, preconditions)

    async def ack_event(self, event: OutboxEvent) -> None:
        """Forget an event that was pushed."""
        media = ObjectId(event.info.id)
        async with map_mongo_errors():
            await self._media.update_one(
                {"_id": media}, document_updates.remove_event(ObjectId(event.id), self.timings)
            )
            if event.type == "file.deleted":
                await self._media.delete_one(documents.empty_document_filter(media))


def _fenced_filter(upload: UploadHandle) -> dict[str, Any]:
    return documents.fenced_filter(
        ObjectId(upload.media_id), upload.name, ObjectId(upload.record_id), upload.fencing_token
    )


def _parse_upload_id(upload_id: str) -> tuple[ObjectId, ObjectId] | None:
    media, _, upload = upload_id.partition("-")
    try:
        return ObjectId(media), ObjectId(upload)
    except InvalidId:
        return None


def _fs_files_document(upload: UploadHandle, stored_file: StoredFile) -> dict[str, Any]:
    name = upload.name or MediaName("", upload.record_id)
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
    raise Conflict("this upload was taken over or has expired")
