"""Commit and delete: the changes whose outcome must be known. Where an answer was lost, the outcome is read back first.

What a plain read returns may not be in the journal yet, and would be undone by a kill. So the outcome is read by a journaled
write to the same document: once that is acknowledged, all that it returned is durable too.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from bson import ObjectId
from pymongo import ReturnDocument

from services.common.errors import (
    AlreadyExists,
    Conflict,
    Gone,
    GridcastError,
    PreconditionFailed,
    ServiceUnavailable,
)
from services.common.media import MediaName, Poster
from services.common.store.delivery_store import TooManyUnrelayed
from services.common.store.gridfs import document_updates, documents, file_updates
from services.common.store.gridfs.documents import Document, upload_key
from services.common.store.gridfs.mongo import MongoDatabase, map_mongo_errors
from services.common.store.gridfs.outbox_updates import has_room_for_unrelayed
from services.common.store.gridfs.posters import PosterCollection
from services.common.store.limits import ATTEMPT_TIMEOUT_SECONDS, NOT_RESTORABLE, RESOLVE_TIMEOUT_SECONDS
from services.common.store.preconditions import Preconditions
from services.common.store.timings import StoreTimings
from services.common.store.upload_store import (
    OutboxEvent,
    StoredFile,
    UploadHandle,
)

SETTLE_ATTEMPTS = 20
"""How often one change settles moves of its file: a mover whose move is undone begins anew."""
T = TypeVar("T")


class MoveSettler(Protocol):
    """Settles moves that are in progress: until then nothing else changes the file."""

    async def settle(self, source_id: ObjectId) -> None:
        """Finish the move of the file of a document, or undo it."""


class Committer:
    """Makes files current, deletes and restores them."""

    def __init__(
        self, mongo: MongoDatabase, timings: StoreTimings, mover: MoveSettler, *, relays_events: bool = False
    ) -> None:
        self._media = mongo.collection("media")
        self._mover = mover
        self._posters = PosterCollection(mongo)
        self._timings = timings
        self._relays_events = relays_events

    async def commit(
        self, upload: UploadHandle, stored_file: StoredFile, preconditions: Preconditions, revision_floor: int = 0
    ) -> OutboxEvent | None:
        """Make the file current; None where a precondition fails. Raises Conflict where the handle is void.

        `revision_floor` is that of the name, read when its document was there already.
        """
        key, name = upload_key(upload), upload.name
        event_id, holder_id = ObjectId(), ObjectId()
        fencing_token = upload.fencing_token
        condition, update = document_updates.commit_upload(
            key.record_id,
            key.file_id,
            stored_file,
            upload.owner,
            event_id,
            revision_floor,
            self._timings,
            preconditions,
            relays_events=self._relays_events,
        )
        fencing_update = document_updates.increment_fencing_token(key.record_id, holder_id, self._timings)

        async def attempt() -> OutboxEvent | None:
            read_at = time.monotonic()
            fenced_filter = documents.fenced_filter(key, name, fencing_token)
            query = {**fenced_filter, **condition}
            document = await self._update_settled(query, update, key.record_id, fenced_filter)
            if document is None:
                await self._check_fencing_token(fenced_filter)
                await self._check_room(fenced_filter)
                return None
            return documents.decode_committed_event(document, event_id, read_at)

        async def resolve_outcome() -> OutboxEvent | None:
            """Increment the fencing token, so that the commit can no longer arrive; where that fails, find out why."""
            nonlocal fencing_token
            if await self._find_and_update(
                documents.fenced_filter(key, name, fencing_token), fencing_update, key.record_id
            ):
                fencing_token += 1
                return None
            read_at = time.monotonic()
            document = await self._read_durable(
                documents.document_filter(key.media_id, name, key.record_id), key.record_id
            )
            if (event := documents.decode_committed_event(document, event_id, read_at)) is not None:
                return event
            entry = documents.find_upload(document, key.record_id)
            if entry is not None and entry["holder"] == holder_id:
                fencing_token = entry["fence"]
                return None
            if entry is None and any(finished["id"] == key.record_id for finished in document["ended"]):
                raise ServiceUnavailable("the outcome of the commit is unknown")
            raise Conflict("another writer has acquired this upload, or it has expired")

        return await run_until_resolved(attempt, resolve_outcome)

    async def _check_fencing_token(self, fenced_filter: Document) -> None:
        """Raise Conflict where a commit has matched nothing because of its fencing token and not of a precondition."""
        async with map_mongo_errors():
            if await self._media.find_one(fenced_filter, {"_id": 1}) is None:
                raise Conflict("another writer has acquired this upload, or it has expired")

    async def _check_room(self, document_filter: Document) -> None:
        """Raise TooManyRequests where a change has matched nothing because too many events are not relayed."""
        if self._relays_events:
            async with map_mongo_errors():
                full = {**document_filter, "$expr": {"$not": [has_room_for_unrelayed()]}}
                if await self._media.find_one(full, {"_id": 1}) is not None:
                    raise TooManyUnrelayed

    async def _update_settled(
        self, query: Document, update: document_updates.Pipeline, record_id: ObjectId, key: Document
    ) -> Document | None:
        """Update the document of `key` where `query` matches it. A move of its file that is in progress is settled before.

        Raises ServiceUnavailable where it is moved again and again.
        """
        misses = 0
        for _ in range(SETTLE_ATTEMPTS):
            if (document := await self._find_and_update(query, update, record_id)) is not None:
                return document
            async with map_mongo_errors():
                found = await self._media.find_one(key, {"moving": 1})
            if found is not None and found.get("moving"):
                await self._mover.settle(found["_id"])
            elif found is None or misses:
                return None
            else:  # a move may have ended between the update and the look
                misses += 1
        raise ServiceUnavailable("the file is moved again and again")

    async def set_poster(
        self, name: MediaName, poster: Poster | None, preconditions: Preconditions, revision_floor: int = 0
    ) -> OutboxEvent | None:
        """Store the poster, then let the current file name it; None where there is no file. Raises PreconditionFailed."""
        event_id = ObjectId()
        named = documents.name_filter(name, event_id)
        async with map_mongo_errors():
            before = await self._media.find_one(named, {"current.file": 1, "current.poster": 1})
        if before is None or not before.get("current"):
            return None
        file_id, old = before["current"]["file"], before["current"].get("poster")
        written = None if poster is None else await self._posters.write(file_id, poster)
        update = file_updates.describe_current(
            event_id, written, revision_floor, self._timings, relays_events=self._relays_events
        )
        document_filter = {"_id": before["_id"], **named}
        query = {
            **document_filter,
            "current.file": file_id,
            "current.poster": old,
            "moving": None,
            "$expr": document_updates.change_allowed(preconditions, relays_events=self._relays_events),
        }

        async def attempt() -> OutboxEvent | None:
            read_at = time.monotonic()
            document = await self._update_settled(query, update, event_id, document_filter)
            return documents.decode_committed_event(document, event_id, read_at) if document else None

        async def resolve_outcome() -> OutboxEvent | None:
            read_at = time.monotonic()
            document = await self._read_durable(document_filter, event_id)
            return documents.decode_committed_event(document, event_id, read_at)

        event = await run_until_resolved(attempt, resolve_outcome) or await resolve_outcome()
        unused = written if event is None else old
        if unused is not None:
            await self._posters.delete(unused)
        if event is None:
            await self._check_room(document_filter)
            raise PreconditionFailed("the file was changed concurrently or does not match the precondition")
        return event

    async def restore(self, name: MediaName, revision_floor: int = 0) -> OutboxEvent:
        """Make the version current again that was deleted last. Raises AlreadyExists and Gone."""
        event_id = ObjectId()
        named = documents.name_filter(name, event_id)
        condition, update = file_updates.restore_deleted(
            event_id, revision_floor, self._timings, relays_events=self._relays_events
        )

        async def attempt() -> OutboxEvent | None:
            read_at = time.monotonic()
            document = await self._find_and_update({**named, **condition}, update, event_id)
            return documents.decode_committed_event(document, event_id, read_at) if document else None

        async def resolve_outcome() -> OutboxEvent | None:
            read_at = time.monotonic()
            return documents.decode_committed_event(await self._read_durable(named, event_id), event_id, read_at)

        event = await run_until_resolved(attempt, resolve_outcome) or await resolve_outcome()
        if event is not None:
            return event
        async with map_mongo_errors():
            if await self._media.find_one({**named, "current": {"$type": "object"}}, {"_id": 1}):
                raise AlreadyExists(name.folder, name.filename)
        await self._check_room({**named, "restorable": {"$type": "object"}})
        raise Gone(NOT_RESTORABLE)

    async def delete(
        self, name: MediaName, preconditions: Preconditions, revision_floor: int = 0
    ) -> OutboxEvent | None:
        """Make the current file invisible, None where there is none. Raises PreconditionFailed."""
        event_id = ObjectId()
        name_filter = documents.name_filter(name, event_id)
        update = file_updates.delete_current(event_id, revision_floor, self._timings, relays_events=self._relays_events)
        async with map_mongo_errors():
            before = await self._media.find_one(name_filter, {"current": 1, "moving": 1})
        if before is not None and before.get("moving"):
            await self._mover.settle(before["_id"])
            async with map_mongo_errors():
                before = await self._media.find_one(name_filter, {"current": 1})
        if before is None or before["current"] is None:
            return None
        document_filter = {"_id": before["_id"], **name_filter}
        # Only the version that was found, so that a second attempt cannot delete one that came after it.
        version_filter = {
            **document_filter,
            "current.file": before["current"]["file"],
            "moving": None,
            "$expr": document_updates.change_allowed(preconditions, relays_events=self._relays_events),
        }

        async def attempt() -> OutboxEvent | None:
            read_at = time.monotonic()
            document = await self._update_settled(version_filter, update, event_id, document_filter)
            return documents.decode_committed_event(document, event_id, read_at) if document else None

        async def resolve_outcome() -> OutboxEvent | None:
            read_at = time.monotonic()
            return documents.decode_committed_event(
                await self._read_durable(document_filter, event_id), event_id, read_at
            )

        # Where nothing matched, the first attempt may have arrived after its outcome was read.
        event = await run_until_resolved(attempt, resolve_outcome) or await resolve_outcome()
        if event is None:
            await self._check_room(document_filter)
            raise PreconditionFailed("the file was changed concurrently or does not match the precondition")
        return event

    async def _find_and_update(
        self, query: Document, update: document_updates.Pipeline | Document, record_id: ObjectId
    ) -> Document | None:
        async with map_mongo_errors():
            found: Document | None = await self._media.find_one_and_update(
                query, update, documents.commit_projection(record_id), return_document=ReturnDocument.AFTER
            )
            return found

    async def _read_durable(self, query: Document, record_id: ObjectId) -> Document:
        """Return the durable document; an empty one where there is none."""
        document = await self._find_and_update(query, documents.TOUCH_UPDATE, record_id)
        return document or {"current": None, "uploads": [], "ended": [], "doomed": [], "announce": []}


async def run_until_resolved(
    attempt: Callable[[], Awaitable[T | None]], resolve_outcome: Callable[[], Awaitable[T | None]]
) -> T | None:
    """Return the result of `attempt`, None where it has changed nothing.

    Where it got no answer, `resolve_outcome` is called, and where that finds that nothing was done, `attempt` again.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + RESOLVE_TIMEOUT_SECONDS
    step: Callable[[], Awaitable[T | None]] = attempt
    while True:
        try:
            async with asyncio.timeout(ATTEMPT_TIMEOUT_SECONDS):
                result = await step()
        except (ServiceUnavailable, TimeoutError) as error:
            if clock() > deadline:
                raise ServiceUnavailable("the outcome of the write is unknown") from error
            step = resolve_outcome
            await asyncio.sleep(0.2)
            continue
        if step is attempt or result is not None:
            return result
        step = attempt


def precondition_error(name: MediaName | None, preconditions: Preconditions) -> GridcastError:
    """The error for a precondition that does not hold."""
    if preconditions.must_not_exist and name is not None:
        return AlreadyExists(name.folder, name.filename)
    return PreconditionFailed("the file does not match the precondition")
