"""Revisions that never fall: what is left of the revision of a name when its document is deleted.

A document with nothing in it is deleted, and its revision would begin anew with the next file of that name. So the revision is
kept in one of `REVISION_BUCKETS` documents of the collection `revisions`, chosen by the name, which holds the greatest revision of
all names whose documents were deleted. The next document of any of these names begins there. That is more than the name has had
where two names share a bucket, and it takes a fixed amount of space, however many names were used.
"""

import hashlib

from bson import ObjectId

from services.common.media import MediaName
from services.common.store.gridfs import documents
from services.common.store.gridfs.mongo import MongoDatabase, map_mongo_errors
from services.common.store.limits import REVISION_BUCKETS


class RevisionFloors:
    """The revisions below which no name of a bucket begins."""

    def __init__(self, mongo: MongoDatabase) -> None:
        self._media = mongo.collection("media")
        self._revisions = mongo.collection("revisions")

    async def get(self, name: MediaName | None) -> int:
        """Return the revision from which the name's document counts. To be read while that document exists.

        The document that was there before had written its revision before it was deleted, and so before this one was created.
        """
        if name is None:
            return 0
        async with map_mongo_errors():
            bucket = await self._revisions.find_one({"_id": _bucket(name)})
        return bucket["floor"] if bucket else 0

    async def delete_if_empty(self, media_id: ObjectId) -> None:
        """Delete the document where nothing is left in it, after its revision was kept."""
        empty = documents.empty_document_filter(media_id)
        async with map_mongo_errors():
            document = await self._media.find_one(empty, {**documents.NAME_PROJECTION, "revision": 1})
        if document is None:
            return
        revision = document.get("revision")
        if revision and (name := documents.decode_name(document)) is not None:
            async with map_mongo_errors():
                await self._revisions.update_one({"_id": _bucket(name)}, {"$max": {"floor": revision}}, upsert=True)
        async with map_mongo_errors():
            await self._media.delete_one({**empty, "revision": revision})


def _bucket(name: MediaName) -> int:
    digest = hashlib.sha256(f"{name.folder}/{name.filename}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % REVISION_BUCKETS
