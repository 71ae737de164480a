"""Imports files into MongoDB: an upload with the ids of the incoming file, written as all others are, and one update at its end.

The upload is in the document before its first chunk is written, so the search for orphans spares chunks whose ids are years old. It
is not aborted where its import fails: the next one takes it over, and a deletion of its chunks could meet those of the next one.
"""

from collections.abc import AsyncIterator

from bson import ObjectId
from bson.errors import InvalidId
from pymongo import ReturnDocument

from services.common.errors import BadRequest, Conflict
from services.common.media import MediaInfo, MediaName, Poster
from services.common.store.errors import CorruptFile
from services.common.store.file_importer import (
    ANOTHER_HAS_ID,
    ANOTHER_HAS_NAME,
    BYTES_LEFT_BEHIND,
    CHANGED_MEANWHILE,
    FILE_ID_IN_USE,
    IMPORT_BATCH_BLOCKS,
    TO_BE_DELETED,
    UNFINISHED_IMPORT_TTL_SECONDS,
    ImportOutcome,
    compare_versions,
)
from services.common.store.gridfs import documents, import_updates
from services.common.store.gridfs.chunks import ChunkStore
from services.common.store.gridfs.documents import Document, RecordKey, upload_key
from services.common.store.gridfs.mongo import MongoDatabase, map_mongo_errors
from services.common.store.gridfs.posters import PosterCollection
from services.common.store.gridfs.quotas import GridFSQuotas
from services.common.store.gridfs.revisions import RevisionFloors
from services.common.store.gridfs.upload_store import GridFSUploadStore
from services.common.store.limits import BLOCK_SIZE
from services.common.store.preconditions import NO_PRECONDITIONS
from services.common.store.quotas import NO_QUOTA
from services.common.store.timings import StoreTimings
from services.common.store.upload_ids import make_secret
from services.common.store.upload_store import (
    NewUpload,
    UploadHandle,
)


class GridFSFileImporter:
    """A `FileImporter` in the GridFS layout."""

    block_size = BLOCK_SIZE

    def __init__(self, mongo: MongoDatabase, timings: StoreTimings | None = None) -> None:
        self._timings = timings or StoreTimings()
        self._media = mongo.collection("media")
        self._files = mongo.collection("fs.files")
        self._chunk_store = ChunkStore(mongo)
        self._uploads = GridFSUploadStore(mongo, self._timings)
        self._floors = RevisionFloors(mongo)
        self._posters = PosterCollection(mongo)
        self._quotas = GridFSQuotas(mongo, self._timings, NO_QUOTA)

    async def import_file(self, info: MediaInfo, blocks: AsyncIterator[bytes]) -> ImportOutcome:
        """Compare with what is current, write the chunks of an upload, then make it current."""
        name, media_id, file_id = MediaName(info.folder, info.filename), _parse_id(info.id), _parse_id(info.file_id)
        document = await self._find_document(name, media_id)
        current = documents.decode_media_info(document) if document and document["current"] else None
        if (outcome := compare_versions(current, info)) is not None:
            await self._make_durable(document["_id"] if document else media_id, name)
            return outcome
        key = document["_id"] if document else media_id  # the document that a file has moved to has another id
        upload = await self._begin(document, name, key, file_id)
        await self._write(upload, info.length, blocks)
        await self._commit(upload, info, current)
        return "imported"

    async def import_poster(self, info: MediaInfo, poster: Poster) -> None:
        """Write the poster, unless an earlier import has."""
        file_id = _parse_id(info.file_id)
        if await self._posters.find(file_id, poster.etag) is None:
            await self._posters.write(file_id, poster)

    async def _find_document(self, name: MediaName, media_id: ObjectId) -> Document | None:
        """Return the document of the name, None where there is none. Raises Conflict where another one has the name or the id."""
        named = {"folder": name.folder, "filename": name.filename}
        async with map_mongo_errors():
            query = {"$or": [named, {"_id": media_id}, {"identity": media_id}]}
            found: list[Document] = await self._media.find(query, import_updates.IMPORT_PROJECTION).to_list(3)
        document = next((one for one in found if documents.decode_name(one) == name), None)
        if document is not None and document.get("identity", document["_id"]) != media_id:
            raise Conflict(ANOTHER_HAS_NAME)
        if document is None and found:
            raise Conflict(ANOTHER_HAS_ID)
        return document

    async def _make_durable(self, media_id: ObjectId, name: MediaName) -> None:
        """Make durable what was read, by a journaled write to the same document."""
        async with map_mongo_errors():
            await self._media.update_one(documents.document_filter(media_id, name, media_id), documents.TOUCH_UPDATE)

    async def _begin(
        self, document: Document | None, name: MediaName, media_id: ObjectId, file_id: ObjectId
    ) -> UploadHandle:
        """Take the upload of an interrupted import over, or add one."""
        if document is not None:
            if any(version["file"] == file_id for version in document["doomed"]):
                raise Conflict(TO_BE_DELETED)
            if (left := import_updates.find_import(document, file_id)) is not None:
                acquired = await self._uploads.acquire_record(RecordKey(media_id, left["id"], left.get("secret")))
                if acquired is None:
                    raise Conflict(TO_BE_DELETED)
                await self._uploads.truncate_blocks(acquired[0], 0)
                return acquired[0]
        # Every committed version has an entry, until its chunks are deleted.
        async with map_mongo_errors():
            if await self._files.find_one({"_id": file_id}, {"_id": 1}) is not None:
                raise Conflict(FILE_ID_IN_USE)
        if await self._chunk_store.has_chunks(file_id):  # the search for orphans may be about to delete them
            raise Conflict(BYTES_LEFT_BEHIND)
        new_upload = NewUpload(ttl=UNFINISHED_IMPORT_TTL_SECONDS)
        return await self._uploads.add_upload(
            name, ObjectId(), file_id, make_secret(), new_upload, NO_PRECONDITIONS, media_id
        )

    async def _write(self, upload: UploadHandle, length: int, blocks: AsyncIterator[bytes]) -> None:
        written = 0
        first_block = 0
        batch: list[bytes] = []
        async for block in blocks:
            written += len(block)
            batch.append(block)
            if len(batch) == IMPORT_BATCH_BLOCKS:
                await self._uploads.write_blocks(upload, first_block, batch)
                first_block += len(batch)
                batch = []
        if batch:
            await self._uploads.write_blocks(upload, first_block, batch)
        if written != length:
            raise CorruptFile(f"file {upload.store_key}: {written} bytes were read of {length}")
        if upload.fencing_token > 1:  # the last insert of an older import may have arrived meanwhile
            await self._uploads.truncate_blocks(upload, -(-length // BLOCK_SIZE))

    async def _commit(self, upload: UploadHandle, info: MediaInfo, replaced: MediaInfo | None) -> None:
        key, name = upload_key(upload), MediaName(info.folder, info.filename)
        files_entry = documents.encode_files_entry(name, info.length, info.content_type, info.sha256, info.uploaded_at)
        await self._chunk_store.write_files_entry(key.file_id, files_entry)
        condition, update = import_updates.commit_import(
            key.record_id,
            info,
            await self._floors.get(name),
            ObjectId(replaced.file_id) if replaced else None,
            await self._posters.find(key.file_id, info.poster_etag),
            self._timings,
        )
        query = {**documents.fenced_filter(key, name, upload.fencing_token), **condition}
        async with map_mongo_errors():
            committed = await self._media.find_one_and_update(
                query, update, {"_id": 1}, return_document=ReturnDocument.AFTER
            )
        if committed is None:
            raise Conflict(CHANGED_MEANWHILE)
        for owner in {info.owner, replaced.owner if replaced else ""} - {""}:
            await self._quotas.forget(owner)


def _parse_id(text: str) -> ObjectId:
    try:
        return ObjectId(text)
    except InvalidId:
        raise BadRequest("an id of the file has not the form of this store's") from None
