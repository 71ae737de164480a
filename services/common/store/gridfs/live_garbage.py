"""Deletes what is stored of live streams: with the bytes of their files, and what was left by processes that were killed.

The document of a stream is deleted after its segments, and marked before them, so that none of them is left without it.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime

from bson import ObjectId

from services.common.store.gridfs.documents import Document
from services.common.store.gridfs.mongo import MongoCollection, MongoDatabase, map_mongo_errors
from services.common.store.limits import ORPHAN_SCAN_FILES

FindReferenced = Callable[[list[ObjectId]], Awaitable[set[ObjectId]]]
"""Returns which of these files an upload or a version has."""
DELETE_BATCH_SEGMENTS = 10_000
"""Segments deleted by one command, so that none exceeds its time limit."""


class LiveGarbage:
    """The streams of one store, as what deletes them sees them."""

    def __init__(self, mongo: MongoDatabase) -> None:
        self._live = mongo.collection("live")
        self._segments = mongo.collection("live_segments")
        self._messages = mongo.collection("live_messages")
        self._scan_after: dict[str, str] = {}

    async def delete_stream(self, stream_id: str) -> bool:
        """Delete a stream; False where there was none."""
        async with map_mongo_errors():
            marked = await self._live.update_one(
                {"_id": stream_id, "state": {"$ne": "deleted"}}, {"$set": {"state": "deleted", "pending": b""}}
            )
        await self._purge(stream_id)
        return bool(marked.matched_count)

    async def delete_of_file(self, file_id: ObjectId) -> None:
        """Delete the streams whose bytes these were. Of one that has not become a file, its document stays until it is due."""
        for document in await self._find({"file": file_id}):
            if document["revision"] is None and document["state"] != "deleted":
                await self._delete_parts(document["_id"])
            else:
                await self.delete_stream(document["_id"])

    async def delete_left(self, now: datetime, find_referenced: FindReferenced) -> None:
        """Delete streams without a file that are due, and segments without a stream. Examines a bounded number of both."""
        for document in await self._find({"state": "deleted"}):
            await self._purge(document["_id"])
        due = await self._find({"keep_until": {"$lte": now}})
        referenced = await find_referenced([document["file"] for document in due]) if due else set()
        for document in due:
            if document["file"] not in referenced:
                await self.delete_stream(document["_id"])
        await self._delete_orphans("segments", self._segments, "n")
        await self._delete_orphans("messages", self._messages, "t")

    async def _delete_orphans(self, kind: str, parts: MongoCollection, order: str) -> None:
        """Skip from stream to stream in the index of the segments, or of the messages."""
        for _ in range(ORPHAN_SCAN_FILES):
            async with map_mongo_errors():
                query = {"l": {"$gt": self._scan_after.get(kind, "")}}
                found = await parts.find(query, {"l": 1}).sort([("l", 1), (order, 1)]).limit(1).to_list(1)
                stream_id = self._scan_after[kind] = found[0]["l"] if found else ""
                has_stream = not found or await self._live.find_one({"_id": stream_id}, {"_id": 1})
            if not found:
                return
            if not has_stream:
                await self._delete_parts(stream_id)

    async def _find(self, query: Document) -> list[Document]:
        async with map_mongo_errors():
            cursor = self._live.find(query, {"file": 1, "state": 1, "revision": 1})
            found: list[Document] = await cursor.limit(ORPHAN_SCAN_FILES).to_list(ORPHAN_SCAN_FILES)
        return found

    async def _purge(self, stream_id: str) -> None:
        await self._delete_parts(stream_id)
        async with map_mongo_errors():
            await self._live.delete_one({"_id": stream_id, "state": "deleted"})

    async def _delete_parts(self, stream_id: str) -> None:
        """Delete segments, epochs and messages."""
        async with map_mongo_errors():
            await self._messages.delete_many({"l": stream_id})
        while True:
            async with map_mongo_errors():
                last = await self._segments.find({"l": stream_id}, {"n": 1}).sort("n", -1).limit(1).to_list(1)
                if not last:
                    return
                above = last[0]["n"] - DELETE_BATCH_SEGMENTS
                await self._segments.delete_many({"l": stream_id, "n": {"$gt": above}})
