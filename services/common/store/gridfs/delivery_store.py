"""Keeps deliveries of webhooks in the collection `deliveries`, and endpoints in `webhook_endpoints`."""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from bson import ObjectId
from pymongo import ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from services.common.errors import ServiceUnavailable
from services.common.store.delivery_store import (
    MAX_BLOCKED_DELIVERIES,
    MAX_REPLAYED,
    DeliveryOutcome,
    DeliveryState,
    NewDelivery,
    QueueSummary,
    ReplaySelection,
    StoredEndpoint,
    WebhookDelivery,
)
from services.common.store.gridfs import delivery_updates, document_updates, documents
from services.common.store.gridfs.mongo import MongoDatabase, map_mongo_errors
from services.common.store.gridfs.outbox_updates import mark_relayed
from services.common.store.timings import StoreTimings
from services.common.store.upload_store import OutboxEvent

RELAY_ATTEMPTS = 10
"""Two relays that insert one delivery at the same time: one of them fails, and finds it at the next attempt."""
_DUPLICATE_KEY = 11000


class GridFSDeliveryStore:
    """A `WebhookStore` beside the files."""

    def __init__(self, mongo: MongoDatabase, timings: StoreTimings | None = None) -> None:
        self._timings = timings or StoreTimings()
        self._mongo = mongo
        self._media = mongo.collection("media")
        self._deliveries = mongo.collection("deliveries")
        self._endpoints = mongo.collection("webhook_endpoints")

    async def relay(self, events: Sequence[OutboxEvent], deliveries: Sequence[NewDelivery]) -> None:
        """Insert the deliveries, then mark the events: a crash in between makes the insert again, which changes nothing."""
        if not events:
            return
        if deliveries:
            await self._add(
                [UpdateOne({"_id": each.id}, delivery_updates.add(each), upsert=True) for each in deliveries]
            )
        ids = delivery_updates.event_ids([event.id for event in events])
        media_id = ObjectId(events[0].name_key)
        stages = document_updates.with_next_due_at([{"$set": mark_relayed(ids)}], self._timings)
        async with map_mongo_errors():
            await self._media.update_one({"_id": media_id}, stages)

    async def _add(self, operations: list[UpdateOne]) -> None:
        for _ in range(RELAY_ATTEMPTS):
            try:
                async with map_mongo_errors():
                    await self._deliveries.bulk_write(operations)
            except BulkWriteError as error:
                faults = (error.details or {}).get("writeErrors", [{}])
                if any(fault.get("code") != _DUPLICATE_KEY for fault in faults):
                    raise
            else:
                return
        raise ServiceUnavailable("the deliveries of an event could not be stored")

    async def list_unrelayed(self, media_id: str) -> Sequence[OutboxEvent]:
        """Read the outbox of one document."""
        read_at = time.monotonic()
        async with map_mongo_errors():
            fields = {"folder": 1, "filename": 1, "announce": 1}
            document = await self._media.find_one({"_id": ObjectId(media_id)}, fields)
        entries = document["announce"] if document else ()
        return [documents.decode_outbox_event(document, entry, read_at) for entry in entries if entry.get("unrelayed")]

    async def claim(self, endpoint_id: str, lease_seconds: float, *, ordered: bool) -> WebhookDelivery | None:
        """Claim by one update. In order, a blocked one is postponed until the one before it is due."""
        due = {"endpoint": endpoint_id, "state": "waiting", **delivery_updates.IS_DUE}
        order = [("next_at", 1), ("_id", 1)]
        update = delivery_updates.claim(lease_seconds)
        if not ordered:
            async with map_mongo_errors():
                document = await self._deliveries.find_one_and_update(
                    due, update, sort=order, return_document=ReturnDocument.AFTER
                )
            return self._claimed(document, lease_seconds)
        for _ in range(MAX_BLOCKED_DELIVERIES):
            async with map_mongo_errors():
                found = await self._deliveries.find_one(due, {"media": 1, "revision": 1, "fence": 1}, sort=order)
                if found is None:
                    return None
                older = await self._deliveries.find_one(
                    {
                        "endpoint": endpoint_id,
                        "media": found["media"],
                        "revision": {"$lt": found["revision"]},
                        "state": "waiting",
                    },
                    {"next_at": 1},
                    sort=[("revision", 1)],
                )
                fenced = {"_id": found["_id"], "fence": found["fence"], "state": "waiting"}
                if older is not None:
                    # Not before the older one is due, and a moment later, so that it is found first.
                    postponed = {"$max": [older["next_at"] + timedelta(milliseconds=1), {"$add": ["$$NOW", 20]}]}
                    await self._deliveries.update_one(fenced, [{"$set": {"next_at": postponed}}])
                    continue
                document = await self._deliveries.find_one_and_update(
                    fenced, update, return_document=ReturnDocument.AFTER
                )
            if document is not None:
                return self._claimed(document, lease_seconds)
        return None

    @staticmethod
    def _claimed(document: dict[str, Any] | None, lease_seconds: float) -> WebhookDelivery | None:
        if document is None:
            return None
        return delivery_updates.decode(document, document["next_at"] - timedelta(seconds=lease_seconds))

    async def settle(self, delivery: WebhookDelivery, outcome: DeliveryOutcome, *, ordered: bool) -> bool:
        """Update the delivery while its claim holds."""
        fenced = {"_id": delivery.id, "fence": delivery.fencing_token, "state": "waiting"}
        async with map_mongo_errors():
            result = await self._deliveries.update_one(fenced, delivery_updates.settle(outcome))
            if result.matched_count and ordered and outcome.state != "waiting":
                later = {
                    "endpoint": delivery.endpoint_id,
                    "media": delivery.media_id,
                    "revision": {"$gt": delivery.revision},
                    "failures": 0,
                    "state": "waiting",
                }
                # Without this it would wait until the lease of the settled one would have ended.
                due = [{"$set": {"next_at": "$$NOW"}}]
                await self._deliveries.find_one_and_update(later, due, {"_id": 1}, sort=[("revision", 1)])
        return bool(result.matched_count)

    async def bury(self, endpoint_id: str, error: str) -> int:
        """Update all that are waiting."""
        async with map_mongo_errors():
            result = await self._deliveries.update_many(
                {"endpoint": endpoint_id, "state": "waiting"}, delivery_updates.bury(error)
            )
        return int(result.modified_count)

    async def replay(self, selection: ReplaySelection) -> int:
        """Find the ids, then update these."""
        query = delivery_updates.selection_filter(selection)
        async with map_mongo_errors():
            found = (
                await self._deliveries.find(query, {"_id": 1}).sort("_id", 1).limit(MAX_REPLAYED).to_list(MAX_REPLAYED)
            )
            ids = [document["_id"] for document in found]
            result = await self._deliveries.update_many({**query, "_id": {"$in": ids}}, delivery_updates.replay())
        return int(result.matched_count)

    async def list_deliveries(
        self, endpoint_id: str | None, state: DeliveryState | None, limit: int, before: str = ""
    ) -> Sequence[WebhookDelivery]:
        """Read by descending ids, which begin with the time of the event."""
        given = {"endpoint": endpoint_id, "state": state, "_id": {"$lt": before} if before else None}
        query = {name: value for name, value in given.items() if value is not None}
        projection = {**delivery_updates.LIST_FIELDS, "now": "$$NOW"}
        async with map_mongo_errors():
            found = await self._deliveries.find(query, projection).sort("_id", -1).limit(limit).to_list(limit)
        return [delivery_updates.decode(document, document["now"]) for document in found]

    async def summarize(self) -> Sequence[QueueSummary]:
        """Group by endpoint."""
        async with map_mongo_errors():
            groups = await self._mongo.aggregate("deliveries", delivery_updates.queue_pipeline())
        return [
            QueueSummary(
                group["_id"], group["waiting"], group["age"] / 1000 if group["waiting"] else 0.0, group["dead"]
            )
            for group in groups
        ]

    async def delete_expired(self) -> int:
        """Delete by MongoDB's clock."""
        async with map_mongo_errors():
            result = await self._deliveries.delete_many({"$expr": {"$lte": ["$expires_at", "$$NOW"]}})
        return int(result.deleted_count)

    async def list_endpoints(self) -> Sequence[StoredEndpoint]:
        """Read all."""
        async with map_mongo_errors():
            found = await self._endpoints.find({}).sort("_id", 1).to_list(None)
        return [StoredEndpoint(each["_id"], each.get("definition"), bool(each.get("is_ended"))) for each in found]

    async def add_endpoint(self, endpoint_id: str, definition: str) -> bool:
        """Insert a document."""
        try:
            async with map_mongo_errors():
                await self._endpoints.insert_one({"_id": endpoint_id, "definition": definition, "is_ended": False})
        except DuplicateKeyError:
            return False
        return True

    async def remove_endpoint(self, endpoint_id: str) -> bool:
        """Delete the document."""
        async with map_mongo_errors():
            result = await self._endpoints.delete_one({"_id": endpoint_id})
        return bool(result.deleted_count)

    async def set_ended(self, endpoint_id: str, *, ended: bool) -> None:
        """Set a field; the document of an endpoint of the settings is created for it."""
        async with map_mongo_errors():
            await self._endpoints.update_one({"_id": endpoint_id}, {"$set": {"is_ended": ended}}, upsert=ended)
