"""Reads media out of MongoDB: `current` of the `media` document, then chunks by number. It writes nothing and knows no HTTP.

`fs.files` is never read: it is there for other tools. No cursor outlives the call that opened it, so that a reader who pauses for
an hour holds none; the driver repeats a query once whose connection was lost.
"""

import re
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId

from services.common.media import MediaInfo, MediaName
from services.common.store.gridfs import documents
from services.common.store.gridfs.mongo import MongoDatabase, map_mongo_errors
from services.common.store.media_reader import CorruptFile, ListQuery, MediaPage, PageKey

BLOCK_SIZE = 255 * 1024
"""Bytes of a chunk: GridFS's default, so that every other tool can read what stands here."""
SEARCH_SCAN_LIMIT = 10_000
"""Names that one page of a search looks at: some 10 ms of the database."""
FOLDER_SCAN_BATCH = 256
"""Names that are read at once in search of folders."""

_MIN_DATE = datetime(1970, 1, 1, tzinfo=UTC)
"""No file is older; and what is no date at all, because there is no file, is not in order with it."""
_MEDIA_PROJECTION = {"folder": 1, "filename": 1, "current": 1}
_NEWEST_FIRST = [("current.uploaded_at", -1), ("_id", -1)]


class GridFSMediaReader:
    """A `MediaReader` over the GridFS layout."""

    block_size = BLOCK_SIZE

    def __init__(self, mongo: MongoDatabase) -> None:
        self._mongo = mongo
        self._media = mongo.collection("media")
        self._chunks = mongo.collection("fs.chunks")

    async def check_health(self) -> None:
        """Whether a primary answers."""
        await self._mongo.ping()

    async def find(self, name: MediaName) -> MediaInfo | None:
        """The current file of that name, read from the primary."""
        async with map_mongo_errors():
            document = await self._media.find_one({"folder": name.folder, "filename": name.filename}, _MEDIA_PROJECTION)
        return documents.decode_media_info(document) if document and document.get("current") else None

    async def read_blocks(self, info: MediaInfo, first_block: int, last_block: int) -> list[bytes]:
        """Blocks in one query, each checked for its number and its length."""
        query = {"files_id": ObjectId(info.file_id), "n": {"$gte": first_block, "$lte": last_block}}
        async with map_mongo_errors():
            cursor = (
                self._chunks.find(query, {"n": 1, "data": 1, "_id": 0})
                .sort("n", 1)
                .batch_size(last_block - first_block + 2)
            )
            rows: list[dict[str, Any]] = await cursor.to_list(last_block - first_block + 1)
        blocks: list[bytes] = []
        for number, row in enumerate(rows, first_block):
            block = row["data"]
            if row["n"] != number or len(block) != min(BLOCK_SIZE, info.length - number * BLOCK_SIZE):
                break
            blocks.append(block)
        if not blocks:
            there = bool(rows) and rows[0]["n"] == first_block
            raise CorruptFile(
                f"file {info.file_id}: chunk {first_block} {'has a wrong length' if there else 'is missing'}"
            )
        return blocks

    async def list_files(self, list_query: ListQuery) -> MediaPage:
        """A look at the index from a place on; a search ends EXAMINED names further at the latest."""
        when: dict[str, Any] = {"$gte": _MIN_DATE}
        outside: list[dict[str, Any]] = []
        query: dict[str, Any] = {"current.uploaded_at": when}
        if list_query.folder is not None:
            query["folder"] = list_query.folder
        if (after := list_query.after) is not None:
            when["$lte"] = after.uploaded_at
            outside.append({"current.uploaded_at": after.uploaded_at, "_id": {"$gte": ObjectId(after.id)}})
            query["$nor"] = outside
        end = await self._find_scan_end(query) if list_query.filename_contains else None
        if end is not None:
            when["$gte"] = end.uploaded_at
            outside.append({"current.uploaded_at": end.uploaded_at, "_id": {"$lt": ObjectId(end.id)}})
            query["$nor"] = outside
        if list_query.filename_contains:
            query["filename"] = {"$regex": re.escape(list_query.filename_contains), "$options": "i"}
        async with map_mongo_errors():
            found = (
                await self._media.find(query, _MEDIA_PROJECTION)
                .sort(_NEWEST_FIRST)
                .limit(list_query.limit + 1)
                .to_list(list_query.limit + 1)
            )
        shown = found[: list_query.limit]
        return MediaPage(
            [documents.decode_media_info(document) for document in shown],
            _page_key(shown[-1]) if len(found) > len(shown) else end,
        )

    async def _find_scan_end(self, query: dict[str, Any]) -> PageKey | None:
        """The last place that a search looks at, None where it comes to the end of the list."""
        async with map_mongo_errors():
            rows = (
                await self._media.find(query, {"current.uploaded_at": 1})
                .sort(_NEWEST_FIRST)
                .skip(SEARCH_SCAN_LIMIT - 1)
                .limit(1)
                .to_list(1)
            )
        return _page_key(rows[0]) if rows else None

    async def list_folders(self, after: str | None, limit: int) -> list[str]:
        """Reads names in the order of folders, and jumps over a folder that fills what is read at once."""
        found: list[str] = []
        fields = {"folder": 1, "_id": 0}
        while len(found) < limit:
            behind = {"$gt": after} if after is not None else {"$gte": ""}  # neither matches null, which is no folder
            query = {"folder": behind, "current.uploaded_at": {"$gte": _MIN_DATE}}
            async with map_mongo_errors():
                rows = (
                    await self._media.find(query, fields)
                    .sort("folder", 1)
                    .limit(FOLDER_SCAN_BATCH)
                    .to_list(FOLDER_SCAN_BATCH)
                )
            found += dict.fromkeys(row["folder"] for row in rows)
            if len(rows) < FOLDER_SCAN_BATCH:
                break
            after = found[-1]
        return found[:limit]


def _page_key(document: dict[str, Any]) -> PageKey:
    return PageKey(document["current"]["uploaded_at"], str(document["_id"]))
