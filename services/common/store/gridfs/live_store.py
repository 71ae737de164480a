"""Keeps live streams in the collections `live` and `live_segments`.

There are no transactions: epochs and segments are written first, and count with one fenced update of the stream's document. What a
writer has left behind the position of that document is replaced by the next one, and never the other way round: each document has
the fencing token of its writer.
"""

import asyncio
import itertools
from collections.abc import Sequence

from bson import ObjectId
from pymongo import ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from services.common.errors import Conflict, Gone, GridcastError, ServiceUnavailable
from services.common.live.segments import Epoch, Segment
from services.common.media import MediaInfo, MediaName
from services.common.store.gridfs import documents, live_documents
from services.common.store.gridfs.documents import Document, parse_upload_id
from services.common.store.gridfs.live_documents import STATES, STREAM_FIELDS
from services.common.store.gridfs.live_garbage import LiveGarbage
from services.common.store.gridfs.mongo import MongoDatabase, is_transient_code, map_mongo_errors
from services.common.store.live_store import (
    DELETED,
    MAX_EPOCHS,
    MAX_INIT_BYTES_IN_ALL,
    MAX_LISTED_STREAMS,
    MAX_SEGMENTS_READ,
    STREAM_TAKEN_OVER,
    LiveProgress,
    LiveState,
    LiveStream,
    NewRecording,
    NewStream,
    TooManyEpochs,
    complete_recording,
    new_progress,
    position_at_end,
    position_of_next,
)
from services.common.store.upload_ids import format_upload_id, secret_of

WRITE_ATTEMPTS = 3
"""Two writers that insert one segment at the same time: one of them fails, and finds it at the next attempt."""
_DUPLICATE_PART = 11000


class GridFSLiveStore:
    """A `LiveStore` beside the files."""

    def __init__(self, mongo: MongoDatabase) -> None:
        self._mongo = mongo
        self._live = mongo.collection("live")
        self._segments = mongo.collection("live_segments")
        self._media = mongo.collection("media")
        self._files = mongo.collection("fs.files")
        self._garbage = LiveGarbage(mongo)
        self._steps = itertools.count()

    async def create_stream(self, stream: NewStream) -> None:
        """Insert the document, with the id of the upload's bytes."""
        file_id, identity = await self._find_bytes(stream.upload_id)
        update = live_documents.new_stream(stream, file_id, identity)
        try:
            async with map_mongo_errors():
                # The filter matches no document, so that one that is there makes the insert fail.
                await self._live.update_one({"_id": stream.id, "state": "new"}, update, upsert=True)
        except DuplicateKeyError:
            raise ValueError("the id of this stream is taken") from None

    async def _find_bytes(self, upload_id: str) -> tuple[ObjectId, ObjectId]:
        """Return the id of the bytes of an upload, and the identity of its file. Raises Gone where it is not there."""
        key, document, entry = parse_upload_id(upload_id), None, None
        if key is not None:
            fields = {**documents.upload_projection(key.record_id), "identity": 1}
            async with map_mongo_errors():
                document = await self._media.find_one({"_id": key.media_id}, fields)
            entry = document and documents.find_upload(document, key.record_id)
        if key is None or document is None or entry is None or entry.get("secret") != key.secret_digest:
            raise Gone("the upload of this stream is not there")
        return entry["file"], documents.identity_of(document)

    async def get_stream(self, stream_id: str) -> LiveStream | None:
        """Read the document, then the epochs that count."""
        async with map_mongo_errors():
            document = await self._live.find_one({"_id": stream_id, "state": {"$in": STATES}}, STREAM_FIELDS)
        return None if document is None else await self._with_epochs(document)

    async def _with_epochs(self, document: Document) -> LiveStream:
        epochs: tuple[Epoch, ...] = ()
        if count := document["epochs"]:
            query = {"l": document["_id"], "n": {"$gte": -count, "$lt": 0}}
            async with map_mongo_errors():
                rows = await self._segments.find(query).sort("n", -1).batch_size(count + 1).to_list(count)
            epochs = tuple(map(live_documents.decode_epoch, rows))
        return live_documents.decode_stream(document, epochs)

    async def find_file(self, stream: LiveStream) -> MediaInfo | None:
        """Find the document that has the file, by the identity that it keeps when it is moved."""
        if (key := parse_upload_id(stream.new.upload_id)) is None:
            return None
        file_id = ObjectId(stream.file_id)
        async with map_mongo_errors():
            noted = await self._live.find_one({"_id": stream.new.id}, {"identity": 1, "recordings.identity": 1})
            of_files = (noted, *noted.get("recordings", ())) if noted else ()
            identities = {of_file["identity"] for of_file in of_files}
            document = await self._find_document(key.media_id, file_id, *identities)
        return documents.decode_media_info(document) if document else None

    async def find_upload(self, stream: LiveStream, names: Sequence[MediaName]) -> str | None:
        """Look for the upload in the documents of the names."""
        if (key := parse_upload_id(stream.new.upload_id)) is None or not names:
            return None
        filenames = [name.filename for name in names]
        query = {"folder": names[0].folder, "filename": {"$in": filenames}, "uploads.id": key.record_id}
        async with map_mongo_errors():
            document = await self._media.find_one(query, {"_id": 1})
        if document is None:
            return None
        return format_upload_id(document["_id"], key.record_id, secret_of(stream.new.upload_id))

    async def _find_document(self, media_id: ObjectId, file_id: ObjectId, *identities: ObjectId) -> Document | None:
        """The document whose current file this is: that of the upload, that of an identity, or that of the name of the commit."""
        of_file = {"current.file": file_id}
        places: list[Document] = [{"_id": {"$in": [media_id, *identities]}}]
        places += [{"identity": identity} for identity in identities]
        for place in places:
            document: Document | None = await self._media.find_one({**place, **of_file}, documents.MEDIA_PROJECTION)
            if document is not None:
                return document
        entry = await self._files.find_one({"_id": file_id}, {"filename": 1})
        if entry is None:
            return None
        folder, _, filename = entry["filename"].rpartition("/")
        query = {"folder": folder, "filename": filename, **of_file}
        committed: Document | None = await self._media.find_one(query, documents.MEDIA_PROJECTION)
        return committed

    async def find_unended(self, name: MediaName) -> Sequence[LiveStream]:
        """Look through the documents of streams that have not ended: there are not many."""
        unended = [state for state in STATES if state != "ended"]
        query = {"state": {"$in": unended}, "folder": name.folder, "filename": name.filename}
        async with map_mongo_errors():
            cursor = self._live.find(query, STREAM_FIELDS).sort([("created_at", 1), ("_id", 1)])
            found = await cursor.limit(MAX_LISTED_STREAMS).to_list(MAX_LISTED_STREAMS)
        return [live_documents.decode_stream(document) for document in found]

    async def list_streams(
        self,
        states: Sequence[LiveState] = (),
        *,
        owner: str | None = None,
        after: str = "",
        limit: int = MAX_LISTED_STREAMS,
    ) -> Sequence[LiveStream]:
        """Read documents in the order of an index for each state."""
        query: Document = {"state": {"$in": list(states or STATES)}, "_id": {"$gt": after}}
        if owner is not None:
            query["owner"] = owner
        count = min(limit, MAX_LISTED_STREAMS)
        if count <= 0:
            return ()
        async with map_mongo_errors():
            found = await self._live.find(query, STREAM_FIELDS).sort("_id", 1).limit(count).to_list(count)
        return [live_documents.decode_stream(document) for document in found]

    async def read_segments(self, stream_id: str, first: int, limit: int = MAX_SEGMENTS_READ) -> Sequence[Segment]:
        """Read the position, then the segments up to it."""
        count = min(limit, MAX_SEGMENTS_READ)
        async with map_mongo_errors():
            query = {"_id": stream_id, "state": {"$in": STATES}}
            stream = await self._live.find_one(query, {"position.last": 1})
            if stream is None or count <= 0:
                return ()
            end = min(max(first, 0) + count - 1, stream["position"]["last"])
            numbers = {"l": stream_id, "n": {"$gte": max(first, 0), "$lte": end}}
            rows = (
                await self._segments.find(numbers, {"_id": 0, "l": 0}).sort("n", 1).batch_size(count + 1).to_list(count)
            )
        return [live_documents.decode_segment(row) for row in rows]

    async def set_publisher(self, stream_id: str, fencing_token: int, publisher: str) -> LiveStream:
        """Raise the stored fencing token."""
        async with map_mongo_errors():
            document = await self._live.find_one_and_update(
                _writable(stream_id, fencing_token),
                {"$set": {"fence": fencing_token, "publisher": publisher}},
                STREAM_FIELDS,
                return_document=ReturnDocument.AFTER,
            )
        if document is None:
            raise await self._refusal(stream_id)
        return await self._with_epochs(document)

    async def advance(self, stream_id: str, fencing_token: int, progress: LiveProgress) -> None:
        """Write epochs and segments, then the position. Of two calls of one writer a late one does not undo the other."""
        async with map_mongo_errors():
            document = await self._live.find_one(_writable(stream_id, fencing_token), {"position": 1, "epochs": 1})
        if document is None:
            raise await self._refusal(stream_id)
        new = new_progress(document["position"]["last"], document["epochs"], progress)
        position = new.position
        if position.offset < document["position"]["offset"]:
            raise ValueError("an offset before the stored one")
        if new.epochs:
            await self._check_epochs(stream_id, new.epochs)
        if parts := live_documents.parts_of(stream_id, fencing_token, new):
            await self._write([UpdateOne(query, update, upsert=True) for query, update in parts])
        step = fencing_token << 32 | next(self._steps)
        behind = {
            "step": {"$lt": step},
            "position.last": {"$lte": position.last_segment},
            "position.offset": {"$lte": position.offset},
        }
        async with map_mongo_errors():
            result = await self._live.update_one(
                {**_writable(stream_id, fencing_token), **behind}, live_documents.advance(fencing_token, step, new)
            )
        if not result.matched_count:
            raise await self._refusal(stream_id)

    async def _check_epochs(self, stream_id: str, epochs: Sequence[Epoch]) -> None:
        """Raise TooManyEpochs where these do not fit beside those before them."""
        query = {"l": stream_id, "n": {"$gt": -1 - epochs[0].number, "$lt": 0}}
        stages: list[Document] = [
            {"$match": query},
            {"$group": {"_id": None, "bytes": {"$sum": {"$binarySize": "$init"}}}},
        ]
        async with map_mongo_errors():
            sums = await self._mongo.aggregate("live_segments", stages)
        stored = sums[0]["bytes"] if sums else 0
        if epochs[-1].number >= MAX_EPOCHS or stored + sum(len(epoch.init) for epoch in epochs) > MAX_INIT_BYTES_IN_ALL:
            raise TooManyEpochs

    async def _write(self, parts: list[UpdateOne]) -> None:
        for _ in range(WRITE_ATTEMPTS):
            try:
                async with map_mongo_errors():
                    await self._segments.bulk_write(parts)
                    return
            except BulkWriteError as error:
                codes = {fault.get("code") for fault in (error.details or {}).get("writeErrors", ())}
                if codes != {_DUPLICATE_PART}:
                    # Also without any code: only the write concern failed, and the outcome is unknown.
                    if all(map(is_transient_code, codes)):
                        raise ServiceUnavailable("the database is unavailable") from error
                    raise
            await asyncio.sleep(0)
        raise Conflict(STREAM_TAKEN_OVER)

    async def _refusal(self, stream_id: str) -> GridcastError:
        """The error for a writer whose update has matched nothing."""
        async with map_mongo_errors():
            document = await self._live.find_one({"_id": stream_id}, {"state": 1})
        if document is None or document["state"] in {"deleted", "ended"}:
            return Gone("this stream has ended")
        return Conflict(STREAM_TAKEN_OVER)

    async def read_pending(self, stream_id: str) -> bytes:
        """Read one field."""
        async with map_mongo_errors():
            document = await self._live.find_one({"_id": stream_id}, {"pending": 1})
        return bytes(document["pending"]) if document else b""

    async def set_state(
        self, stream_id: str, fencing_token: int, state: LiveState, reason: str = "", revision: int | None = None
    ) -> bool:
        """Change it in one update."""
        query: Document = {"_id": stream_id, "fence": {"$lte": fencing_token}}
        query["state"] = {"$nin": ["ended", "deleted", state]}
        file_before: Document | None = None
        async with map_mongo_errors():
            if state == "ended" and revision is None and reason != DELETED:
                file_before = await self._file_before(stream_id, query)
            result = await self._live.update_one(
                query, live_documents.set_state(fencing_token, state, reason, revision, file_before)
            )
            if result.matched_count:
                if revision is not None:
                    await self._note_identity(stream_id)
                return True
            document = await self._live.find_one({"_id": stream_id}, {"fence": 1})
        if document is not None and document["fence"] > fencing_token:
            raise Conflict(STREAM_TAKEN_OVER)
        return False

    async def _file_before(self, stream_id: str, query: Document) -> Document | None:
        """Return what is to be stored of a stream whose last file has nothing; None where it has one file."""
        stream = await self._live.find_one({"_id": stream_id}, {"recordings": 1, "position": 1, "upload": 1})
        if stream is None or not stream.get("recordings"):
            return None
        query["upload"] = stream["upload"]
        at_end = position_at_end(
            live_documents.decode_recordings(stream), live_documents.decode_position(stream["position"])
        )
        return live_documents.end_at(stream["recordings"], at_end)

    async def begin_recording(
        self, stream_id: str, fencing_token: int, upload_id: str, recording: NewRecording
    ) -> bool:
        """Change the document in one update. What is read before it does not change: older writers are fenced off."""
        async with map_mongo_errors():
            document = await self._live.find_one(_writable(stream_id, fencing_token), STREAM_FIELDS)
        if document is None:
            raise await self._refusal(stream_id)
        if document["upload"] != upload_id:
            return False
        file_id, identity = await self._find_bytes(recording.upload_id)
        stream, key = live_documents.decode_stream(document), parse_upload_id(upload_id)
        async with map_mongo_errors():
            found = await self._find_document(key.media_id, document["file"]) if key else None
            before = document["identity"] if found is None else documents.identity_of(found)
            complete = complete_recording(stream, document["epochs"], recording)
            recordings = [
                *document.get("recordings", ()),
                live_documents.encode_recording(complete, document["file"], before),
            ]
            update = live_documents.begin_recording(
                fencing_token,
                recordings,
                position_of_next(stream.position),
                recording,
                {"file": file_id, "identity": identity},
            )
            query = {**_writable(stream_id, fencing_token), "upload": upload_id}
            result = await self._live.update_one(query, update)
            if result.matched_count:
                return True
            now = await self._live.find_one({"_id": stream_id}, {"upload": 1, "state": 1})
        if now is None or now["upload"] == upload_id or now["state"] in {"ended", "deleted"}:
            raise await self._refusal(stream_id)
        return False

    async def _note_identity(self, stream_id: str) -> None:
        """Note by which id the file is found when it is moved. That of its name may have changed since the stream was created."""
        stream = await self._live.find_one({"_id": stream_id}, {"upload": 1, "file": 1})
        key = parse_upload_id(stream["upload"]) if stream else None
        document = await self._find_document(key.media_id, stream["file"]) if stream and key else None
        if document is not None:
            identity = documents.identity_of(document)
            await self._live.update_one({"_id": stream_id}, {"$set": {"identity": identity}})

    async def list_idle(self, states: Sequence[LiveState], seconds: float, limit: int) -> Sequence[LiveStream]:
        """Compare with MongoDB's clock."""
        before = {"$lte": ["$idle_since", {"$subtract": ["$$NOW", int(seconds * 1000)]}]}
        query = {"state": {"$in": list(states)}, "$expr": before}
        count = min(limit, MAX_LISTED_STREAMS)
        if count <= 0:
            return ()
        async with map_mongo_errors():
            cursor = self._live.find(query, STREAM_FIELDS).sort([("idle_since", 1), ("_id", 1)])
            found = await cursor.limit(count).to_list(count)
        return [live_documents.decode_stream(document) for document in found]

    async def delete_stream(self, stream_id: str) -> bool:
        """Mark it as deleted, then delete its segments and its document."""
        return await self._garbage.delete_stream(stream_id)

    async def count_streams(self, owner: str) -> int:
        """Count in an index."""
        unended = [state for state in STATES if state != "ended"]
        async with map_mongo_errors():
            return int(await self._live.count_documents({"owner": owner, "state": {"$in": unended}}))


def _writable(stream_id: str, fencing_token: int) -> Document:
    """A filter for a stream that this writer may change."""
    return {"_id": stream_id, "state": {"$nin": ["ended", "deleted"]}, "fence": {"$lte": fencing_token}}
