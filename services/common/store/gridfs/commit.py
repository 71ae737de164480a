"""Commit and delete: the changes whose outcome must be known. An answer that was lost is read back before anything is said.

What is read may not be in the journal yet, and would be gone after a kill. So every look is a journalled write to the same
document: when that is acknowledged, all that it saw is durable too.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from bson import ObjectId
from pymongo import ReturnDocument

from services.common.errors import Conflict, PreconditionFailed, ServiceUnavailable
from services.common.media import MediaName
from services.common.store.gridfs import document_updates, documents
from services.common.store.gridfs.documents import Document, StoreTimings
from services.common.store.gridfs.mongo import MongoDatabase, map_mongo_errors
from services.common.store.upload_store import OutboxEvent, Preconditions, StoredFile, UploadHandle

RESOLVE_TIMEOUT_SECONDS = 6.0
"""How long a change whose outcome is unknown is asked after before the answer is 503."""
ATTEMPT_TIMEOUT_SECONDS = 4.0
"""One try, shorter than any other step: a change that nobody answered must be asked after before the client hears 503."""
T = TypeVar("T")


class Committer:
    """What readers notice."""

    def __init__(self, mongo: MongoDatabase, timings: StoreTimings) -> None:
        self._media = mongo.collection("media")
        self._timings = timings

    async def commit(
        self, upload: UploadHandle, stored_file: StoredFile, preconditions: Preconditions
    ) -> OutboxEvent | None:
        """Make the file current; None where `current` is not as expected. Raises Conflict where the fence was lost."""
        media, identifier, name = ObjectId(upload.media_id), ObjectId(upload.record_id), upload.name
        event, holder = ObjectId(), ObjectId()
        fence = upload.fencing_token
        condition, update = document_updates.commit_upload(
            identifier, ObjectId(upload.file_id), stored_file, event, self._timings, preconditions
        )
        raising = documents.increment_fencing_token(identifier, holder, self._timings)

        async def attempt() -> OutboxEvent | None:
            held = documents.fenced_filter(media, name, identifier, fence)
            document = await self._find_and_update({**held, **condition}, update)
            if document is None:
                await self._check_fencing_token(held)
                return None
            return _find_event(document, event)

        async def resolve_outcome() -> OutboxEvent | None:
            """Raise the fence, so that the commit cannot come any more; where that fails, look why."""
            nonlocal fence
            if await self._find_and_update(documents.fenced_filter(media, name, identifier, fence), raising):
                fence += 1
                return None
            document = await self._read_durable(documents.document_filter(media, name, identifier))
            if (found := _find_event(document, event)) is not None:
                return found
            entry = documents.find_upload(document, identifier)
            if entry is not None and entry["holder"] == holder:
                fence = entry["fence"]
                return None
            if entry is None and any(end["id"] == identifier for end in document["ended"]):
                raise ServiceUnavailable("the outcome of the commit is unknown")
            raise Conflict("this upload was taken over or has expired")

        return await _run_until_resolved(attempt, resolve_outcome)

    async def _check_fencing_token(self, fenced_filter: Document) -> None:
        """Raises Conflict where a commit matched nothing because of its fence, not of what stands under the name."""
        async with map_mongo_errors():
            if await self._media.find_one(fenced_filter, {"_id": 1}) is None:
                raise Conflict("this upload was taken over or has expired")

    async def delete(self, name: MediaName, preconditions: Preconditions) -> OutboxEvent | None:
        """Make the current file invisible, None where there is none. Raises PreconditionFailed."""
        event = ObjectId()
        key = documents.name_filter(name, event)
        update = document_updates.delete_current(event, self._timings)
        async with map_mongo_errors():
            before = await self._media.find_one(key, {"current": 1})
        if before is None or before["current"] is None:
            return None
        place = {"_id": before["_id"], **key}
        # The version that was seen, so that a second try cannot delete one that came after it.
        pinned = {
            **place,
            "current.file": before["current"]["file"],
            "$expr": documents.preconditions_hold(preconditions),
        }

        async def attempt() -> OutboxEvent | None:
            document = await self._find_and_update(pinned, update)
            return _find_event(document, event) if document else None

        async def resolve_outcome() -> OutboxEvent | None:
            return _find_event(await self._read_durable(place), event)

        # Where nothing matched, the first try may have arrived after it was asked after.
        done = await _run_until_resolved(attempt, resolve_outcome) or await resolve_outcome()
        if done is None:
            raise PreconditionFailed("the file was changed concurrently or does not match the precondition")
        return done

    async def _find_and_update(self, query: Document, update: documents.Pipeline) -> Document | None:
        async with map_mongo_errors():
            found: Document | None = await self._media.find_one_and_update(
                query, update, return_document=ReturnDocument.AFTER
            )
            return found

    async def _read_durable(self, query: Document) -> Document:
        """The document as it durably is."""
        document = await self._find_and_update(query, documents.TOUCH_UPDATE)
        return document or {"current": None, "uploads": [], "ended": [], "doomed": [], "announce": []}


def _find_event(document: Document, event_id: ObjectId) -> OutboxEvent | None:
    """The event, where the document says that it happened."""
    for note in document["announce"]:
        if note["id"] == event_id:
            return OutboxEvent(str(event_id), note["type"], documents.decode_media_info(document, note["of"]))
    return None


async def _run_until_resolved(
    attempt: Callable[[], Awaitable[T | None]], resolve_outcome: Callable[[], Awaitable[T | None]]
) -> T | None:
    """The result of `once`; where it got no answer, that of `learn`, and where there is none yet `once` again."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + RESOLVE_TIMEOUT_SECONDS
    doing: Callable[[], Awaitable[T | None]] = attempt
    while True:
        try:
            async with asyncio.timeout(ATTEMPT_TIMEOUT_SECONDS):
                result = await doing()
        except (ServiceUnavailable, TimeoutError) as error:
            if clock() > deadline:
                raise ServiceUnavailable("the outcome of the write is unknown") from error
            doing = resolve_outcome
            await asyncio.sleep(0.2)
            continue
        if doing is attempt or result is not None:
            return result
        doing = attempt
