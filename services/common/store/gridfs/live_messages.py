"""Keeps the messages of live streams in the collection `live_messages`.

live_messages   one document for each message
    _id             the stream's id, a space, and the message's: no id has a space
    l, t, n         the stream's id, the place in milliseconds, and the number of the message
    type, data      the type, and the data as JSON
    e, at           epoch and date of the place

A message is counted in its stream's document before it is written, so that the limits hold for all processes. One that was counted
and not written costs its share until the stream is full: then, once nothing was counted for RECOUNT_AFTER_SECONDS, what is there
is counted anew.
"""

from collections.abc import Sequence
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from services.common.errors import Gone, NotFound
from services.common.store.gridfs import live_documents
from services.common.store.gridfs.documents import Document
from services.common.store.gridfs.live_documents import STATES
from services.common.store.gridfs.mongo import MongoDatabase, map_mongo_errors
from services.common.store.live_messages import (
    MAX_MESSAGE_DATA_IN_ALL,
    MAX_MESSAGES_READ,
    EpochRange,
    MessagePlace,
    NewMessage,
    NotLive,
    StoredMessage,
    TooManyMessages,
    date_of,
    file_at,
    first_place,
    place_of,
)

RECOUNT_AFTER_SECONDS = 60
"""When a message that was counted is written, or never will be: longer than any call of MongoDB may take."""

_LIVE_STATES = ["live", "interrupted"]
_STREAM_FIELDS = {"state": 1, "position": 1, "target": 1, "epochs": 1, "messages": 1, "recordings": 1}


class GridFSLiveMessages:
    """`LiveMessages` beside the streams."""

    def __init__(self, mongo: MongoDatabase) -> None:
        self._mongo = mongo
        self._live = mongo.collection("live")
        self._segments = mongo.collection("live_segments")
        self._messages = mongo.collection("live_messages")

    async def add_message(self, stream_id: str, message: NewMessage, limit: int) -> tuple[StoredMessage, bool]:
        """Count it, find its place, and insert it."""
        key = f"{stream_id} {message.id}"
        if (known := await self._find(key)) is not None:
            return known, False
        stream = await self._count(stream_id, len(message.data_json), limit)
        position, silent = stream["position"], stream["silent"] or 0
        recordings = live_documents.decode_recordings(stream)
        place = place_of(
            message.milliseconds,
            position["end"],
            position["timescale"],
            stream["state"],
            silent,
            stream["target"],
            recordings[-1].milliseconds if recordings else 0,
        )
        file = file_at(recordings, stream["epochs"], place)
        epoch = await self._find_epoch(stream_id, file, place)
        document: Document = {
            "_id": key,
            "l": stream_id,
            "t": place,
            "n": stream["messages"],
            "type": message.type,
            "data": message.data_json,
            "e": -1 - epoch["n"],
            "at": date_of(place - file.milliseconds, epoch["at"], epoch["file"], epoch["ts"]),
        }
        try:
            async with map_mongo_errors():
                await self._messages.insert_one(document)
        except DuplicateKeyError:
            known = await self._find(key)
            if known is None:  # the stream was deleted in between
                raise NotFound("there is no such stream") from None
            return known, False
        return _decode(document), True

    async def _find(self, key: str) -> StoredMessage | None:
        async with map_mongo_errors():
            document = await self._messages.find_one({"_id": key})
        return None if document is None else _decode(document)

    async def _count(self, stream_id: str, size: int, limit: int) -> Document:
        """Count a message, and return what its place is found by. Raises NotFound, NotLive, Gone, TooManyMessages."""
        stream = await self._count_if_it_fits(stream_id, size, limit)
        if stream is None and await self._recount(stream_id):
            stream = await self._count_if_it_fits(stream_id, size, limit)
        if stream is not None:
            return stream
        async with map_mongo_errors():
            found = await self._live.find_one({"_id": stream_id, "state": {"$in": STATES}}, {"state": 1})
        if found is None:
            raise NotFound("there is no such stream")
        if found["state"] == "waiting":
            raise NotLive
        raise Gone("this stream has ended") if found["state"] == "ended" else TooManyMessages()

    async def _count_if_it_fits(self, stream_id: str, size: int, limit: int) -> Document | None:
        """Count a message, unless the stream is full or not live."""
        number, lost, size_in_all = (
            {"$ifNull": [f"${name}", 0]} for name in ("messages", "messages_lost", "message_bytes")
        )
        fits = [
            {"$lt": [{"$subtract": [number, lost]}, limit]},
            {"$lte": [size_in_all, MAX_MESSAGE_DATA_IN_ALL - size]},
        ]
        async with map_mongo_errors():
            stream = await self._live.find_one_and_update(
                {"_id": stream_id, "state": {"$in": _LIVE_STATES}, "$expr": {"$and": fits}},
                {"$inc": {"messages": 1, "message_bytes": size}, "$currentDate": {"counted_at": True}},
                {**_STREAM_FIELDS, "silent": {"$subtract": ["$$NOW", "$advanced_at"]}},
                return_document=ReturnDocument.AFTER,
            )
        return None if stream is None else dict(stream)

    async def _recount(self, stream_id: str) -> bool:
        """Count the messages of a full stream as they are stored. False where one that was counted may still be written."""
        settled = {"$lte": ["$counted_at", {"$subtract": ["$$NOW", RECOUNT_AFTER_SECONDS * 1000]}]}
        query = {"_id": stream_id, "state": {"$in": _LIVE_STATES}, "$expr": settled}
        stages: list[Document] = [
            {"$match": {"l": stream_id}},
            {"$group": {"_id": None, "count": {"$sum": 1}, "bytes": {"$sum": {"$strLenBytes": "$data"}}}},
        ]
        async with map_mongo_errors():
            if (stream := await self._live.find_one(query, {"messages": 1})) is None:
                return False
            sums = await self._mongo.aggregate("live_messages", stages)
            count, size_in_all = (sums[0]["count"], sums[0]["bytes"]) if sums else (0, 0)
            number = stream.get("messages", 0)  # it goes on: the numbers of messages stay unique
            result = await self._live.update_one(
                {**query, "messages": number},
                {
                    "$set": {"messages_lost": number - count, "message_bytes": size_in_all},
                    "$currentDate": {"counted_at": True},  # the next count is due as long after this one
                },
            )
        return bool(result.matched_count)

    async def _find_epoch(self, stream_id: str, file: EpochRange, place: int) -> Document:
        """The last epoch of a file that begins before a place."""
        in_file = place - file.milliseconds
        begins_before = {"$lte": [{"$multiply": ["$file", 1000]}, {"$multiply": ["$ts", in_file]}]}
        query = {"l": stream_id, "n": {"$gte": -file.end, "$lt": -file.first}, "$expr": begins_before}
        async with map_mongo_errors():
            cursor = self._segments.find(query, {"n": 1, "ts": 1, "file": 1, "at": 1})
            found = await cursor.sort("n", 1).limit(1).to_list(1)
        if not found:
            raise NotLive
        return dict(found[0])

    async def read_messages(
        self,
        stream_id: str,
        first: int,
        end: int | None = None,
        after: MessagePlace | None = None,
        limit: int = MAX_MESSAGES_READ,
    ) -> Sequence[StoredMessage]:
        """Read an index from a place on."""
        start = first_place(first, after)
        times: dict[str, Any] = (
            {"$gte": start.milliseconds} if end is None else {"$gte": start.milliseconds, "$lt": end}
        )
        behind = [{"t": {"$gt": start.milliseconds}}, {"n": {"$gt": start.number}}]
        count = min(limit, MAX_MESSAGES_READ)
        if count <= 0:
            return ()
        async with map_mongo_errors():
            cursor = self._messages.find({"l": stream_id, "t": times, "$or": behind}).sort([("t", 1), ("n", 1)])
            found = await cursor.limit(count).to_list(count)
        return [_decode(document) for document in found]


def _decode(document: Document) -> StoredMessage:
    place = MessagePlace(document["t"], document["n"])
    _, _, message_id = document["_id"].partition(" ")
    return StoredMessage(message_id, document["type"], document["data"], place, document["e"], document["at"])
