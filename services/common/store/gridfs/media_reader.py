"""Reads media out of MongoDB: `current` of the `media` document, then chunks by number. Read-only.

`fs.files` is never read: it is there for other tools. No cursor outlives the call that opened it, so that a download that is paused
for an hour holds none; the driver repeats a query once after a lost connection.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId
from bson.errors import InvalidId

from services.common.errors import BadRequest
from services.common.media import FolderFilter, MediaInfo, MediaName, Poster
from services.common.store.errors import CorruptFile
from services.common.store.gridfs import documents, move_updates
from services.common.store.gridfs.mongo import MongoDatabase, map_mongo_errors
from services.common.store.gridfs.posters import PosterCollection
from services.common.store.limits import BLOCK_SIZE, SEARCH_SCAN_LIMIT
from services.common.store.media_reader import FolderTotals, ListQuery, MediaPage, PageKey, Sort

RESOLVE_READS = 5
"""How often a file is looked up that is moved again and again."""
FOLDER_SCAN_BATCH = 256
"""Names read by one query when folders are listed."""

_MIN_DATE = datetime(1970, 1, 1, tzinfo=UTC)
"""No file is older. A document without a current file has no date, which does not compare with one and so is left out."""
_SORT_FIELDS: dict[Sort, str] = {"time": "current.uploaded_at", "name": "filename", "size": "current.length"}


class GridFSMediaReader:
    """A `MediaReader` in the GridFS layout."""

    block_size = BLOCK_SIZE

    def __init__(self, mongo: MongoDatabase) -> None:
        self._mongo = mongo
        self._media = mongo.collection("media")
        self._chunks = mongo.collection("fs.chunks")
        self._posters = PosterCollection(mongo)

    async def check_health(self) -> None:
        """Check that a primary responds."""
        await self._mongo.ping()

    async def find(self, name: MediaName) -> MediaInfo | None:
        """Read the current file of that name from the primary."""
        async with map_mongo_errors():
            document = await self._media.find_one(
                {"folder": name.folder, "filename": name.filename}, documents.MEDIA_PROJECTION
            )
        document = await self._resolve_move(document)
        return documents.decode_media_info(document) if document and document.get("current") else None

    async def _resolve_move(self, document: documents.Document | None) -> documents.Document | None:
        """Return a document as it is now; None where its file is being moved and has arrived under its new name."""
        for _ in range(RESOLVE_READS):
            if document is None or not (moving := document.get("moving")):
                return document
            query = move_updates.target_filter(moving)
            async with map_mongo_errors():
                target = await self._media.find_one(query, {"arrived": 1, "incoming.move": 1})
                if move_updates.has_arrived(target, moving["move"]):
                    return None
                if target and target.get("incoming", {}).get("move") == moving["move"]:
                    return document
                again: documents.Document | None = await self._media.find_one(
                    move_updates.key_filter(document), documents.MEDIA_PROJECTION
                )
            # The target forgets a move after the source has.
            if again is not None and (again.get("moving") or {}).get("move") == moving["move"]:
                return again
            document = again
        return document

    async def read_poster(self, info: MediaInfo) -> Poster | None:
        """Read the document of the poster."""
        return await self._posters.read(info)

    async def read_blocks(self, info: MediaInfo, first_block: int, last_block: int) -> list[bytes]:
        """Fetch blocks in one query and check the number and length of each."""
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
            exists = bool(rows) and rows[0]["n"] == first_block
            raise CorruptFile(
                f"file {info.file_id}: chunk {first_block} {'has a wrong length' if exists else 'is missing'}"
            )
        return blocks

    async def list_files(self, list_query: ListQuery) -> MediaPage:
        """Read the index from a key on; a search ends after at most SEARCH_SCAN_LIMIT names."""
        field, descending = _SORT_FIELDS[list_query.sort], list_query.descending
        before, behind = ("$gte", "$lte") if descending else ("$lte", "$gte")
        query: dict[str, Any] = {field: {}}
        if list_query.sort == "time":
            query["current.uploaded_at"] = {"$gte": _MIN_DATE}
        else:
            query["current.length"] = {"$gte": 0}
        if list_query.folder is not None:
            query["folder"] = list_query.folder
        if list_query.readable is not None:
            query["$or"] = _folder_conditions(list_query.readable)
        order = _order_of(list_query)
        excluded: list[dict[str, Any]] = []
        if (after := list_query.after) is not None:
            if after.sort != list_query.sort:
                raise BadRequest("invalid page token 'after': it is of a list in another order")
            query[field][behind] = after.value
            excluded.append({field: after.value, "_id": {before: _parse_page_key_id(after.id)}})
            query["$nor"] = excluded
        end = await self._find_scan_end(query, order, list_query.sort) if list_query.filename_contains else None
        if end is not None:
            query[field][before] = end.value
            excluded.append({field: end.value, "_id": {"$lt" if descending else "$gt": ObjectId(end.id)}})
            query["$nor"] = excluded
        if list_query.filename_contains:
            contained = {"$regex": re.escape(list_query.filename_contains), "$options": "i"}
            query["filename"] = {**query.get("filename", {}), **contained}
        if not query[field]:  # all names
            del query[field]
        async with map_mongo_errors():
            found = (
                await self._media.find(query, documents.MEDIA_PROJECTION)
                .sort(order)
                .limit(list_query.limit + 1)
                .to_list(list_query.limit + 1)
            )
        page = found[: list_query.limit]
        shown = [await self._resolve_move(document) if document.get("moving") else document for document in page]
        return MediaPage(
            [documents.decode_media_info(document) for document in shown if document and document["current"]],
            _page_key(page[-1], list_query.sort) if len(found) > len(page) else end,
        )

    async def _find_scan_end(self, query: dict[str, Any], order: list[tuple[str, int]], sort: Sort) -> PageKey | None:
        """Return the last key that a search examines, None where the list ends before it."""
        wanted = {field: condition for field, condition in query.items() if condition}
        fields = {"filename": 1, "current.uploaded_at": 1, "current.length": 1}
        async with map_mongo_errors():
            rows = await self._media.find(wanted, fields).sort(order).skip(SEARCH_SCAN_LIMIT - 1).limit(1).to_list(1)
        return _page_key(rows[0], sort) if rows else None

    async def sum_folders(self, folders: Sequence[str]) -> list[FolderTotals]:
        """Add up the lengths in the index by size."""
        if not folders:
            return []
        match = {"folder": {"$in": list(folders)}, "current.length": {"$gte": 0}}
        group = {"_id": "$folder", "files": {"$sum": 1}, "bytes": {"$sum": "$current.length"}}
        async with map_mongo_errors():
            rows = await self._mongo.aggregate("media", [{"$match": match}, {"$group": group}], len(folders))
        found = {row["_id"]: (row["files"], row["bytes"]) for row in rows}
        return [FolderTotals(folder, *found.get(folder, (0, 0))) for folder in folders]

    async def list_folders(self, after: str | None, limit: int, readable: FolderFilter | None = None) -> list[str]:
        """Read names ordered by folder, and skip the rest of a folder that fills a whole batch."""
        found: list[str] = []
        fields = {"folder": 1, "_id": 0}
        while len(found) < limit:
            folders = {"$gt": after} if after is not None else {"$gte": ""}  # neither matches null, which is no folder
            query: dict[str, Any] = {"folder": folders, "current.uploaded_at": {"$gte": _MIN_DATE}}
            if readable is not None:
                query["$or"] = _folder_conditions(readable)
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


def _folder_conditions(readable: FolderFilter) -> list[dict[str, Any]]:
    """Return conditions of which a document's folder must meet one. A prefix is a range, for which an index can be used."""
    below = [{"folder": {"$gte": f"{tree}/", "$lt": f"{tree}0"}} for tree in sorted(readable.trees)]  # "0" follows "/"
    return [{"folder": {"$in": sorted(readable.exact | readable.trees)}}, *below]


def _order_of(list_query: ListQuery) -> list[tuple[str, int]]:
    direction = -1 if list_query.descending else 1
    order = [(_SORT_FIELDS[list_query.sort], direction), ("_id", direction)]
    # In one folder names are unique: the index of names has no ids.
    return order[:1] if list_query.sort == "name" and list_query.folder is not None else order


def _page_key(document: dict[str, Any], sort: Sort) -> PageKey:
    current = document["current"]
    values = {"time": current["uploaded_at"], "name": document["filename"], "size": current["length"]}
    return PageKey(values[sort], str(document["_id"]))


def _parse_page_key_id(text: str) -> ObjectId:
    """Raises BadRequest for text that `_page_key` has not made."""
    try:
        found = ObjectId(text)
    except InvalidId:
        raise BadRequest("invalid page token 'after'") from None
    if str(found) != text:  # upper-case digits
        raise BadRequest("invalid page token 'after'")
    return found
