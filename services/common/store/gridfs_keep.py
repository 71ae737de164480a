"""The janitor's half of the GridFS store: everything is decided by one update of a document, everything else may be done twice.

So any number of janitors may work at once, and one that dies leaves what the next one finds again.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from typing import Any

from bson import ObjectId

from services.common.mongo import Mongo, translated
from services.common.store import documents, endings
from services.common.store.documents import Times
from services.common.store.gridfs_chunks import Chunks
from services.common.store.port import Announcement

PAGE = 100
"""Documents asked for at once."""
STRAY_FILES = 1000
"""Files looked at by one call of `strays`."""
STRAY_AGE = timedelta(hours=24)
"""Far longer than any write is under way."""


class GridFSKeeper:
    """A `Keeper` over the GridFS layout."""

    def __init__(self, mongo: Mongo, times: Times | None = None) -> None:
        self._mongo = mongo
        self._times = times or Times()
        self._media = mongo.collection("media")
        self._blocks = mongo.collection("fs.chunks")
        self._files = mongo.collection("fs.files")
        self._chunks = Chunks(mongo)
        self._after: ObjectId | None = None

    async def due(self) -> AsyncGenerator[str, None]:
        """Documents whose moment has come, by MongoDB's clock, the longest due first."""
        until = await self._now()
        query: dict[str, Any] = {"attention": {"$type": "date", "$lte": until}}
        after: list[dict[str, Any]] = []
        while True:
            async with translated():
                cursor = self._media.find({"$and": [query, *after]}, {"attention": 1})
                found = await cursor.sort([("attention", 1), ("_id", 1)]).limit(PAGE).to_list(PAGE)
            for document in found:
                yield str(document["_id"])
            if len(found) < PAGE:
                return
            last = found[-1]
            same = {"attention": last["attention"], "_id": {"$gt": last["_id"]}}
            after = [{"$or": [{"attention": {"$gt": last["attention"]}}, same]}]

    async def _now(self) -> Any:
        async with translated():
            return (await self._mongo.client.admin.command("hello"))["localTime"]

    async def keep(self, media: str) -> int:
        """Reap, then sweep what is due, then remove a document with nothing left."""
        key = {"_id": ObjectId(media)}
        async with translated():
            await self._media.update_one(key, endings.reap(self._times))
            document = await self._media.find_one(key, {"doomed": 1, "now": "$$NOW"})
        doomed = document["doomed"] if document else ()
        due = [version["file"] for version in doomed if version["due"] <= document["now"]]
        for file in due:
            await self._chunks.delete(file)
            async with translated():
                await self._media.update_one(key, endings.swept(file, self._times))
        async with translated():
            await self._media.delete_one(documents.empty(ObjectId(media)))
        return len(due)

    async def unannounced(self, media: str) -> Sequence[Announcement]:
        """Notes that are older than any writer's own try."""
        async with translated():
            fields = {"folder": 1, "filename": 1, "announce": 1, "now": "$$NOW"}
            document = await self._media.find_one({"_id": ObjectId(media)}, fields)
        if document is None:
            return ()
        told = timedelta(milliseconds=self._times.told)
        return [
            Announcement(str(note["id"]), note["type"], documents.info(document, note["of"]))
            for note in document["announce"]
            if note["at"] + told <= document["now"]
        ]

    async def strays(self) -> int:
        """Hop from file to file over the chunks' index; delete those that no document names."""
        limit = ObjectId.from_datetime(await self._now() - STRAY_AGE)
        files: list[ObjectId] = []
        while len(files) < STRAY_FILES:
            after = {"$gt": self._after} if self._after else {}
            query = {"files_id": {"$lt": limit, **after}}
            async with translated():
                found = (
                    await self._blocks.find(query, {"files_id": 1})
                    .sort([("files_id", 1), ("n", 1)])
                    .limit(1)
                    .to_list(1)
                )
            if not found:
                self._after = None
                break
            self._after = found[0]["files_id"]
            files.append(found[0]["files_id"])
            await asyncio.sleep(0)
        strays = set(files) - await self._named(files)
        for file in strays:
            await self._chunks.delete(file)
        return len(strays)

    async def _named(self, files: list[ObjectId]) -> set[ObjectId]:
        """Those of `files` that some document names, or another tool. A scan over the documents: this is the rare pass."""
        places = ("current.file", "uploads.file", "doomed.file")
        named: set[ObjectId] = set()
        async with translated():
            async for entry in self._files.find({"_id": {"$in": files}}, {"_id": 1}):
                named.add(entry["_id"])
            query = {"$or": [{place: {"$in": files}} for place in places]}
            async for document in self._media.find(query, dict.fromkeys(places, 1)):
                current = [document["current"]] if document["current"] else []
                named.update(each["file"] for each in (*current, *document["uploads"], *document["doomed"]))
        return named
