"""Moves files between names: two `media` documents, of which readers see the file in exactly one at every moment.

There are no transactions on a standalone server, and names are the shard key: so a move is a protocol of single updates, which
`move_updates` explains. Every process that finds one unfinished can settle it.
"""

import logging
import time
from datetime import timedelta

from bson import ObjectId
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from services.common.errors import AlreadyExists, Conflict, PreconditionFailed, ServiceUnavailable
from services.common.media import MediaName
from services.common.store.delivery_store import TooManyUnrelayed
from services.common.store.gridfs import document_updates, documents, move_updates
from services.common.store.gridfs.commit import run_until_resolved
from services.common.store.gridfs.contention import wait_before_attempt
from services.common.store.gridfs.documents import Document
from services.common.store.gridfs.mongo import MongoDatabase, map_mongo_errors
from services.common.store.gridfs.outbox_updates import has_room_for_unrelayed
from services.common.store.gridfs.revisions import RevisionFloors
from services.common.store.preconditions import Preconditions
from services.common.store.timings import StoreTimings
from services.common.store.upload_store import (
    OutboxEvent,
)

MOVE_ATTEMPTS = 10
"""How often a move begins anew where others change its names at the same time."""

_log = logging.getLogger("gridcast.store")


class Mover:
    """Moves files, and settles moves that others have left unfinished."""

    def __init__(self, mongo: MongoDatabase, timings: StoreTimings, *, relays_events: bool = False) -> None:
        self._media = mongo.collection("media")
        self._files = mongo.collection("fs.files")
        self._floors = RevisionFloors(mongo)
        self._timings = timings
        self._relays_events = relays_events

    async def move(
        self, name: MediaName, new_name: MediaName, preconditions: Preconditions
    ) -> tuple[OutboxEvent, ...] | None:
        """Move the current file of a name; None where there is none. Raises as `FileMover.move_file`."""
        for attempt in range(MOVE_ATTEMPTS):
            # The permission that was given last counts. Without a wait, moves to one name could take it from each other each time.
            await wait_before_attempt(attempt)
            source = await self._find_source(name, preconditions)
            if source is None or source.get("current") is None:
                return None
            if source.get("moving"):
                await self.settle(source["_id"])
                continue
            if not source["holds"]:
                raise PreconditionFailed("the file does not match the precondition")
            if not source["has_room"]:
                raise TooManyUnrelayed
            move_id = ObjectId()
            target = await self._permit(new_name, move_id)
            if target is None:
                continue
            begun = await self._begin(source, target["_id"], new_name, move_id, preconditions)
            if begun is None:
                await self._withdraw(target, move_id)
                continue
            if (events := await self._arrive(begun, target)) is not None:
                return events
        raise Conflict("others change these names at the same time")

    async def _find_source(self, name: MediaName, preconditions: Preconditions) -> Document | None:
        fields = {
            **move_updates.MOVE_PROJECTION,
            "holds": document_updates.preconditions_hold(preconditions),
            "has_room": has_room_for_unrelayed() if self._relays_events else {"$literal": True},
        }
        async with map_mongo_errors():
            found: Document | None = await self._media.find_one(
                {"folder": name.folder, "filename": name.filename}, fields
            )
            return found

    async def _permit(self, new_name: MediaName, move_id: ObjectId) -> Document | None:
        """Return the target; None where its own file was just found to have moved. Raises AlreadyExists, TooManyUnrelayed."""
        query = {"folder": new_name.folder, "filename": new_name.filename}
        try:
            async with map_mongo_errors():
                target: Document = await self._media.find_one_and_update(
                    query,
                    move_updates.permit(move_id, self._timings, relays_events=self._relays_events),
                    move_updates.MOVE_PROJECTION,
                    upsert=True,
                    return_document=ReturnDocument.AFTER,
                )
        except DuplicateKeyError:  # another process has created the document at the same time
            return None
        if target["current"] is None:
            if (target.get("incoming") or {}).get("move") != move_id:
                raise TooManyUnrelayed
            return target
        if not target.get("moving"):
            raise AlreadyExists(new_name.folder, new_name.filename)
        await self.settle(target["_id"])
        return None

    async def _begin(
        self,
        source: Document,
        target_id: ObjectId,
        new_name: MediaName,
        move_id: ObjectId,
        preconditions: Preconditions,
    ) -> Document | None:
        """Return the source as it is while its file is moved; None where it has changed."""
        floor = await self._floors.get(documents.decode_name(source))
        query = move_updates.begin_filter(source, preconditions, relays_events=self._relays_events)
        update = move_updates.begin(move_id, target_id, new_name, floor, self._timings)

        async def attempt() -> Document | None:
            return await self._update(query, update)

        async def read_back() -> Document | None:
            return await self._update(
                {**move_updates.key_filter(source), "moving.move": move_id}, documents.TOUCH_UPDATE
            )

        return await run_until_resolved(attempt, read_back)

    async def _arrive(self, source: Document, target: Document) -> tuple[OutboxEvent, ...] | None:
        """Make the file current in the target, then finish the move. None where the permission was withdrawn."""
        event_id, move_id = ObjectId(), source["moving"]["move"]
        floor = await self._floors.get(documents.decode_name(target))
        update = move_updates.arrive(source, event_id, floor, self._timings, relays_events=self._relays_events)
        key = move_updates.key_filter(target)

        async def attempt() -> OutboxEvent | None:
            read_at = time.monotonic()
            found = await self._update({**key, "incoming.move": move_id, "current": None}, update)
            return documents.decode_committed_event(found, event_id, read_at) if found else None

        async def read_back() -> OutboxEvent | None:
            read_at = time.monotonic()
            found = await self._update(key, documents.TOUCH_UPDATE)
            return documents.decode_committed_event(found, event_id, read_at) if found else None

        # Where nothing matched, the first attempt may have arrived after its outcome was read.
        event = await run_until_resolved(attempt, read_back) or await read_back()
        if event is None:
            await self.settle(source["_id"])
            return None
        try:
            departed = await self._depart(source)
        except ServiceUnavailable as error:  # the file has moved; another process finishes
            _log.warning("a move of %s is not finished yet: %s", source["_id"], error)
            departed = None
        return (event,) if departed is None else (event, departed)

    async def settle(self, source_id: ObjectId) -> None:
        """Finish a move that another process has begun, or undo it. Has no effect where there is none."""
        async with map_mongo_errors():
            source = await self._media.find_one({"_id": source_id}, move_updates.MOVE_PROJECTION)
        if source is None or not (moving := source.get("moving")):
            return
        target = await self._update(
            move_updates.target_filter(moving), move_updates.cancel(moving["move"], self._timings)
        )
        if move_updates.has_arrived(target, moving["move"]):
            await self._depart(source)
            return
        async with map_mongo_errors():
            query = {**move_updates.key_filter(source), "moving.move": moving["move"]}
            await self._media.update_one(query, move_updates.stay(self._timings))
        await self._floors.delete_if_empty(moving["target"])

    async def _depart(self, source: Document) -> OutboxEvent | None:
        """Free the name of a file that has arrived elsewhere, then forget the move. Returns the source's event, if any."""
        moving, event_id, read_at = source["moving"], ObjectId(), time.monotonic()
        found = await self._update(
            {**move_updates.key_filter(source), "moving.move": moving["move"]},
            move_updates.depart(source, event_id, self._timings, relays_events=self._relays_events),
        )
        name = f"{moving['folder']}/{moving['filename']}" if moving["folder"] else moving["filename"]
        async with map_mongo_errors():  # for other tools
            await self._files.update_one({"_id": source["current"]["file"]}, {"$set": {"filename": name}})
            await self._media.update_one(
                move_updates.target_filter(moving), move_updates.forget(moving["move"], self._timings)
            )
        await self._floors.delete_if_empty(source["_id"])
        return documents.decode_committed_event(found, event_id, read_at) if found else None

    async def collect(self, media_id: ObjectId) -> None:
        """Settle what is left of moves that began longer ago than any of them takes."""
        async with map_mongo_errors():
            document = await self._media.find_one({"_id": media_id}, move_updates.MOVE_PROJECTION)
        if document is None:
            return
        limit = document["now"] - timedelta(seconds=self._timings.outbox_retry_after)
        if (moving := document.get("moving")) and moving["at"] <= limit:
            await self.settle(media_id)
        if (incoming := document.get("incoming")) and incoming["at"] <= limit:
            await self._withdraw(document, incoming["move"])
        for entry in document.get("arrived") or ():
            if entry["at"] <= limit:
                await self.settle(entry["source"])
                async with map_mongo_errors():
                    await self._media.update_one(
                        move_updates.key_filter(document), move_updates.forget(entry["move"], self._timings)
                    )

    async def _withdraw(self, target: Document, move_id: ObjectId) -> None:
        await self._update(move_updates.key_filter(target), move_updates.cancel(move_id, self._timings))
        await self._floors.delete_if_empty(target["_id"])

    async def _update(self, query: Document, update: document_updates.Pipeline | Document) -> Document | None:
        async with map_mongo_errors():
            found: Document | None = await self._media.find_one_and_update(
                query, update, move_updates.MOVE_PROJECTION, return_document=ReturnDocument.AFTER
            )
            return found
