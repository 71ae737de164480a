"""The garbage collector of the GridFS store. Each decision is one update of a document; everything else may be done twice.

So any number of collectors may run at the same time, and what one leaves undone when it is killed, the next one finds again.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId

from services.common.store.gridfs import document_updates, documents
from services.common.store.gridfs.chunks import ChunkStore
from services.common.store.gridfs.live_garbage import LiveGarbage
from services.common.store.gridfs.mongo import MongoDatabase, map_mongo_errors
from services.common.store.gridfs.move import Mover
from services.common.store.gridfs.posters import PosterCollection
from services.common.store.gridfs.quotas import GridFSQuotas
from services.common.store.gridfs.revisions import RevisionFloors
from services.common.store.limits import DUE_PAGE_SIZE, MIN_ORPHAN_AGE, ORPHAN_SCAN_FILES
from services.common.store.quotas import NO_QUOTA, Quota
from services.common.store.timings import StoreTimings
from services.common.store.upload_store import OutboxEvent


class GridFSGarbageCollector:
    """A `GarbageCollector` in the GridFS layout."""

    def __init__(
        self,
        mongo: MongoDatabase,
        timings: StoreTimings | None = None,
        quota: Quota = NO_QUOTA,
        *,
        relays_events: bool = True,
    ) -> None:
        self._mongo = mongo
        self._relays_events = relays_events
        self._timings = timings or StoreTimings()
        self._media = mongo.collection("media")
        self._chunks_collection = mongo.collection("fs.chunks")
        self._files = mongo.collection("fs.files")
        self._chunk_store = ChunkStore(mongo)
        self._floors = RevisionFloors(mongo)
        self._mover = Mover(mongo, self._timings, relays_events=relays_events)
        self._quotas = GridFSQuotas(mongo, self._timings, quota)
        self._posters = PosterCollection(mongo)
        self._live = LiveGarbage(mongo)
        self._posters_after = ""
        self._orphan_scan_after: ObjectId | None = None

    async def list_due(self) -> AsyncGenerator[str, None]:
        """Yield the ids of documents that are due by MongoDB's clock, the longest due first."""
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
            same_time = {"attention": last["attention"], "_id": {"$gt": last["_id"]}}
            after = [{"$or": [{"attention": {"$gt": last["attention"]}}, same_time]}]

    async def _server_time(self) -> Any:
        async with map_mongo_errors():
            return (await self._mongo.client.admin.command("hello"))["localTime"]

    async def collect(self, media_id: str) -> int:
        """Settle moves, expire uploads, delete the chunks of tombstones that are due, then a document with nothing left in it."""
        await self._mover.collect(ObjectId(media_id))
        key = {"_id": ObjectId(media_id)}
        async with map_mongo_errors():
            expire = document_updates.expire_uploads(self._timings, keep_unrelayed=self._relays_events)
            await self._media.update_one(key, expire)
            document = await self._media.find_one(key, {"doomed": 1, "now": "$$NOW"})
        tombstones = document["doomed"] if document else ()
        due = [tombstone["file"] for tombstone in tombstones if tombstone["due"] <= document["now"]]
        for file_id in due:
            await self._chunk_store.delete(file_id)
            async with map_mongo_errors():
                await self._media.update_one(key, document_updates.mark_purged(file_id, self._timings))
        await self._floors.delete_if_empty(ObjectId(media_id))
        return len(due)

    async def list_unpublished(self, media_id: str) -> Sequence[OutboxEvent]:
        """Return the events that are older than any attempt of the writer itself, and those before them."""
        read_at = time.monotonic()
        async with map_mongo_errors():
            fields = {"folder": 1, "filename": 1, "announce": 1, "now": "$$NOW"}
            document = await self._media.find_one({"_id": ObjectId(media_id)}, fields)
        if document is None:
            return ()
        retry_after = timedelta(seconds=self._timings.outbox_retry_after)
        outbox = [entry for entry in document["announce"] if not entry.get("told")]
        old = [number for number, entry in enumerate(outbox, 1) if entry["at"] + retry_after <= document["now"]]
        return [documents.decode_outbox_event(document, entry, read_at) for entry in outbox[: old[-1] if old else 0]]

    async def delete_orphans(self) -> int:
        """Skip from file to file in the index of the chunks, and delete the files that no document references."""
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
        orphans = set(files) - await self._find_referenced(files)
        for file_id in orphans:
            await self._chunk_store.delete(file_id)
        await self._delete_orphaned_posters(limit.generation_time)
        await self._live.delete_left(await self._server_time(), self._find_referenced)
        return len(orphans)

    async def count_quotas(self) -> int:
        """Count in the documents of all owners."""
        return await self._quotas.count_all()

    async def _delete_orphaned_posters(self, before: datetime) -> None:
        """Delete posters whose writers were paused until the file was deleted."""
        self._posters_after, files = await self._posters.list_older(self._posters_after, before, ORPHAN_SCAN_FILES)
        for file_id in files - (await self._find_referenced(list(files)) if files else set()):
            await self._posters.delete_of(file_id)

    async def _find_referenced(self, file_ids: list[ObjectId]) -> set[ObjectId]:
        """Return the files that a document or an `fs.files` entry references.

        Scans all documents, and is called rarely for that.
        """
        fields = ("current.file", "uploads.file", "uploads.id", "doomed.file")
        referenced: set[ObjectId] = set()
        async with map_mongo_errors():
            async for entry in self._files.find({"_id": {"$in": file_ids}}, {"_id": 1}):
                referenced.add(entry["_id"])
            query = {"$or": [{field: {"$in": file_ids}} for field in fields]}
            async for document in self._media.find(query, dict.fromkeys(fields, 1)):
                # A projection of its fields leaves a `current` out that is null.
                current = [document["current"]] if document.get("current") else []
                referenced.update(version["file"] for version in (*current, *document["uploads"], *document["doomed"]))
                referenced.update(entry["id"] for entry in document["uploads"])  # their tails
        return referenced
