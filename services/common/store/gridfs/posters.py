"""Posters in the collection `posters`: one document each, found by the id of the bytes that it is a picture of.

So a poster goes wherever these bytes go, and is deleted with them. A new one is written beside the old one, and `current.poster` of
the `media` document says which of them counts.
"""

from datetime import datetime
from typing import Any

from bson import Binary, ObjectId

from services.common.media import MediaInfo, Poster
from services.common.store.gridfs.mongo import MongoDatabase, map_mongo_errors

Document = dict[str, Any]


class PosterCollection:
    """The posters of all files."""

    def __init__(self, mongo: MongoDatabase) -> None:
        self._posters = mongo.collection("posters")

    async def write(self, file_id: ObjectId, poster: Poster) -> Document:
        """Store a poster, and return the value of `current.poster` that names it."""
        poster_id = f"{file_id}-{ObjectId()}"
        entry = {"_id": poster_id, "etag": poster.etag, "type": poster.content_type, "data": Binary(poster.data)}
        async with map_mongo_errors():
            await self._posters.replace_one({"_id": poster_id}, entry, upsert=True)
        return {"id": poster_id, "etag": poster.etag, "length": len(poster.data)}

    async def read(self, info: MediaInfo) -> Poster | None:
        """Return the poster that a description names, None where it is not there any more."""
        if info.poster_etag is None:
            return None
        query = {**_of_file(ObjectId(info.file_id)), "etag": info.poster_etag}
        async with map_mongo_errors():
            entry = await self._posters.find_one(query)
        if entry is None:
            return None
        sha256 = entry["etag"].removeprefix('"sha256-').removesuffix('"')
        return Poster(bytes(entry["data"]), entry["type"], sha256)

    async def find(self, file_id: ObjectId, etag: str | None) -> Document | None:
        """Return the value of `current.poster` that names the poster of a file with that entity tag, None where there is none."""
        if etag is None:
            return None
        async with map_mongo_errors():
            fields = {"length": {"$binarySize": "$data"}}
            entry = await self._posters.find_one({**_of_file(file_id), "etag": etag}, fields)
        return entry and {"id": entry["_id"], "etag": etag, "length": entry["length"]}

    async def delete(self, named: Document) -> None:
        """Delete the poster that a value of `current.poster` names."""
        async with map_mongo_errors():
            await self._posters.delete_one({"_id": named["id"]})

    async def list_older(self, after: str, before: datetime, limit: int) -> tuple[str, set[ObjectId]]:
        """Return the files of posters that were written before a time, of the next `limit` ones, and where to continue."""
        async with map_mongo_errors():
            query = {"_id": {"$gt": after}}
            rows = await self._posters.find(query, {"_id": 1}).sort("_id", 1).limit(limit).to_list(limit)
        ids = [row["_id"].partition("-") for row in rows]
        older = {ObjectId(file_id) for file_id, _, own_id in ids if ObjectId(own_id).generation_time < before}
        return rows[-1]["_id"] if len(rows) == limit else "", older

    async def delete_of(self, file_id: ObjectId) -> None:
        """Delete all posters of a file."""
        async with map_mongo_errors():
            await self._posters.delete_many(_of_file(file_id))


def _of_file(file_id: ObjectId) -> Document:
    """A filter for the posters of one file: a range of the index, because "." follows "-"."""
    return {"_id": {"$gte": f"{file_id}-", "$lt": f"{file_id}."}}
