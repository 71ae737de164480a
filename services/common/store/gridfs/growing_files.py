"""Files of MongoDB that are read while they grow: chunk 0 is inserted last, with the fencing token of its writer."""

from typing import Any

from bson import ObjectId
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from services.common.errors import Conflict, ServiceUnavailable
from services.common.media import MediaInfo
from services.common.store.errors import CorruptFile
from services.common.store.gridfs import documents
from services.common.store.gridfs.documents import Document, RecordKey, parse_upload_id, upload_key
from services.common.store.gridfs.mongo import MongoDatabase, map_mongo_errors
from services.common.store.growing_files import GROWING_ATTEMPTS, MAX_DURABLE_READ_BYTES, DurableBytes, check_header
from services.common.store.limits import BLOCK_SIZE
from services.common.store.upload_store import LeaseRenewer, UploadHandle


class GridFSGrowingFiles:
    """A `GrowingFiles` in the GridFS layout. `leases` checks that a handle is not void."""

    def __init__(self, mongo: MongoDatabase, leases: LeaseRenewer) -> None:
        self._media = mongo.collection("media")
        self._chunks = mongo.collection("fs.chunks")
        self._files = mongo.collection("fs.files")
        self._leases = leases

    async def place_header(self, upload: UploadHandle, header: bytes) -> None:
        """Insert chunk 0, or replace that of an older writer, in one update: a late one of that writer then matches nothing."""
        check_header(header)
        await self._leases.renew_lease(upload)
        place = {"files_id": upload_key(upload).file_id, "n": 0}
        token = upload.fencing_token
        for _ in range(GROWING_ATTEMPTS):
            try:
                async with map_mongo_errors():
                    await self._chunks.update_one(
                        {**place, "fence": {"$lt": token}}, {"$set": {"data": header, "fence": token}}, upsert=True
                    )
                    return
            except DuplicateKeyError:
                async with map_mongo_errors():
                    found = await self._chunks.find_one(place)
                if found and found.get("fence") == token and bytes(found["data"]) == header:
                    return
                if found and found.get("fence", token) >= token:
                    raise Conflict("another header of this upload was placed") from None
        raise ServiceUnavailable("too many concurrent writers of this upload")

    async def read_durable(self, upload_id: str, start: int, count: int) -> DurableBytes | None:
        """Read the document as `get_durable_info` does, then chunks, and the tail where the range reaches it."""
        if (key := parse_upload_id(upload_id)) is None:
            return None
        for _ in range(GROWING_ATTEMPTS):
            entry = await self._find_entry(key)
            if entry is None:
                return None
            offset: int = entry["offset"]
            end = min(start + min(count, MAX_DURABLE_READ_BYTES), offset)
            data = await self._read(key.record_id, entry, start, end) if start < end else b""
            if data is not None:
                return DurableBytes(data, offset, entry["length"])
        raise CorruptFile(f"upload {upload_id}: durable bytes are missing")

    async def _find_entry(self, key: RecordKey) -> Document | None:
        async with map_mongo_errors():
            query = await self._media.find_one({"_id": key.media_id}, documents.NAME_PROJECTION)
            document: Document | None = query and await self._media.find_one_and_update(
                query,
                documents.TOUCH_UPDATE,
                documents.upload_projection(key.record_id),
                return_document=ReturnDocument.AFTER,
            )
        entry = documents.find_upload(document, key.record_id) if document else None
        if document is None or entry is None or entry.get("secret") != key.secret_digest:
            return None
        return entry if entry["expires_at"] > document["now"] else None

    async def _read(self, record_id: ObjectId, entry: Document, start: int, end: int) -> bytes | None:
        """Return the bytes, None where some are not there: a newer tail has replaced this one, or the upload has ended."""
        first, tail_block = start // BLOCK_SIZE, entry["offset"] // BLOCK_SIZE
        last = min((end - 1) // BLOCK_SIZE, tail_block - 1)
        pieces: list[bytes] = []
        if first <= last:
            query = {"files_id": entry["file"], "n": {"$gte": first, "$lte": last}}
            async with map_mongo_errors():
                cursor = self._chunks.find(query, {"n": 1, "data": 1, "_id": 0}).sort("n", 1)
                rows: list[dict[str, Any]] = await cursor.batch_size(last - first + 2).to_list(last - first + 1)
            pieces = [row["data"] for row in rows]
            if [row["n"] for row in rows] != list(range(first, last + 1)) or any(
                len(piece) != BLOCK_SIZE for piece in pieces
            ):
                return None
        if end > tail_block * BLOCK_SIZE:
            tail = await self._read_tail(record_id, entry)
            if tail is None:
                return None
            pieces.append(tail)
            first = min(first, tail_block)
        skipped = start - first * BLOCK_SIZE
        return b"".join(pieces)[skipped : skipped + end - start]

    async def _read_tail(self, record_id: ObjectId, entry: Document) -> bytes | None:
        if (number := entry.get("tail_number")) is None:
            return bytes(entry["tail"] or b"")
        async with map_mongo_errors():
            chunk = await self._chunks.find_one({"files_id": record_id, "n": number}, {"data": 1})
        return None if chunk is None else bytes(chunk["data"])

    async def set_sha256(self, info: MediaInfo, sha256: str) -> bool:
        """Set it where it is null; the `fs.files` entry gets it as well."""
        file_id = ObjectId(info.file_id)
        name = {"_id": ObjectId(info.id), "folder": info.folder, "filename": info.filename}
        query = {**name, "current.file": file_id, "current.sha256": None}
        async with map_mongo_errors():
            result = await self._media.update_one(query, {"$set": {"current.sha256": sha256}})
            if not result.matched_count:
                return False
            await self._files.update_one({"_id": file_id}, {"$set": {"metadata.sha256": sha256}})
        return True
