"""Writes media into MongoDB: chunks by insert, every change of state as one fenced update of the `media` document.

No transactions: a standalone server, a replica set and a sharded cluster are the same here. It knows no HTTP.
"""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from bson import ObjectId
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, OperationFailure

from services.common.errors import Conflict, NotUnique, TooMany, Unavailable
from services.common.media import MediaInfo, MediaName
from services.common.mongo import Mongo, translated
from services.common.store import documents
from services.common.store.gridfs_read import BLOCK_SIZE
from services.common.store.port import Announcement, Upload, Written

INDEXES: dict[str, list[tuple[str, list[tuple[str, int]], bool]]] = {
    "media": [("name", [("folder", 1), ("filename", 1)], True)],
    "fs.chunks": [("files_id_1_n_1", [("files_id", 1), ("n", 1)], True)],
    "fs.files": [("filename_1_uploadDate_1", [("filename", 1), ("uploadDate", 1)], False)],
}
"""Name, keys, unique. The last two are GridFS's own, with the names that drivers give them."""
BEGIN_TRIES = 20
"""Racing upserts of one new name lose against each other with a duplicate key and find the document at the next try."""
OUTCOME_SECONDS = 8.0
"""How long a commit whose outcome is unknown is asked after before the answer is 503."""
DELETE_BLOCKS = 512
"""Chunks deleted by one command (128 MiB), so that none outlives its time limit."""

_log = logging.getLogger("gridcast.store")


class GridFSStore:
    """An `UploadStore` over the GridFS layout."""

    block_size = BLOCK_SIZE

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo
        self._media = mongo.collection("media")
        self._chunks = mongo.collection("fs.chunks")
        self._files = mongo.collection("fs.files")
        self._prepared = False

    async def prepare(self) -> None:
        """Create the indexes and look whether they are there: without the unique ones nothing else holds."""
        async with translated():
            for collection, wanted in INDEXES.items():
                for name, keys, unique in wanted:
                    try:
                        await self._mongo.collection(collection).create_index(keys, name=name, unique=unique)
                    except (DuplicateKeyError, OperationFailure) as error:
                        if isinstance(error, OperationFailure) and error.code in {85, 86} | {11000}:
                            raise RuntimeError(
                                f"{collection}: the index {name} cannot be built: {error.details}"
                            ) from error
                        raise
                there = await self._mongo.indexes(collection)
                for name, _, unique in wanted:
                    if name not in there or bool(there[name].get("unique")) != unique:
                        raise RuntimeError(f"{collection}: the index {name} is missing or not unique")
        self._prepared = True

    async def check(self) -> None:
        """Whether a primary answers and the indexes are there."""
        await self._mongo.ping()
        if not self._prepared:
            raise Unavailable("the indexes are not there yet")

    async def begin(self, name: MediaName | None) -> Upload:
        """Start an upload."""
        return await self._begin(name, ObjectId(), ObjectId())

    async def _begin(self, name: MediaName | None, upload: ObjectId, file: ObjectId) -> Upload:
        document = await self._upsert(documents.key(name, upload), documents.begin(upload, file))
        if any(entry["id"] == upload for entry in document["uploads"]):
            return Upload(str(upload), str(document["_id"]), str(file), 1, name)
        if name is not None and document["current"]:
            raise NotUnique(name.folder, name.filename)
        raise TooMany(f"{documents.MAX_UPLOADS} unfinished uploads of this name are under way")

    async def _upsert(self, key: dict[str, Any], update: documents.Pipeline) -> dict[str, Any]:
        for _ in range(BEGIN_TRIES):
            try:
                async with translated():
                    document: dict[str, Any] = await self._media.find_one_and_update(
                        key, update, upsert=True, return_document=ReturnDocument.AFTER
                    )
                    return document
            except DuplicateKeyError:
                await asyncio.sleep(0)
        raise Unavailable("too many uploads of this name began at once")

    async def rename(self, upload: Upload, name: MediaName) -> Upload:
        """Enter the upload under its name, then leave the nameless document. Whoever cannot leave it has lost the upload."""
        named = await self._begin(name, ObjectId(upload.id), ObjectId(upload.file))
        async with translated():
            left = await self._media.update_one(_mine(upload), documents.drop(ObjectId(upload.id)))
            if not left.modified_count:
                await self._media.update_one(_mine(named), documents.drop(ObjectId(upload.id)))
                _lost()
            await self._media.delete_one(documents.empty(ObjectId(upload.media)))
        return named

    async def append(self, upload: Upload, first: int, blocks: Sequence[bytes]) -> None:
        """Insert chunks `first` and up."""
        file = ObjectId(upload.file)
        chunks = [{"files_id": file, "n": number, "data": block} for number, block in enumerate(blocks, first)]
        async with translated():
            await self._chunks.insert_many(chunks)

    async def renew(self, upload: Upload) -> None:
        """Prolong the lease."""
        async with translated():
            result = await self._media.update_one(_mine(upload), documents.renew(ObjectId(upload.id)))
        if not result.matched_count:
            _lost()

    async def commit(self, upload: Upload, written: Written) -> tuple[MediaInfo, Announcement]:
        """Describe the file for other tools, then make it current."""
        event = Announcement(str(ObjectId()), "file.created", upload.media)
        deadline = asyncio.get_running_loop().time() + OUTCOME_SECONDS
        try:
            document = await self._commit(upload, written, event)
        except Unavailable:
            document = await self._learn(upload, written, event, deadline)
        if document is None:
            await self._refused(upload)
        return documents.info(document), event

    async def _commit(self, upload: Upload, written: Written, event: Announcement) -> Any:
        await self._describe(upload, written)
        update = documents.commit(ObjectId(upload.id), ObjectId(upload.file), written, event.id, event.type)
        async with translated():
            return await self._media.find_one_and_update(
                {**_mine(upload), "current": None}, update, return_document=ReturnDocument.AFTER
            )

    async def _describe(self, upload: Upload, written: Written) -> None:
        """The `fs.files` entry by which mongofiles and other drivers find the file; readers of ours never look here."""
        name = upload.name or MediaName("", upload.id)
        entry = {
            "length": written.length,
            "chunkSize": BLOCK_SIZE,
            "uploadDate": datetime.now(UTC),
            "filename": f"{name.folder}/{name.filename}" if name.folder else name.filename,
            "metadata": {"contentType": written.content_type, "sha256": written.sha256},
        }
        async with translated():
            await self._files.replace_one({"_id": ObjectId(upload.file)}, entry, upsert=True)

    async def _learn(self, upload: Upload, written: Written, event: Announcement, deadline: float) -> Any:
        """What became of a commit that got no answer. Raising the fence makes sure that it cannot come later; then once again."""
        media = ObjectId(upload.media)
        while True:
            try:
                async with translated():
                    held = await self._media.update_one(_mine(upload), documents.raise_fence(ObjectId(upload.id)))
                    if not held.matched_count:
                        document = await self._media.find_one({"_id": media})
                        committed = document and any(note["id"] == event.id for note in document["announce"])
                        return document if committed else None
                upload = Upload(upload.id, upload.media, upload.file, upload.fence + 1, upload.name)
                return await self._commit(upload, written, event)
            except Unavailable:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.2)

    async def _refused(self, upload: Upload) -> NoReturn:
        async with translated():
            document = await self._media.find_one({"_id": ObjectId(upload.media)}, {"current": 1})
        if upload.name is not None and document and document["current"]:
            raise NotUnique(upload.name.folder, upload.name.filename)
        _lost()

    async def abort(self, upload: Upload) -> None:
        """Take the upload away from everyone, delete its chunks, forget it."""
        media, identifier, file = ObjectId(upload.media), ObjectId(upload.id), ObjectId(upload.file)
        async with translated():
            taken = await self._media.update_one(_mine(upload), documents.raise_fence(identifier))
            if not taken.matched_count:
                return
            await self._delete(file)
            await self._media.update_one({"_id": media}, documents.drop(identifier))
            await self._media.delete_one(documents.empty(media))

    async def _delete(self, file: ObjectId) -> None:
        await self._files.delete_one({"_id": file})
        while True:
            last = await self._chunks.find({"files_id": file}, {"n": 1}).sort("n", -1).limit(1).to_list(1)
            if not last:
                return
            await self._chunks.delete_many({"files_id": file, "n": {"$gt": last[0]["n"] - DELETE_BLOCKS}})

    async def announced(self, announcement: Announcement) -> None:
        """Forget an event that was pushed."""
        async with translated():
            await self._media.update_one(
                {"_id": ObjectId(announcement.media)}, {"$pull": {"announce": {"id": announcement.id}}}
            )


def _mine(upload: Upload) -> dict[str, Any]:
    return documents.mine(ObjectId(upload.media), ObjectId(upload.id), upload.fence)


def _lost() -> NoReturn:
    raise Conflict("this upload was taken over or has expired")
