"""Reads media out of MongoDB: `current` of the `media` document, then chunks by number. It writes nothing and knows no HTTP.

`fs.files` is never read: it is there for other tools. No cursor outlives the call that opened it, so that a reader who pauses for
an hour holds none; the driver repeats a query once whose connection was lost.
"""

import re
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId

from services.common.media import MediaInfo, MediaName
from services.common.mongo import Mongo, translated
from services.common.store import documents
from services.common.store.reading import BrokenFile, Page, Place, Wanted

BLOCK_SIZE = 255 * 1024
"""Bytes of a chunk: GridFS's default, so that every other tool can read what stands here."""
EXAMINED = 10_000
"""Names that one page of a search looks at: some 10 ms of the database."""
ROWS = 256
"""Names that are read at once in search of folders."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""No file is older; and what is no date at all, because there is no file, is not in order with it."""
_FIELDS = {"folder": 1, "filename": 1, "current": 1}
_NEWEST = [("current.uploaded_at", -1), ("_id", -1)]


class GridFSReader:
    """A `MediaReader` over the GridFS layout."""

    block_size = BLOCK_SIZE

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo
        self._media = mongo.collection("media")
        self._chunks = mongo.collection("fs.chunks")

    async def check(self) -> None:
        """Whether a primary answers."""
        await self._mongo.ping()

    async def find(self, name: MediaName) -> MediaInfo | None:
        """The current file of that name, read from the primary."""
        async with translated():
            document = await self._media.find_one({"folder": name.folder, "filename": name.filename}, _FIELDS)
        return documents.info(document) if document and document.get("current") else None

    async def fetch(self, info: MediaInfo, first: int, last: int) -> list[bytes]:
        """Blocks in one query, each checked for its number and its length."""
        query = {"files_id": ObjectId(info.file), "n": {"$gte": first, "$lte": last}}
        async with translated():
            cursor = self._chunks.find(query, {"n": 1, "data": 1, "_id": 0}).sort("n", 1).batch_size(last - first + 2)
            rows: list[dict[str, Any]] = await cursor.to_list(last - first + 1)
        blocks: list[bytes] = []
        for number, row in enumerate(rows, first):
            block = row["data"]
            if row["n"] != number or len(block) != min(BLOCK_SIZE, info.length - number * BLOCK_SIZE):
                break
            blocks.append(block)
        if not blocks:
            there = bool(rows) and rows[0]["n"] == first
            raise BrokenFile(f"file {info.file}: chunk {first} {'has a wrong length' if there else 'is missing'}")
        return blocks

    async def page(self, wanted: Wanted) -> Page:
        """A look at the index from a place on; a search ends EXAMINED names further at the latest."""
        when: dict[str, Any] = {"$gte": _EPOCH}
        outside: list[dict[str, Any]] = []
        query: dict[str, Any] = {"current.uploaded_at": when}
        if wanted.folder is not None:
            query["folder"] = wanted.folder
        if (after := wanted.after) is not None:
            when["$lte"] = after.uploaded_at
            outside.append({"current.uploaded_at": after.uploaded_at, "_id": {"$gte": ObjectId(after.id)}})
            query["$nor"] = outside
        end = await self._end(query) if wanted.text else None
        if end is not None:
            when["$gte"] = end.uploaded_at
            outside.append({"current.uploaded_at": end.uploaded_at, "_id": {"$lt": ObjectId(end.id)}})
            query["$nor"] = outside
        if wanted.text:
            query["filename"] = {"$regex": re.escape(wanted.text), "$options": "i"}
        async with translated():
            found = (
                await self._media.find(query, _FIELDS).sort(_NEWEST).limit(wanted.limit + 1).to_list(wanted.limit + 1)
            )
        shown = found[: wanted.limit]
        return Page(
            [documents.info(document) for document in shown], _place(shown[-1]) if len(found) > len(shown) else end
        )

    async def _end(self, query: dict[str, Any]) -> Place | None:
        """The last place that a search looks at, None where it comes to the end of the list."""
        async with translated():
            rows = (
                await self._media.find(query, {"current.uploaded_at": 1})
                .sort(_NEWEST)
                .skip(EXAMINED - 1)
                .limit(1)
                .to_list(1)
            )
        return _place(rows[0]) if rows else None

    async def folders(self, after: str | None, limit: int) -> list[str]:
        """Reads names in the order of folders, and jumps over a folder that fills what is read at once."""
        found: list[str] = []
        fields = {"folder": 1, "_id": 0}
        while len(found) < limit:
            behind = {"$gt": after} if after is not None else {"$gte": ""}  # neither matches null, which is no folder
            query = {"folder": behind, "current.uploaded_at": {"$gte": _EPOCH}}
            async with translated():
                rows = await self._media.find(query, fields).sort("folder", 1).limit(ROWS).to_list(ROWS)
            found += dict.fromkeys(row["folder"] for row in rows)
            if len(rows) < ROWS:
                break
            after = found[-1]
        return found[:limit]


def _place(document: dict[str, Any]) -> Place:
    return Place(document["current"]["uploaded_at"], str(document["_id"]))
