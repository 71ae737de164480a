"""Writes media into MongoDB: blocks as inserted chunks, every change of state as one fenced update of the `media` document.

There are no transactions: a standalone server, a replica set and a sharded cluster are used in the same way.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from bson import ObjectId
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from services.common.aio.beside import run_beside
from services.common.errors import GridcastError, ServiceUnavailable, TooManyRequests
from services.common.media import MediaName, Poster
from services.common.store.gridfs import document_updates, documents, indexes
from services.common.store.gridfs.chunks import ChunkStore
from services.common.store.gridfs.commit import Committer, precondition_error
from services.common.store.gridfs.documents import Document, UploadKey, make_handle, parse_upload_id, upload_key
from services.common.store.gridfs.mongo import MongoDatabase, map_mongo_errors
from services.common.store.gridfs.move import Mover
from services.common.store.gridfs.nameless_updates import leave_nameless
from services.common.store.gridfs.offsets import OffsetWriter, fenced_filter_of, raise_lease_lost
from services.common.store.gridfs.quotas import GridFSQuotas
from services.common.store.gridfs.revisions import RevisionFloors
from services.common.store.limits import BLOCK_SIZE, MAX_TOMBSTONES, RETRY_LATER
from services.common.store.preconditions import MUST_NOT_EXIST, NO_PRECONDITIONS, Preconditions
from services.common.store.quotas import NO_QUOTA, Quota
from services.common.store.timings import StoreTimings
from services.common.store.upload_ids import digest_secret, make_secret, secret_of
from services.common.store.upload_store import (
    AcquiredUpload,
    Checkpoint,
    FinishedUpload,
    InProgressUpload,
    NewUpload,
    OutboxEvent,
    StoredFile,
    UploadHandle,
    UploadState,
)

UPSERT_ATTEMPTS = 20
"""Concurrent upserts of one new name fail with a duplicate key for all but one, and find the document at the next attempt."""


class GridFSUploadStore:
    """An `UploadStore` in the GridFS layout."""

    block_size = BLOCK_SIZE

    def __init__(
        self,
        mongo: MongoDatabase,
        timings: StoreTimings | None = None,
        quota: Quota = NO_QUOTA,
        *,
        relays_events: bool = False,
    ) -> None:
        self.timings = timings or StoreTimings()
        self.lease_ttl = self.timings.lease_ttl
        self._mongo = mongo
        self._media = mongo.collection("media")
        self._chunk_store = ChunkStore(mongo)
        self._offsets = OffsetWriter(mongo, self._chunk_store, self.timings)
        self._mover = Mover(mongo, self.timings, relays_events=relays_events)
        self._committer = Committer(mongo, self.timings, self._mover, relays_events=relays_events)
        self._floors = RevisionFloors(mongo)
        self._quotas = GridFSQuotas(mongo, self.timings, quota)
        self._schema_ready = False

    async def ensure_schema(self) -> None:
        """Create the indexes and verify that they exist."""
        await indexes.ensure_indexes(self._mongo)
        if self._quotas.quota.is_set:  # there may have been none until now
            await self._quotas.forget()
        self._schema_ready = True

    async def check_health(self) -> None:
        """Check that a primary responds and that the indexes exist."""
        await self._mongo.ping()
        if not self._schema_ready:
            raise ServiceUnavailable("the indexes are not built yet")

    async def get_free_bytes(self) -> int | None:
        """Return the free bytes on the volume of the database."""
        return await self._mongo.read_free_bytes()

    async def create_upload(
        self, name: MediaName | None, new_upload: NewUpload, preconditions: Preconditions = MUST_NOT_EXIST
    ) -> UploadHandle:
        """Reserve its bytes, then add an upload to the document of its name."""
        record_id, file_id = ObjectId(), ObjectId()
        reserved_at = time.monotonic()
        # The document is not known yet: a reservation is found again by the name.
        key = UploadKey(record_id, record_id, file_id)
        await self._quotas.reserve(new_upload.owner, key, name, new_upload.reserved_bytes)
        try:
            upload = await self.add_upload(name, record_id, file_id, make_secret(), new_upload, preconditions)
        except GridcastError:
            await self._quotas.release(new_upload.owner, record_id)
            raise
        if self._quotas.quota.applies_to(new_upload.owner) and time.monotonic() - reserved_at > self.lease_ttl:
            await self.abort(
                upload
            )  # this process was paused: its reservation may have been taken for one that is left over
            raise ServiceUnavailable("the upload could not be created in time")
        return upload

    async def reserve(self, upload: UploadHandle, length: int) -> None:
        """Extend the reservation of the upload."""
        await self._quotas.extend(upload.owner, upload_key(upload), upload.name, length)

    async def add_upload(
        self,
        name: MediaName | None,
        record_id: ObjectId,
        file_id: ObjectId,
        secret: str,
        new_upload: NewUpload,
        preconditions: Preconditions,
        media_id: ObjectId | None = None,
    ) -> UploadHandle:
        """Add an upload with those ids and that secret to the document of its name. A document that is created gets `media_id`.

        Raises as `create_upload`, and ServiceUnavailable where the name's document has another id than `media_id`.
        """
        client = hashlib.sha256(new_upload.client.encode()).hexdigest()[:16] if new_upload.client else ""
        update = document_updates.add_upload(
            record_id, file_id, ObjectId(), client, digest_secret(secret), new_upload, preconditions, self.timings
        )
        projection = {
            "added": {"$in": [record_id, "$uploads.id"]},
            "preconditions_hold": document_updates.preconditions_hold(preconditions),
            "tombstones": {"$size": "$doomed"},
            "has_current": {"$ne": ["$current", None]},
            "moving": 1,
        }
        place = documents.name_filter(name, record_id)
        query = {"_id": media_id, **place} if media_id else place
        document = await self._upsert(query, update, projection)
        if not document["added"] and document.get("moving"):  # its file may be elsewhere already
            await self._mover.settle(document["_id"])
            document = await self._upsert(query, update, projection)
        if document["added"]:
            return make_handle(UploadKey(document["_id"], record_id, file_id), name, 1, secret, new_upload.owner)
        if not document["preconditions_hold"]:
            if not document["has_current"]:  # then the upsert may have created the document, with nothing in it
                await self._floors.delete_if_empty(document["_id"])
            raise precondition_error(name, preconditions)
        if document["tombstones"] >= MAX_TOMBSTONES:
            raise TooManyRequests("too many replaced versions of this name await deletion", RETRY_LATER)
        raise TooManyRequests("too many unfinished uploads of this name are under way", RETRY_LATER)

    async def _upsert(self, query: Document, update: document_updates.Pipeline, projection: Document) -> Document:
        for _ in range(UPSERT_ATTEMPTS):
            try:
                async with map_mongo_errors():
                    document: Document = await self._media.find_one_and_update(
                        query, update, projection, upsert=True, return_document=ReturnDocument.AFTER
                    )
                    return document
            except DuplicateKeyError:
                await asyncio.sleep(0)
        raise ServiceUnavailable("too many concurrent uploads of this name")

    async def assign_name(
        self,
        upload: UploadHandle,
        name: MediaName,
        preconditions: Preconditions = MUST_NOT_EXIST,
        *,
        outcome_ttl: float | None = None,
        ttl: float | None = None,
    ) -> UploadHandle:
        """Add the upload to the document of its name, then remove it from the nameless one. Conflict where that has lost it.

        With `outcome_ttl` the nameless document stays for a while, to say where the upload is now.
        """
        key = upload_key(upload)
        secret = secret_of(upload.upload_id)
        await self._quotas.rename(upload.owner, key.record_id, name)
        named = await self.add_upload(
            name, key.record_id, key.file_id, secret, NewUpload(ttl=ttl, owner=upload.owner), preconditions
        )
        named_id = upload_key(named).media_id
        removal = document_updates.remove_upload(key.record_id, self.timings)
        if outcome_ttl is not None:
            removal = leave_nameless(key.record_id, named_id, outcome_ttl, self.timings)
        async with map_mongo_errors():
            removed = await self._media.update_one(fenced_filter_of(upload), removal)
            if not removed.matched_count:
                removal = document_updates.remove_upload(key.record_id, self.timings)
                await self._media.update_one(fenced_filter_of(named), removal)
                raise_lease_lost()
        await self._floors.delete_if_empty(key.media_id)
        return named

    def upload_age(self, upload_id: str) -> float | None:
        """Read the time of creation out of the upload's ObjectId."""
        key = parse_upload_id(upload_id)
        return None if key is None else (datetime.now(UTC) - key.record_id.generation_time).total_seconds()

    async def get_info(self, upload_id: str) -> UploadState:
        """Read the document."""
        if (key := parse_upload_id(upload_id)) is None:
            return None
        async with map_mongo_errors():
            document = await self._media.find_one({"_id": key.media_id}, documents.upload_projection(key.record_id))
        return documents.decode_upload(document, key) if document else None

    async def get_durable_info(self, upload_id: str) -> UploadState:
        """Read the document by a journaled write to it: once that is acknowledged, all that it returned is durable."""
        if (key := parse_upload_id(upload_id)) is None:
            return None
        async with map_mongo_errors():
            query = await self._media.find_one({"_id": key.media_id}, documents.NAME_PROJECTION)
            document = query and await self._media.find_one_and_update(
                query,
                documents.TOUCH_UPDATE,
                documents.upload_projection(key.record_id),
                return_document=ReturnDocument.AFTER,
            )
        return documents.decode_upload(document, key) if document else None

    async def acquire(self, upload_id: str, fencing_token: int | None = None) -> AcquiredUpload | FinishedUpload | None:
        """Increment the fencing token."""
        if (key := parse_upload_id(upload_id)) is None:
            return None
        if (acquired := await self.acquire_record(key, secret_of(upload_id), fencing_token)) is not None:
            return acquired
        state = await self.get_durable_info(upload_id)
        if fencing_token is not None and isinstance(state, InProgressUpload):
            raise_lease_lost()
        return state if isinstance(state, FinishedUpload) else None

    async def acquire_record(
        self, record_key: documents.RecordKey, secret: str = "", fencing_token: int | None = None
    ) -> AcquiredUpload | None:
        """Acquire an unfinished upload of which the store knows the digest of its secret; None where it is not there."""
        media_id, record_id, secret_digest = record_key
        async with map_mongo_errors():
            query = await self._media.find_one({"_id": media_id}, documents.NAME_PROJECTION)
            document = query and await self._media.find_one_and_update(
                {**query, "$expr": document_updates.may_acquire(record_id, secret_digest, fencing_token)},
                document_updates.increment_fencing_token(record_id, ObjectId(), self.timings),
                documents.upload_projection(record_id),
                return_document=ReturnDocument.AFTER,
            )
        if document is None:
            return None
        entry = documents.find_upload(document, record_id) or {}
        key = UploadKey(media_id, record_id, entry["file"])
        upload = make_handle(key, documents.decode_name(document), entry["fence"], secret, entry.get("owner", ""))
        state = documents.decode_in_progress(document, entry, write_in_progress=True)
        if (number := entry.get("tail_number")) is not None:
            state = replace(state, tail=await self._chunk_store.read_tail(record_id, number))
        return upload, state

    async def write_blocks(
        self,
        upload: UploadHandle,
        first_block: int,
        blocks: Sequence[bytes],
        hash_blocks: Callable[[], object] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> datetime | None:
        """Insert the blocks as chunks. An offset is best set beside the next batch, so `checkpoint` is not."""
        del checkpoint
        key = upload_key(upload)
        inserting = self._chunk_store.insert(key.file_id, first_block, blocks, lambda: self.renew_lease(upload))
        await run_beside(hash_blocks, inserting)
        return None

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
        durable: bool = False,
    ) -> datetime:
        """Set the offset, with a long tail in a chunk; journaled if it is durable, the lease is released, or there is a chunk."""
        return await self._offsets.set(
            upload, offset, tail, length, keep_lease=keep_lease, extend_expiry=extend_expiry, durable=durable
        )

    async def renew_lease(self, upload: UploadHandle) -> None:
        """Extend the lease. Raises Conflict where the fencing token is another."""
        await self._offsets.renew_lease(upload)

    async def release_lease(self, upload: UploadHandle) -> None:
        """Set the lease to null."""
        await self._offsets.release_lease(upload)

    def iter_blocks(self, upload: UploadHandle, block_count: int) -> AsyncGenerator[bytes, None]:
        """Yield the first chunks."""
        return self._chunk_store.iter_chunks(upload_key(upload).file_id, block_count)

    async def join_parts(self, *_: object, **__: object) -> bool:
        """Return False: a part need not end at the end of a chunk, so its bytes are cut anew."""
        return False

    async def commit(
        self, upload: UploadHandle, stored_file: StoredFile, preconditions: Preconditions = MUST_NOT_EXIST
    ) -> OutboxEvent:
        """Write the `fs.files` entry for other tools, then make the file current."""
        if upload.fencing_token > 1:  # the last insert of an older writer may have gone past the end
            await self.truncate_blocks(upload, -(-stored_file.length // BLOCK_SIZE))
        name = upload.name or MediaName("", str(upload_key(upload).record_id))
        files_entry = documents.encode_files_entry(
            name, stored_file.length, stored_file.content_type, stored_file.sha256, datetime.now(UTC)
        )
        revision_floor, _ = await asyncio.gather(
            self._floors.get(upload.name),
            self._chunk_store.write_files_entry(upload_key(upload).file_id, files_entry),
        )
        event = await self._committer.commit(upload, stored_file, preconditions, revision_floor)
        if event is None:
            raise precondition_error(upload.name, preconditions)
        record_id = upload_key(upload).record_id
        await self._quotas.settle(upload.owner, record_id, stored_file.length, event.previous_owner)
        return event

    async def abort(self, upload: UploadHandle, *, name_taken: bool = False, second_purge: bool = False) -> None:
        """Replace the upload by a tombstone, delete its chunks, then remove the tombstone."""
        media_id, record_id, file_id = upload_key(upload)
        update = document_updates.abort_upload(
            record_id, file_id, self.timings, name_taken=name_taken, second_purge=second_purge
        )
        async with map_mongo_errors():
            document = await self._media.find_one_and_update(
                fenced_filter_of(upload),
                update,
                documents.upload_projection(record_id),
                return_document=ReturnDocument.BEFORE,
            )
        if document is None:
            return
        await self._quotas.release(upload.owner, record_id)
        entry = documents.find_upload(document, record_id) or {}
        for purged_id in (file_id, record_id) if entry.get("tail_chunks") else (file_id,):
            await self._chunk_store.delete(purged_id)
            async with map_mongo_errors():
                await self._media.update_one({"_id": media_id}, document_updates.mark_purged(purged_id, self.timings))
        await self._floors.delete_if_empty(media_id)

    async def delete(self, name: MediaName, preconditions: Preconditions = NO_PRECONDITIONS) -> OutboxEvent | None:
        """Replace the current version by a tombstone."""
        event = await self._committer.delete(name, preconditions, await self._floors.get(name))
        if event is not None:
            await self._quotas.note_release(event.info.owner)
        return event

    async def move_file(
        self, name: MediaName, new_name: MediaName, preconditions: Preconditions = NO_PRECONDITIONS
    ) -> tuple[OutboxEvent, ...] | None:
        """Move the file by a protocol over the documents of both names."""
        return await self._mover.move(name, new_name, preconditions)

    async def restore(self, name: MediaName) -> OutboxEvent:
        """Make the version current again whose tombstone is the last one of a deletion."""
        event = await self._committer.restore(name, await self._floors.get(name))
        if event.info.owner:
            with suppress(ServiceUnavailable):  # the daily count makes it right
                await self._quotas.forget(event.info.owner)
        return event

    async def set_poster(
        self, name: MediaName, poster: Poster | None, preconditions: Preconditions = NO_PRECONDITIONS
    ) -> OutboxEvent | None:
        """Write the poster beside the old one, then name it in the document. Until the old one is gone both count."""
        floor = await self._floors.get(name)
        length = 0 if poster is None else len(poster.data)
        return await self._quotas.count_poster(
            name, length, lambda: self._committer.set_poster(name, poster, preconditions, floor)
        )

    async def ack_event(self, event: OutboxEvent) -> None:
        """Remove the event from the document, and mark those before it."""
        media_id = ObjectId(event.name_key)
        removal = document_updates.remove_event(ObjectId(event.id), self.timings)
        async with map_mongo_errors():
            await self._media.update_one({"_id": media_id}, removal)
        if event.type == "file.deleted":
            await self._floors.delete_if_empty(media_id)
