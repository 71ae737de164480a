"""Uploads of MongoDB that are played before they are complete: one query for the state, one for the chunks, and no write."""

from typing import Any

from bson import ObjectId
from pymongo.read_concern import ReadConcern

from services.common.store.errors import CorruptFile
from services.common.store.gridfs import documents
from services.common.store.gridfs.documents import Document
from services.common.store.gridfs.mongo import MongoDatabase, map_mongo_errors
from services.common.store.limits import BLOCK_SIZE
from services.common.store.play_addresses import PlayAddress
from services.common.store.upload_playback import GrowingUpload, PlayedFile

_NAMED_ATTEMPTS = 2
"""The document of the name, after the one that the upload had while it was nameless."""


class GridFSUploadPlayback:
    """An `UploadPlayback` in the GridFS layout."""

    def __init__(self, mongo: MongoDatabase) -> None:
        # An offset of a member that is not primary any more would be taken back: the writer does not wait for a majority.
        self._media = mongo.collection("media").with_options(read_concern=ReadConcern("majority"))
        self._chunks = mongo.collection("fs.chunks")

    async def find(self, address: PlayAddress) -> GrowingUpload | PlayedFile | None:
        """Read what the document of the name has of this upload."""
        media_id, record_id = ObjectId(address.media_id), ObjectId(address.record_id)
        for _ in range(_NAMED_ATTEMPTS):
            projection = {**documents.MEDIA_PROJECTION, **documents.play_projection(record_id)}
            async with map_mongo_errors():
                document = await self._media.find_one({"_id": media_id}, projection)
            if document is None:
                return None
            entry = documents.find_upload(document, record_id)
            if entry is not None:
                return _decode_growing(document, entry) if address.is_of(entry.get("secret")) else None
            ended = next((one for one in document.get("ended") or () if address.is_of(one.get("secret"))), None)
            if ended is None or ended["until"] <= document["now"]:
                return None
            if ended["outcome"] != "named":
                return _decode_file(document, ended)
            media_id = ended["media"]
        return None

    async def read_blocks(self, upload: GrowingUpload, first_block: int, last_block: int) -> list[bytes]:
        """Fetch chunks in one query."""
        query = {"files_id": ObjectId(upload.file_id), "n": {"$gte": first_block, "$lte": last_block}}
        count = last_block - first_block + 1
        async with map_mongo_errors():
            cursor = self._chunks.find(query, {"n": 1, "data": 1, "_id": 0}).sort("n", 1).batch_size(count + 1)
            rows: list[dict[str, Any]] = await cursor.to_list(count)
        if [row["n"] for row in rows] != list(range(first_block, last_block + 1)) or any(
            len(row["data"]) != BLOCK_SIZE for row in rows
        ):
            raise CorruptFile(
                f"file {upload.file_id}: chunks {first_block} to {last_block} are not as they were written"
            )
        return [bytes(row["data"]) for row in rows]

    async def read_tail(self, upload: GrowingUpload) -> bytes | None:
        """Return the tail that came with the state, or fetch its chunk."""
        if upload.tail is not None:
            return upload.tail
        record_id, _, number = upload.tail_key.partition("-")
        async with map_mongo_errors():
            chunk = await self._chunks.find_one({"files_id": ObjectId(record_id), "n": int(number)}, {"data": 1})
        return None if chunk is None else bytes(chunk["data"])


def _decode_growing(document: Document, entry: Document) -> GrowingUpload | None:
    if entry["expires_at"] <= document["now"]:
        return None
    file_id, number = str(entry["file"]), entry.get("tail_number")
    if number is None:
        return GrowingUpload(file_id, entry["offset"], entry["length"], bytes(entry["tail"] or b""))
    return GrowingUpload(file_id, entry["offset"], entry["length"], None, f"{entry['id']}-{number}")


def _decode_file(document: Document, ended: Document) -> PlayedFile | None:
    current = document.get("current")
    if ended["outcome"] != "stored" or current is None or current["file"] != ended.get("file"):
        return None
    return PlayedFile(documents.decode_media_info(document))
