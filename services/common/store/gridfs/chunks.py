"""Chunks in the GridFS layout: inserted and never updated, truncated from a number on, read in order.

Whether the caller may still write is decided by the `check_lease` that it passes.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from bson import ObjectId
from pymongo.errors import BulkWriteError, DuplicateKeyError

from services.common.errors import Conflict, Gone, ServiceUnavailable
from services.common.store.errors import CorruptFile
from services.common.store.gridfs.live_garbage import LiveGarbage
from services.common.store.gridfs.mongo import MongoDatabase, is_transient_code, map_mongo_errors
from services.common.store.gridfs.posters import PosterCollection
from services.common.store.limits import BLOCK_SIZE

INSERT_RETRY_SECONDS = 2.0
"""How long after its start a failed insert is repeated: one that the driver has waited for until its time limit is not."""
DELETE_BATCH_CHUNKS = 512
"""Chunks deleted by one command (128 MiB), so that no command exceeds its time limit."""
READ_BATCH_CHUNKS = 16
"""Chunks fetched by one query (4 MiB) when an unfinished upload is hashed again."""
_DUPLICATE_KEY_CODE = 11000


class ChunkStore:
    """The chunks of every file."""

    def __init__(self, mongo: MongoDatabase) -> None:
        self._chunks = mongo.collection("fs.chunks")
        self._files = mongo.collection("fs.files")
        self._posters = PosterCollection(mongo)
        self._live = LiveGarbage(mongo)

    async def insert(
        self, file_id: ObjectId, first_chunk: int, blocks: Sequence[bytes], check_lease: Callable[[], Awaitable[object]]
    ) -> None:
        """Insert chunks from number `first_chunk` on; repeated after a lost answer, while `check_lease` does not raise Conflict.

        A chunk that exists already was left by an older writer, or by this one where an answer was lost. Then the chunks from
        `first_chunk` on are deleted as by `truncate`, and the insert is repeated. Inserts are ordered, so a late one of another
        writer stops at the first chunk that exists.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + INSERT_RETRY_SECONDS
        conflict_seen = False
        while True:
            # The driver adds an _id to each document: a second attempt needs new documents.
            chunks = [
                {"files_id": file_id, "n": number, "data": block} for number, block in enumerate(blocks, first_chunk)
            ]
            try:
                await self._insert_many(chunks)
            except ServiceUnavailable:
                if clock() > deadline:
                    raise
            except Conflict:
                # The first time, the chunk may be that of this call, whose answer was lost, however long that took.
                if conflict_seen and clock() > deadline:
                    raise
                conflict_seen = True
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
                raise Conflict("another writer has acquired this upload") from error
            except BulkWriteError as error:
                codes = {fault.get("code") for fault in (error.details or {}).get("writeErrors", ())}
                if codes == {_DUPLICATE_KEY_CODE}:
                    raise Conflict("another writer has acquired this upload") from error
                # Also without any code: only the write concern failed, and the outcome is unknown.
                if all(map(is_transient_code, codes)):
                    raise ServiceUnavailable("the database is unavailable") from error
                raise

    async def truncate(self, file_id: ObjectId, first_chunk: int, check_lease: Callable[[], Awaitable[object]]) -> None:
        """Delete chunks from number `first_chunk` on, the last ones first: what remains is always the beginning of the file.

        `check_lease` raises Conflict where the lease is lost. It is called between the query and the deletion, and only what the
        query has returned is deleted: a writer that acquires the upload after that keeps all its chunks, however late this call
        continues.
        """
        query = {"files_id": file_id, "n": {"$gte": first_chunk}}
        while True:
            async with map_mongo_errors():
                found = (
                    await self._chunks.find(query, {"_id": 1})
                    .sort("n", -1)
                    .limit(DELETE_BATCH_CHUNKS)
                    .to_list(DELETE_BATCH_CHUNKS)
                )
            if not found:
                return
            await check_lease()
            async with map_mongo_errors():
                await self._chunks.delete_many({"files_id": file_id, "_id": {"$in": [chunk["_id"] for chunk in found]}})

    async def delete(self, file_id: ObjectId) -> None:
        """Delete a file that has no writer: posters, live streams, its `fs.files` entry, then its chunks, the last ones first."""
        await self._posters.delete_of(file_id)
        await self._live.delete_of_file(file_id)
        async with map_mongo_errors():
            await self._files.delete_one({"_id": file_id})
        while True:
            async with map_mongo_errors():
                last = await self._chunks.find({"files_id": file_id}, {"n": 1}).sort("n", -1).limit(1).to_list(1)
                if not last:
                    return
                await self._chunks.delete_many({"files_id": file_id, "n": {"$gt": last[0]["n"] - DELETE_BATCH_CHUNKS}})

    async def has_chunks(self, file_id: ObjectId) -> bool:
        """Return whether a chunk of the file is stored."""
        async with map_mongo_errors():
            return await self._chunks.find_one({"files_id": file_id}, {"_id": 1}) is not None

    async def insert_tail(self, record_id: ObjectId, number: int, tail: bytes) -> None:
        """Store the tail of an unfinished upload as a chunk of the file `record_id`, which has nothing but tails."""
        async with map_mongo_errors():
            await self._chunks.insert_one({"files_id": record_id, "n": number, "data": tail})

    async def read_tail(self, record_id: ObjectId, number: int) -> bytes:
        """Return a tail. Raises Gone where it is missing."""
        async with map_mongo_errors():
            chunk = await self._chunks.find_one({"files_id": record_id, "n": number}, {"data": 1})
        if chunk is None:
            raise Gone("the stored data of this upload is corrupt; start a new upload")
        return bytes(chunk["data"])

    async def delete_tails(self, record_id: ObjectId, before: int) -> None:
        """Delete the tails with lower numbers."""
        async with map_mongo_errors():
            await self._chunks.delete_many({"files_id": record_id, "n": {"$lt": before}})

    async def write_files_entry(self, file_id: ObjectId, files_entry: dict[str, Any]) -> None:
        """Write the `fs.files` entry by which mongofiles and other drivers find the file. `GridFSMediaReader` does not use it."""
        async with map_mongo_errors():
            await self._files.replace_one({"_id": file_id}, {**files_entry, "chunkSize": BLOCK_SIZE}, upsert=True)

    async def iter_chunks(self, file_id: ObjectId, chunk_count: int) -> AsyncGenerator[bytes, None]:
        """Yield the first `chunk_count` chunks. Raises CorruptFile where one is missing or not of full size."""
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
