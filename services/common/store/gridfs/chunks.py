"""Chunks of the GridFS layout: written by insert only, removed from a number on, read back in order.

It knows the collections and nothing of `media`: who may delete is said by the `held` that the caller gives.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from bson import ObjectId
from pymongo.errors import BulkWriteError, DuplicateKeyError

from services.common.errors import Conflict, ServiceUnavailable
from services.common.store.gridfs.media_reader import BLOCK_SIZE
from services.common.store.gridfs.mongo import MongoDatabase, is_transient_code, map_mongo_errors
from services.common.store.media_reader import CorruptFile

INSERT_RETRY_SECONDS = 2.0
"""Seconds after the first failure in which an insert is tried again: a driver that waited for its time limit is not asked twice."""
DELETE_BATCH_CHUNKS = 512
"""Chunks deleted by one command (128 MiB), so that none outlives its time limit."""
READ_BATCH_CHUNKS = 16
"""Chunks fetched by one query (4 MiB) while a file is read back."""
_DUPLICATE_KEY_CODE = 11000


class ChunkStore:
    """The chunks of every file."""

    def __init__(self, mongo: MongoDatabase) -> None:
        self._chunks = mongo.collection("fs.chunks")
        self._files = mongo.collection("fs.files")

    async def insert(
        self, file_id: ObjectId, first_chunk: int, blocks: Sequence[bytes], check_lease: Callable[[], Awaitable[object]]
    ) -> None:
        """Insert chunks `first` and up; again while `held` does not raise Conflict.

        A chunk that is there already was left by an older writer, or by this one where an answer was lost. Then what stands from
        `first` on is deleted as by `truncate`, and the insert is done again. An insert is ordered, so a late one of somebody else
        stops at the first chunk that is there.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + INSERT_RETRY_SECONDS
        known = False
        while True:
            # The driver adds an _id to each document it is given: a second try needs documents of its own.
            chunks = [
                {"files_id": file_id, "n": number, "data": block} for number, block in enumerate(blocks, first_chunk)
            ]
            try:
                await self._insert_many(chunks)
            except ServiceUnavailable:
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
            await check_lease()
            await self.truncate(file_id, first_chunk, check_lease)

    async def _insert_many(self, chunks: list[dict[str, Any]]) -> None:
        async with map_mongo_errors():
            try:
                await self._chunks.insert_many(chunks)
            except DuplicateKeyError as error:
                raise Conflict("the upload was taken over by another writer") from error
            except BulkWriteError as error:
                codes = {fault.get("code") for fault in (error.details or {}).get("writeErrors", ())}
                if codes == {_DUPLICATE_KEY_CODE}:
                    raise Conflict("the upload was taken over by another writer") from error
                if all(
                    map(is_transient_code, codes)
                ):  # or none: only the write concern failed, and the outcome is unknown
                    raise ServiceUnavailable("the database is unavailable") from error
                raise

    async def truncate(self, file_id: ObjectId, first_chunk: int, check_lease: Callable[[], Awaitable[object]]) -> None:
        """Delete chunks `first` and up, the last ones first: what is left is always the beginning of the file.

        `held` raises Conflict unless the caller still holds the fence. It is asked between the look and the deletion, and only
        what was seen is deleted: whoever raises the fence after that keeps every chunk of his own, however late this one wakes up.
        """
        query = {"files_id": file_id, "n": {"$gte": first_chunk}}
        while True:
            async with map_mongo_errors():
                seen = (
                    await self._chunks.find(query, {"_id": 1})
                    .sort("n", -1)
                    .limit(DELETE_BATCH_CHUNKS)
                    .to_list(DELETE_BATCH_CHUNKS)
                )
            if not seen:
                return
            await check_lease()
            async with map_mongo_errors():
                await self._chunks.delete_many({"files_id": file_id, "_id": {"$in": [chunk["_id"] for chunk in seen]}})

    async def delete(self, file_id: ObjectId) -> None:
        """Delete a file that nobody writes: its description for other tools, then its chunks, the last ones first."""
        async with map_mongo_errors():
            await self._files.delete_one({"_id": file_id})
        while True:
            async with map_mongo_errors():
                last = await self._chunks.find({"files_id": file_id}, {"n": 1}).sort("n", -1).limit(1).to_list(1)
                if not last:
                    return
                await self._chunks.delete_many({"files_id": file_id, "n": {"$gt": last[0]["n"] - DELETE_BATCH_CHUNKS}})

    async def write_files_entry(self, file_id: ObjectId, files_entry: dict[str, Any]) -> None:
        """Write the `fs.files` entry by which mongofiles and other drivers find the file; readers of ours never look there."""
        async with map_mongo_errors():
            await self._files.replace_one({"_id": file_id}, {**files_entry, "chunkSize": BLOCK_SIZE}, upsert=True)

    async def iter_chunks(self, file_id: ObjectId, chunk_count: int) -> AsyncGenerator[bytes, None]:
        """The first `blocks` chunks, each of full size."""
        for start in range(0, chunk_count, READ_BATCH_CHUNKS):
            end = min(start + READ_BATCH_CHUNKS, chunk_count)
            query = {"files_id": file_id, "n": {"$gte": start, "$lt": end}}
            async with map_mongo_errors():
                cursor = (
                    self._chunks.find(query, {"n": 1, "data": 1, "_id": 0}).sort("n", 1).batch_size(end - start + 1)
                )
                rows = await cursor.to_list(end - start)
            if [row["n"] for row in rows] != list(range(start, end)) or any(
                len(row["data"]) != BLOCK_SIZE for row in rows
            ):
                raise CorruptFile(f"file {file_id}: chunks {start} to {end - 1} are not as they were written")
            for row in rows:
                yield row["data"]
