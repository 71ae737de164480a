"""Reads media out of MongoDB: `current` of the `media` document, then chunks by number. It writes nothing and knows no HTTP.

`fs.files` is never read: it is there for other tools. No cursor outlives the call that opened it, so that a reader who pauses for
an hour holds none; the driver repeats a query once whose connection was lost.
"""

from typing import Any

from bson import ObjectId

from services.common.media import MediaInfo, MediaName
from services.common.mongo import Mongo, translated
from services.common.store import documents
from services.common.store.port import BrokenFile

BLOCK_SIZE = 255 * 1024
"""Bytes of a chunk: GridFS's default, so that every other tool can read what stands here."""


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
        fields = {"folder": 1, "filename": 1, "current": 1}
        async with translated():
            document = await self._media.find_one({"folder": name.folder, "filename": name.filename}, fields)
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
