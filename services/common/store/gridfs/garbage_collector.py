"""The janitor's half of the GridFS store: everything is decided by one update of a document, everything else may be done twice.

So any number of janitors may work at once, and one that dies leaves what the next one finds again.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from typing import Any

from bson import ObjectId

from services.common.store.gridfs import document_updates, documents
from services.common.store.gridfs.chunks import ChunkStore
from services.common.store.gridfs.documents import StoreTimings
from services.common.store.gridfs.mongo import MongoDatabase, map_mongo_errors
from services.common.store.upload_store import OutboxEvent

DUE_PAGE_SIZE = 100
"""Documents asked for at once."""
ORPHAN_SCAN_FILES = 1000
"""Files looked at by one call of `strays`."""
MIN_ORPHAN_AGE = timedelta(hours=24)
"""Far longer than any write is under way."""


class GridFSGarbageCollector:
    """A `Keeper` over the GridFS layout."""

    def __init__(self, mongo: MongoDatabase, timings: StoreTimings | None = None) -> None:
        self._mongo = mongo
        self._timings = timings or StoreTimings()
        self._media = mongo.collection("media")
        self._chunks_collection = mongo.collection("fs.chunks")
        self._files = mongo.collection("fs.files")
        self._chunk_store = ChunkStore(mongo)
        self._orphan_scan_after: ObjectId | None = None

    async def list_due(self) -> AsyncGenerator[str, None]:
        """Documents whose moment has come, by MongoDB's clock, the longest due first."""
        until = await self._server_time()
        query: dict[str, Any] = {"attention": {"$type": "date", "$lte": until}}
        after: list[dict[str, Any]] = []
        while True:
            async with map_mongo_errors():
                cursor = self._media.find({"$and": [query, *after]}, {"attention": 1})
                found = await cursor.sort([("attention", 1), ("_id", 1)]).limit(DUE_PAGE_SIZE).to_list(DUE_PAGE_SIZE)
            for document in found:
                yield str(document["_id"])
            if len(found) < DUE_PAGE_SIZE:
                return
            last = found[-1]
            same = {"attention": last["attention"], "_id": {"$gt": last["_id"]}}
            after = [{"$or": [{"attention": {"$gt": last["attention"]}}, same]}]

    async def _server_time(self) -> Any:
        async with map_mongo_errors():
            return (await self._mongo.client.admin.command("hello"))["localTime"]

    async def collect(self, media_id: str) -> int:
        """Reap, then sweep what is due, then remove a document with nothing left."""
        key = {"_id": ObjectId(media_id)}
        async with map_mongo_errors():
            await self._media.update_one(key, document_updates.expire_uploads(self._timings))
            document = await self._media.find_one(key, {"doomed": 1, "now": "$$NOW"})
        doomed = document["doomed"] if document else ()
        due = [version["file"] for version in doomed if version["due"] <= document["now"]]
        for file in due:
            await self._chunk_store.delete(file)
            async with map_mongo_errors():
                await self._media.update_one(key, document_updates.mark_purged(file, self._timings))
        async with map_mongo_errors():
            await self._media.delete_one(documents.empty_document_filter(ObjectId(media_id)))
        return len(due)

    async def list_unpublished(self, media_id: str) -> Sequence[OutboxEvent]:
        """Notes that are older than any writer's own try."""
        async with map_mongo_errors():
            fields = {"folder": 1, "filename": 1, "announce": 1, "now": "$$NOW"}
            document = await self._media.find_one({"_id": ObjectId(media_id)}, fields)
        if document is None:
            return ()
        told = timedelta(milliseconds=self._timings.outbox_retry_after_ms)
        return [
            OutboxEvent(str(note["id"]), note["type"], documents.decode_media_info(document, note["of"]))
            for note in document["announce"]
            if note["at"] + told <= document["now"]
        ]

    async def delete_orphans(self) -> int:
        """Hop from file to file over the chunks' index; delete those that no document names."""
        limit = ObjectId.from_datetime(await self._server_time() - MIN_ORPHAN_AGE)
        files: list[ObjectId] = []
        while len(files) < ORPHAN_SCAN_FILES:
            after = {"$gt": self._orphan_scan_after} if self._orphan_scan_after else {}
            query = {"files_id": {"$lt": limit, **after}}
            async with map_mongo_errors():
                found = (
                    await self._chunks_collection.find(query, {"files_id": 1})
                    .sort([("files_id", 1), ("n", 1)])
                    .limit(1)
                    .to_list(1)
                )
            if not found:
                self._orphan_scan_after = None
                break
            self._orphan_scan_after = found[0]["files_id"]
            files.append(found[0]["files_id"])
            await asyncio.sleep(0)
        strays = set(files) - await self._find_referenced(files)
        for file in strays:
            await self._chunk_store.delete(file)
        return len(strays)

    async def _find_referenced(self, file_ids: list[ObjectId]) -> set[ObjectId]:
        """Those of `files` that some document names, or another tool. A scan over the documents: this is the rare pass."""
        places = ("current.file", "uploads.file", "doomed.file")
        named: set[ObjectId] = set()
        async with map_mongo_errors():
            async for entry in self._files.find({"_id": {"$in": file_ids}}, {"_id": 1}):
                named.add(entry["_id"])
            query = {"$or": [{place: {"$in": file_ids}} for place in places]}
            async for document in self._media.find(query, dict.fromkeys(places, 1)):
                current = [document["current"]] if document["current"] else []
                named.update(each["file"] for each in (*current, *document["uploads"], *document["doomed"]))
        return named
