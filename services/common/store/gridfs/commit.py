"""Commit and delete: the changes whose outcome must be known. Where an answer was lost, the outcome is read back first.

What a plain read returns may not be in the journal yet, and would be undone by a kill. So the outcome is read by a journaled
write to the same document: once that is acknowledged, all that it returned is durable too.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

from bson import ObjectId
from pymongo import ReturnDocument

from services.common.errors import AlreadyExists, Conflict, GridcastError, PreconditionFailed, ServiceUnavailable
from services.common.media import MediaName
from services.common.store.gridfs import document_updates, documents
from services.common.store.gridfs.documents import Document, upload_key
from services.common.store.gridfs.mongo import MongoDatabase, map_mongo_errors
from services.common.store.limits import ATTEMPT_TIMEOUT_SECONDS, RESOLVE_TIMEOUT_SECONDS
from services.common.store.timings import StoreTimings
from services.common.store.upload_store import OutboxEvent, Preconditions, StoredFile, UploadHandle

T = TypeVar("T")


class Committer:
    """Makes files current and deletes them."""

    def __init__(self, mongo: MongoDatabase, timings: StoreTimings) -> None:
        self._media = mongo.collection("media")
        self._timings = timings

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
        )
        fencing_update = document_updates.increment_fencing_token(key.record_id, holder_id, self._timings)

        async def attempt() -> OutboxEvent | None:
            read_at = time.monotonic()
            fenced_filter = documents.fenced_filter(key, name, fencing_token)
            document = await self._find_and_update({**fenced_filter, **condition}, update, key.record_id)
            if document is None:
                await self._check_fencing_token(fenced_filter)
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

        return await _run_until_resolved(attempt, resolve_outcome)

    async def _check_fencing_token(self, fenced_filter: Document) -> None:
        """Raise Conflict where a commit has matched nothing because of its fencing token and not of a precondition."""
        async with map_mongo_errors():
            if await self._media.find_one(fenced_filter, {"_id": 1}) is None:
                raise Conflict("another writer has acquired this upload, or it has expired")

    async def delete(
        self, name: MediaName, preconditions: Preconditions, revision_floor: int = 0
    ) -> OutboxEvent | None:
        """Make the current file invisible, None where there is none. Raises PreconditionFailed."""
        event_id = ObjectId()
        name_filter = documents.name_filter(name, event_id)
        update = document_updates.delete_current(event_id, revision_floor, self._timings)
        async with map_mongo_errors():
            before = await self._media.find_one(name_filter, {"current": 1})
        if before is None or before["current"] is None:
            return None
        document_filter = {"_id": before["_id"], **name_filter}
        # Only the version that was found, so that a second attempt cannot delete one that came after it.
        version_filter = {
            **document_filter,
            "current.file": before["current"]["file"],
            "$expr": document_updates.preconditions_hold(preconditions),
        }

        async def attempt() -> OutboxEvent | None:
            read_at = time.monotonic()
            document = await self._find_and_update(version_filter, update, event_id)
            return documents.decode_committed_event(document, event_id, read_at) if document else None

        async def resolve_outcome() -> OutboxEvent | None:
            read_at = time.monotonic()
            return documents.decode_committed_event(
                await self._read_durable(document_filter, event_id), event_id, read_at
            )

        # Where nothing matched, the first attempt may have arrived after its outcome was read.
        event = await _run_until_resolved(attempt, resolve_outcome) or await resolve_outcome()
        if event is None:
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


async def _run_until_resolved(
    attempt: Callable[[], Awaitable[T | None]], resolve_outcome: Callable[[], Awaitable[T | None]]
) -> T | None:
    """Return the result of `attempt`.

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


def raise_lease_lost() -> NoReturn:
    """Raise the error for a void handle."""
    raise Conflict("another writer has acquired this upload, or it has expired")
