"""Chunks of the GridFS layout: written by insert only, removed from a number on, read back in order.

It knows the collections and nothing of `media`: who may delete is said by the `held` that the caller gives.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from bson import ObjectId
from pymongo.errors import BulkWriteError, DuplicateKeyError

from services.common.errors import Conflict, Unavailable
from services.common.mongo import Mongo, is_transient, translated
from services.common.store.gridfs_read import BLOCK_SIZE
from services.common.store.reading import BrokenFile

AGAIN_WITHIN = 2.0
"""Seconds after the first failure in which an insert is tried again: a driver that waited for its time limit is not asked twice."""
DELETE_BLOCKS = 512
"""Chunks deleted by one command (128 MiB), so that none outlives its time limit."""
READ_BLOCKS = 16
"""Chunks fetched by one query (4 MiB) while a file is read back."""
_DUPLICATE = 11000


class Chunks:
    """The chunks of every file."""

    def __init__(self, mongo: Mongo) -> None:
        self._chunks = mongo.collection("fs.chunks")
        self._files = mongo.collection("fs.files")

    async def append(
        self, file: ObjectId, first: int, blocks: Sequence[bytes], held: Callable[[], Awaitable[object]]
    ) -> None:
        """Insert chunks `first` and up; again while `held` does not raise Conflict.

        A chunk that is there already was left by an older writer, or by this one where an answer was lost. Then what stands from
        `first` on is deleted as by `truncate`, and the insert is done again. An insert is ordered, so a late one of somebody else
        stops at the first chunk that is there.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + AGAIN_WITHIN
        known = False
        while True:
            # The driver adds an _id to each document it is given: a second try needs documents of its own.
            chunks = [{"files_id": file, "n": number, "data": block} for number, block in enumerate(blocks, first)]
            try:
                await self._insert(chunks)
            except Unavailable:
                if clock() > deadline:
                    raise
            except Conflict:
                # Seen for the first time it may be our own, whose answer was lost, however long that took.
                if known and clock() > deadline:
                    raise
                known = True
            else:
                return
            await asyncio.sleep(0.1)
            await held()
            await self.truncate(file, first, held)

    async def _insert(self, chunks: list[dict[str, Any]]) -> None:
        async with translated():
            try:
                await self._chunks.insert_many(chunks)
            except DuplicateKeyError as error:
                raise Conflict("another writer was here") from error
            except BulkWriteError as error:
                codes = {fault.get("code") for fault in (error.details or {}).get("writeErrors", ())}
                if codes == {_DUPLICATE}:
                    raise Conflict("another writer was here") from error
                if all(map(is_transient, codes)):  # or none: only the write concern failed, and the outcome is unknown
                    raise Unavailable("the database is not available") from error
                raise

    async def truncate(self, file: ObjectId, first: int, held: Callable[[], Awaitable[object]]) -> None:
        """Delete chunks `first` and up, the last ones first: what is left is always the beginning of the file.

        `held` raises Conflict unless the caller still holds the fence. It is asked between the look and the deletion, and only
        what was seen is deleted: whoever raises the fence after that keeps every chunk of his own, however late this one wakes up.
        """
        query = {"files_id": file, "n": {"$gte": first}}
        while True:
            async with translated():
                seen = (
                    await self._chunks.find(query, {"_id": 1}).sort("n", -1).limit(DELETE_BLOCKS).to_list(DELETE_BLOCKS)
                )
            if not seen:
                return
            await held()
            async with translated():
                await self._chunks.delete_many({"files_id": file, "_id": {"$in": [chunk["_id"] for chunk in seen]}})

    async def delete(self, file: ObjectId) -> None:
        """Delete a file that nobody writes: its description for other tools, then its chunks, the last ones first."""
        async with translated():
            await self._files.delete_one({"_id": file})
        while True:
            async with translated():
                last = await self._chunks.find({"files_id": file}, {"n": 1}).sort("n", -1).limit(1).to_list(1)
                if not last:
                    return
                await self._chunks.delete_many({"files_id": file, "n": {"$gt": last[0]["n"] - DELETE_BLOCKS}})

    async def describe(self, file: ObjectId, entry: dict[str, Any]) -> None:
        """Write the `fs.files` entry by which mongofiles and other drivers find the file; readers of ours never look there."""
        async with translated():
            await self._files.replace_one({"_id": file}, {**entry, "chunkSize": BLOCK_SIZE}, upsert=True)

    async def read_back(self, file: ObjectId, blocks: int) -> AsyncGenerator[bytes, None]:
        """The first `blocks` chunks, each of full size."""
        for start in range(0, blocks, READ_BLOCKS):
            end = min(start + READ_BLOCKS, blocks)
            query = {"files_id": file, "n": {"$gte": start, "$lt": end}}
            async with translated():
                cursor = (
                    self._chunks.find(query, {"n": 1, "data": 1, "_id": 0}).sort("n", 1).batch_size(end - start + 1)
                )
                rows = await cursor.to_list(end - start)
            if [row["n"] for row in rows] != list(range(start, end)) or any(
                len(row["data"]) != BLOCK_SIZE for row in rows
            ):
                raise BrokenFile(f"file {file}: chunks {start} to {end - 1} are not as they were written")
            for row in rows:
                yield row["data"]
