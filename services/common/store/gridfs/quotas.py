"""Quotas in the collection `quotas`: one document for each owner, changed by single updates. There are no transactions.

    _id         the subject
    stored      bytes of its files and their posters, as counted or added up: never less than there are while `counted`
    holds       reservations of unfinished uploads: id (of the upload), file, bytes, folder and filename of its document, at
    counted     whether `stored` may be relied on
    released    whether a file was deleted or replaced since it was counted
    counted_at  when that was
    generation  how many updates there were

A reservation is made before its upload and ends after it, so a kill leaves too much reserved, never too little. A count makes it
right: the files are added up, and reservations are dropped whose uploads are gone. The result is written only where nothing has
changed the document since it was read. A deletion is not subtracted, because a count may have seen it already: it is noted, and
before an upload is refused for lack of room, everything is counted again.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, TypeVar

from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from services.common.errors import GridcastError, ServiceUnavailable
from services.common.media import MediaName
from services.common.store.gridfs.contention import wait_before_attempt
from services.common.store.gridfs.documents import Document, UploadKey, name_filter
from services.common.store.gridfs.mongo import MongoDatabase, map_mongo_errors
from services.common.store.quotas import Quota
from services.common.store.timings import StoreTimings

MAX_RECOUNT_INTERVAL_SECONDS = 10.0
"""An owner at the limit is not counted again before, unless something was deleted. Less where leases are shorter."""
RESERVE_ATTEMPTS = 20
"""How often a reservation is tried again after a count that may have found room. Others may take that room, or release more."""
COUNT_ATTEMPTS = 20
"""How often a count is begun anew because the owner's uploads have changed it."""
HOLDS_BATCH = 100
OWNERS_PAGE = 100

_log = logging.getLogger("gridcast.store")
T = TypeVar("T")


class GridFSQuotas:
    """Reserves, settles and counts. Without a quota every call but `forget` returns at once."""

    def __init__(self, mongo: MongoDatabase, timings: StoreTimings, quota: Quota) -> None:
        self.quota = quota
        self._recount_interval = timedelta(seconds=min(timings.lease_ttl, MAX_RECOUNT_INTERVAL_SECONDS))
        # A younger reservation may be one whose upload is about to be added: longer than any operation takes.
        self._min_hold_age = timedelta(seconds=2 * timings.lease_ttl)
        self._mongo = mongo
        self._quotas = mongo.collection("quotas")
        self._media = mongo.collection("media")

    async def reserve(
        self, owner: str, key: UploadKey, name: MediaName | None, length: int, *, is_upload: bool = True
    ) -> None:
        """Reserve `length` bytes for an upload that is not added yet, or for a poster. Raises QuotaExceeded, TooManyRequests."""
        if not self.quota.applies_to(owner):
            return
        hold = {"id": key.record_id, "file": key.file_id, "bytes": length, **name_filter(name, key.record_id)}
        added = {"$concatArrays": ["$holds", [{**{k: {"$literal": v} for k, v in hold.items()}, "at": "$$NOW"}]]}
        fits = [_fits(self.quota, length)]
        if is_upload:
            fits.append({"$lt": [{"$size": "$holds"}, self.quota.most_uploads]})
        query = {"_id": owner, "counted": True, "$expr": {"$and": fits}}
        for attempt in range(RESERVE_ATTEMPTS):
            await wait_before_attempt(attempt - 1)  # the second attempt follows a count, which is no contention
            if await self._update(query, {"holds": added}):
                return
            if (document := await self._count_if_useful(owner)) is not None:
                if is_upload:
                    self.quota.check_uploads(len(document["holds"]) + 1)
                self.quota.check_bytes(_used(document) + length)
        raise ServiceUnavailable(_BUSY)

    async def extend(self, owner: str, key: UploadKey, name: MediaName | None, length: int) -> None:
        """Reserve `length` bytes in all for an upload that is there. Raises QuotaExceeded."""
        if not self.quota.applies_to(owner):
            return
        held = {"$sum": {"$map": {"input": _with_id(key.record_id), "in": "$$this.bytes"}}}
        longer = {"$mergeObjects": ["$$this", {"bytes": {"$max": ["$$this.bytes", length]}}]}
        holds = _map_hold(key.record_id, longer)
        more = {"$max": [0, {"$subtract": [length, held]}]}
        query = {"_id": owner, "counted": True, "holds.id": key.record_id, "$expr": _fits(self.quota, more)}
        for attempt in range(RESERVE_ATTEMPTS):
            await wait_before_attempt(attempt - 1)  # the second attempt follows a count, which is no contention
            if await self._update(query, {"holds": holds}):
                return
            if (document := await self._count_if_useful(owner)) is not None:
                found = [hold["bytes"] for hold in document["holds"] if hold["id"] == key.record_id]
                if not found:  # begun while there was no quota
                    await self.reserve(owner, key, name, length)
                    return
                self.quota.check_bytes(_used(document) + max(0, length - found[0]))
        raise ServiceUnavailable(_BUSY)

    async def rename(self, owner: str, record_id: ObjectId, name: MediaName) -> None:
        """Note the name that a nameless upload gets, before it has it."""
        if self.quota.applies_to(owner):
            place = {"$literal": {"folder": name.folder, "filename": name.filename}}
            await self._update({"_id": owner}, {"holds": _map_hold(record_id, {"$mergeObjects": ["$$this", place]})})

    async def settle(self, owner: str, record_id: ObjectId, length: int, previous_owner: str) -> None:
        """Count the file of an upload that was committed, in place of its reservation. Never raises: a count makes it right."""
        try:
            if self.quota.applies_to(owner):
                is_held = {"$in": [record_id, "$holds.id"]}
                settled = {
                    "stored": {"$add": ["$stored", {"$cond": [is_held, length, 0]}]},
                    "counted": {"$and": ["$counted", is_held]},
                    "holds": _without(record_id),
                }
                await self._update({"_id": owner}, settled)
            await self.note_release(previous_owner)
        except GridcastError as error:
            _log.warning("the bytes of an owner are counted later: %s", error)

    async def release(self, owner: str, record_id: ObjectId) -> None:
        """End the reservation of an upload that has ended without a file. Never raises: a count makes it right."""
        if self.quota.applies_to(owner):
            try:
                await self._update({"_id": owner}, {"holds": _without(record_id)})
            except GridcastError as error:
                _log.warning("a reservation is ended later: %s", error)

    async def count_poster(self, name: MediaName, length: int, change: Callable[[], Awaitable[T | None]]) -> T | None:
        """Run a change that sets the poster of a file, of `length` bytes, or that removes it (0). None: nothing was changed.

        The bytes are reserved meanwhile as those of an upload. Raises QuotaExceeded, and what the change raises.
        """
        if not self.quota.max_bytes:
            return await change()
        async with map_mongo_errors():
            found = await self._media.find_one(
                name_filter(name, ObjectId()), {"current.owner": 1, "current.poster.id": 1}
            )
        current = (found or {}).get("current") or {}
        owner, has_poster = current.get("owner", ""), "poster" in current
        key = UploadKey(
            ObjectId(), ObjectId(), ObjectId()
        )  # of no upload: where this is killed, the next counts drop it
        if length:
            await self.reserve(owner, key, name, length, is_upload=False)
        try:
            changed = await change()
        except GridcastError:
            await self.release(owner, key.record_id)
            raise
        if changed is None:
            await self.release(owner, key.record_id)
        elif length:
            await self.settle(owner, key.record_id, length, owner if has_poster else "")
        elif has_poster:
            await self.note_release(owner)
        return changed

    async def note_release(self, owner: str) -> None:
        """Note that a file of that owner is not counted any more. Never raises: a count makes it right."""
        if self.quota.applies_to(owner):
            try:
                await self._update({"_id": owner}, {"released": True})
            except GridcastError as error:
                _log.warning("the bytes of an owner are counted later: %s", error)

    async def forget(self, owner: str = "") -> None:
        """Have the files of one owner, or of all, counted before the next upload: other processes may not have counted them."""
        query = {"_id": owner} if owner else {}
        async with map_mongo_errors():
            await self._quotas.update_many(query, {"$set": {"counted": False}, "$inc": {"generation": 1}})

    async def count_all(self) -> int:
        """Count for all owners that are known; returns how many there are."""
        if not self.quota.is_set:
            return 0
        counted = 0
        query: Document = {}
        while True:
            async with map_mongo_errors():
                page = await self._quotas.find(query, {"_id": 1}).sort("_id", 1).limit(OWNERS_PAGE).to_list(OWNERS_PAGE)
            for document in page:
                await self._count(document["_id"])
            counted += len(page)
            if len(page) < OWNERS_PAGE:
                return counted
            query = {"_id": {"$gt": page[-1]["_id"]}}

    async def _count_if_useful(self, owner: str) -> Document | None:
        """Count where that may find room, and return None then; else the document as it is."""
        new = {"stored": 0, "holds": [], "counted": False, "generation": 0}
        with suppress(DuplicateKeyError):
            async with map_mongo_errors():
                await self._quotas.update_one({"_id": owner}, {"$setOnInsert": new}, upsert=True)
        document = await self._count(owner, only_if_useful=True)
        return document if document is not None and document["counted"] else None

    async def _count(self, owner: str, *, only_if_useful: bool = False) -> Document | None:
        """Count; where that would find the same, do nothing and return the document."""
        for attempt in range(COUNT_ATTEMPTS):
            await wait_before_attempt(attempt)
            async with map_mongo_errors():
                document: Document | None = await self._quotas.find_one({"_id": owner}, _ALL_FIELDS)
            if document is None or (only_if_useful and self._is_fresh(document)):
                return document
            holds = await self._living(document["holds"], document["now"])
            # A file that is committed and not settled yet is counted by its reservation.
            unsettled = {"current.owner": owner, "current.file": {"$nin": [hold["file"] for hold in holds]}}
            stages: list[Document] = [
                {"$match": unsettled},
                {"$group": {"_id": None, "bytes": {"$sum": {"$add": ["$current.length", _POSTER_LENGTH]}}}},
            ]
            async with map_mongo_errors():
                sums = await self._mongo.aggregate("media", stages)
            fields = {"stored": sums[0]["bytes"] if sums else 0, "holds": {"$literal": holds}, "counted": True}
            query = {"_id": owner, "generation": document["generation"]}
            if await self._update(query, {**fields, "released": False, "counted_at": "$$NOW"}):
                return None
        raise ServiceUnavailable(_BUSY)

    def _is_fresh(self, document: Document) -> bool:
        """Whether to count again would find the same."""
        if not document["counted"] or document.get("released"):
            return False
        return bool(document["counted_at"] + self._recount_interval > document["now"])

    async def _living(self, holds: list[Document], now: datetime) -> list[Document]:
        """The reservations whose uploads are there, or may be about to be added."""
        entries: set[ObjectId] = set()
        current: set[ObjectId] = set()
        for start in range(0, len(holds), HOLDS_BATCH):
            batch = holds[start : start + HOLDS_BATCH]
            places = [{"folder": hold["folder"], "filename": hold["filename"]} for hold in batch]
            places += [name_filter(None, hold["id"]) for hold in batch if hold["folder"] is not None]
            async with map_mongo_errors():
                found = self._media.find({"$or": places}, {"uploads.id": 1, "current.file": 1})
                async for document in found:
                    entries.update(entry["id"] for entry in document.get("uploads", ()))
                    current.update([document["current"]["file"]] if document.get("current") else [])
        return [
            hold
            for hold in holds
            if hold["id"] in entries or (hold["at"] + self._min_hold_age > now and hold["file"] not in current)
        ]

    async def _update(self, query: Document, fields: Document) -> bool:
        """Set fields in one update; whether the query matched."""
        stages = [{"$set": {**fields, "generation": {"$add": ["$generation", 1]}}}]
        async with map_mongo_errors():
            return bool((await self._quotas.update_one(query, stages)).matched_count)


_ALL_FIELDS: Document = {
    **dict.fromkeys(("stored", "holds", "counted", "released", "counted_at", "generation"), 1),
    "now": "$$NOW",
}
_POSTER_LENGTH: Document = {"$ifNull": ["$current.poster.length", 0]}
"""Of a poster that was set before posters were counted, nothing."""
_BUSY = "too many uploads of this owner begin and end"


def _used(document: Document) -> int:
    return int(document["stored"] + sum(hold["bytes"] for hold in document["holds"]))


def _fits(quota: Quota, more: Any) -> Document:
    """An expression: whether the owner may have `more` bytes."""
    if not quota.max_bytes:
        return {"$literal": True}
    return {"$lte": [{"$add": ["$stored", {"$sum": "$holds.bytes"}, more]}, quota.max_bytes]}


def _with_id(record_id: ObjectId) -> Document:
    return {"$filter": {"input": "$holds", "cond": {"$eq": ["$$this.id", record_id]}}}


def _without(record_id: ObjectId) -> Document:
    return {"$filter": {"input": "$holds", "cond": {"$ne": ["$$this.id", record_id]}}}


def _map_hold(record_id: ObjectId, changed: Document) -> Document:
    each = {"$cond": [{"$eq": ["$$this.id", record_id]}, changed, "$$this"]}
    return {"$map": {"input": "$holds", "in": each}}
