"""Writes media into MongoDB: chunks by insert, every change of state as one fenced update of the `media` document.

No transactions: a standalone server, a replica set and a sharded cluster are the same here. It knows no HTTP.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from bson import ObjectId
from bson.errors import InvalidId
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError
from pymongo.write_concern import WriteConcern

from services.common.errors import Conflict, GridcastError, NotUnique, PreconditionFailed, TooMany, Unavailable
from services.common.media import MediaName
from services.common.mongo import Mongo, translated
from services.common.store import documents, endings, gridfs_indexes
from services.common.store.documents import Times
from services.common.store.gridfs_chunks import Chunks
from services.common.store.gridfs_outcome import Changes
from services.common.store.gridfs_read import BLOCK_SIZE
from services.common.store.port import ABSENT, ANYTHING, Announcement, Ended, Expected, Open, Plan, Upload, Written

BEGIN_TRIES = 20
"""Racing upserts of one new name lose against each other with a duplicate key and find the document at the next try."""


class GridFSStore:
    """An `UploadStore` over the GridFS layout."""

    block_size = BLOCK_SIZE

    def __init__(self, mongo: Mongo, times: Times | None = None) -> None:
        self.times = times or Times()
        self.lease = self.times.lease / 1000
        self._mongo = mongo
        self._media = mongo.collection("media")
        # The chunks are journalled before their offset is set; the offset itself need not be until somebody asks for it. Journalled
        # it took 2.2 to 4.3 ms beside the 10 to 13 ms of a batch, like this 1.4 to 2.3 ms.
        self._marks = self._media.with_options(write_concern=WriteConcern(w=1, j=False))
        self._chunks = Chunks(mongo)
        self._changes = Changes(mongo, self.times)
        self._prepared = False

    async def prepare(self) -> None:
        """Make the indexes and look whether they are there."""
        await gridfs_indexes.prepare(self._mongo)
        self._prepared = True

    async def check(self) -> None:
        """Whether a primary answers and the indexes are there."""
        await self._mongo.ping()
        if not self._prepared:
            raise Unavailable("the indexes are not there yet")

    async def free(self) -> int | None:
        """Bytes free on the volume of the database; of the fullest one where there are shards."""
        async with translated():
            stats = await self._mongo.database.command("dbStats")
        # A database that does not exist yet has a volume of 0 bytes: that says nothing.
        each = [shard for shard in stats.get("raw", {"": stats}).values() if shard.get("fsTotalSize")]
        return min((int(shard["fsTotalSize"] - shard["fsUsedSize"]) for shard in each), default=None)

    async def begin(self, name: MediaName | None, plan: Plan, expected: Expected = ABSENT) -> Upload:
        """Start an upload."""
        return await self._begin(name, ObjectId(), ObjectId(), plan, expected)

    async def _begin(
        self, name: MediaName | None, upload: ObjectId, file: ObjectId, plan: Plan, expected: Expected
    ) -> Upload:
        update = documents.begin(upload, file, ObjectId(), plan, expected, self.times)
        document = await self._upsert(documents.key(name, upload), update)
        if any(entry["id"] == upload for entry in document["uploads"]):
            return Upload(str(upload), str(document["_id"]), str(file), 1, name)
        if len(document["uploads"]) >= documents.MAX_UPLOADS:
            raise TooMany(f"{documents.MAX_UPLOADS} unfinished uploads of this name are under way")
        if len(document["doomed"]) >= documents.MAX_DOOMED:
            raise TooMany("this name was replaced too often; its old versions must be deleted first")
        if document["current"] is None:  # then the upsert may have made the document, for nobody
            async with translated():
                await self._media.delete_one(documents.empty(document["_id"]))
        raise _unexpected(name, expected)

    async def _upsert(self, key: dict[str, Any], update: documents.Pipeline) -> dict[str, Any]:
        for _ in range(BEGIN_TRIES):
            try:
                async with translated():
                    document: dict[str, Any] = await self._media.find_one_and_update(
                        key, update, upsert=True, return_document=ReturnDocument.AFTER
                    )
                    return document
            except DuplicateKeyError:
                await asyncio.sleep(0)
        raise Unavailable("too many uploads of this name began at once")

    async def rename(self, upload: Upload, name: MediaName, expected: Expected = ABSENT) -> Upload:
        """Enter the upload under its name, then leave the nameless document. Whoever cannot leave it has lost the upload."""
        identifier = ObjectId(upload.id)
        named = await self._begin(name, identifier, ObjectId(upload.file), Plan(), expected)
        async with translated():
            left = await self._media.update_one(_mine(upload), endings.leave(identifier, self.times))
            if not left.matched_count:
                await self._media.update_one(_mine(named), endings.leave(identifier, self.times))
                _lost()
            await self._media.delete_one(documents.empty(ObjectId(upload.media)))
        return named

    def age(self, address: str) -> float | None:
        """Says the upload's ObjectId."""
        found = _ids(address)
        return None if found is None else (datetime.now(UTC) - found[1].generation_time).total_seconds()

    async def peek(self, address: str) -> Open | Ended | None:
        """Read the document."""
        if (found := _ids(address)) is None:
            return None
        async with translated():
            document = await self._media.find_one({"_id": found[0]}, documents.STATE)
        return documents.state(document, found[1]) if document else None

    async def look(self, address: str) -> Open | Ended | None:
        """Read the document by a journalled write to it: when that is acknowledged, all that it saw is durable."""
        if (found := _ids(address)) is None:
            return None
        async with translated():
            place = await self._media.find_one({"_id": found[0]}, documents.PLACE)
            document = place and await self._media.find_one_and_update(
                place, documents.TOUCH, documents.STATE, return_document=ReturnDocument.AFTER
            )
        return documents.state(document, found[1]) if document else None

    async def take(self, address: str) -> tuple[Upload, Open] | Ended | None:
        """Raise the fence."""
        if (found := _ids(address)) is None:
            return None
        media, identifier = found
        update = documents.raise_fence(identifier, ObjectId(), self.times)
        async with translated():
            place = await self._media.find_one({"_id": media}, documents.PLACE)
            document = place and await self._media.find_one_and_update(
                {**place, "$expr": documents.alive(identifier)}, update, return_document=ReturnDocument.AFTER
            )
        if document is None:
            seen = await self.look(address)
            return seen if isinstance(seen, Ended) else None
        entry = documents.entry(document, identifier) or {}
        upload = Upload(str(identifier), str(media), str(entry["file"]), entry["fence"], documents.name_of(document))
        return upload, documents.opened(document, entry, writing=True)

    async def append(self, upload: Upload, first: int, blocks: Sequence[bytes]) -> None:
        """Insert chunks `first` and up."""
        await self._chunks.append(ObjectId(upload.file), first, blocks, lambda: self.renew(upload))

    async def truncate(self, upload: Upload, first: int) -> None:
        """Delete chunks `first` and up."""
        await self._chunks.truncate(ObjectId(upload.file), first, lambda: self.renew(upload))

    async def move(
        self, upload: Upload, offset: int, tail: bytes, length: int | None, *, writing: bool, moved: bool = True
    ) -> datetime:
        """Set the offset, while the tails of this name fit into its document."""
        identifier = ObjectId(upload.id)
        update = documents.move(identifier, offset, tail, length, self.times, writing=writing, moved=moved)
        query = _mine(upload) | ({"$expr": documents.room_for(identifier, tail)} if tail else {})
        async with translated():
            document = await (self._marks if writing else self._media).find_one_and_update(
                query, update, {"uploads.id": 1, "uploads.expires_at": 1}, return_document=ReturnDocument.AFTER
            )
        if document is None:
            await self.renew(upload)
            raise TooMany("the unfinished uploads of this name hold too much")
        expires: datetime = next(entry["expires_at"] for entry in document["uploads"] if entry["id"] == identifier)
        return expires

    async def renew(self, upload: Upload) -> None:
        """Prolong the lease."""
        async with translated():
            result = await self._media.update_one(_mine(upload), documents.renew(ObjectId(upload.id), self.times))
        if not result.matched_count:
            _lost()

    def read_back(self, upload: Upload, blocks: int) -> AsyncGenerator[bytes, None]:
        """What is stored."""
        return self._chunks.read_back(ObjectId(upload.file), blocks)

    async def commit(self, upload: Upload, written: Written, expected: Expected = ABSENT) -> Announcement:
        """Describe the file for other tools, then make it current."""
        if upload.fence > 1:  # an older writer's last insert may have gone past the end
            await self.truncate(upload, -(-written.length // BLOCK_SIZE))
        await self._chunks.describe(ObjectId(upload.file), _description(upload, written))
        announcement = await self._changes.commit(upload, written, expected)
        if announcement is None:
            raise _unexpected(upload.name, expected)
        return announcement

    async def abort(self, upload: Upload, *, lost: bool = False, late: bool = False) -> None:
        """Doom the upload's chunks, delete them, forget them."""
        file = ObjectId(upload.file)
        update = endings.abort(ObjectId(upload.id), file, self.times, lost=lost, late=late)
        async with translated():
            taken = await self._media.update_one(_mine(upload), update)
        if taken.matched_count:
            await self._chunks.delete(file)
            async with translated():
                await self._media.update_one({"_id": ObjectId(upload.media)}, endings.swept(file, self.times))
                await self._media.delete_one(documents.empty(ObjectId(upload.media)))

    async def delete(self, name: MediaName, expected: Expected = ANYTHING) -> Announcement | None:
        """Doom the current version."""
        return await self._changes.delete(name, expected)

    async def announced(self, announcement: Announcement) -> None:
        """Forget an event that was pushed."""
        media = ObjectId(announcement.info.id)
        async with translated():
            await self._media.update_one({"_id": media}, endings.announced(ObjectId(announcement.id), self.times))
            if announcement.type == "file.deleted":
                await self._media.delete_one(documents.empty(media))


def _mine(upload: Upload) -> dict[str, Any]:
    return documents.mine(ObjectId(upload.media), upload.name, ObjectId(upload.id), upload.fence)


def _ids(address: str) -> tuple[ObjectId, ObjectId] | None:
    media, _, upload = address.partition("-")
    try:
        return ObjectId(media), ObjectId(upload)
    except InvalidId:
        return None


def _description(upload: Upload, written: Written) -> dict[str, Any]:
    name = upload.name or MediaName("", upload.id)
    return {
        "length": written.length,
        "uploadDate": datetime.now(UTC),
        "filename": f"{name.folder}/{name.filename}" if name.folder else name.filename,
        "metadata": {"contentType": written.content_type, "sha256": written.sha256},
    }


def _unexpected(name: MediaName | None, expected: Expected) -> GridcastError:
    if expected.absent and name is not None:
        return NotUnique(name.folder, name.filename)
    return PreconditionFailed("the file is not the one that the request expects")


def _lost() -> NoReturn:
    raise Conflict("this upload was taken over or has expired")
