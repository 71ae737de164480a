"""The documents of `deliveries`, and their updates. Pure. Times are MongoDB's `$$NOW`.

_id               the event's id, a dot, the endpoint's id
event, endpoint, media, revision, type, body
state             waiting, done or dead
failures          tries without success
fence             counts claims
status, error     of the last try
created_at, next_at, expires_at
"""

from typing import Any

from bson import Binary, ObjectId

from services.common.store.delivery_store import (
    DEAD_TTL_SECONDS,
    TTL_SECONDS,
    UNSETTLED_TTL_SECONDS,
    DeliveryOutcome,
    NewDelivery,
    ReplaySelection,
    WebhookDelivery,
)
from services.common.store.gridfs.documents import Document

IS_DUE: Document = {"$expr": {"$lte": ["$next_at", "$$NOW"]}}
LIST_FIELDS: Document = dict.fromkeys(
    (
        "event",
        "endpoint",
        "media",
        "revision",
        "type",
        "state",
        "failures",
        "fence",
        "status",
        "error",
        "created_at",
        "next_at",
    ),
    1,
)
"""What a list reads: all but the bodies."""


def _after(seconds: float) -> Document:
    return {"$add": ["$$NOW", int(seconds * 1000)]}


def add(delivery: NewDelivery) -> list[Document]:
    """An upsert that leaves a delivery that is there as it is."""
    fields: Document = {
        "event": {"$literal": delivery.event_id},
        "endpoint": {"$literal": delivery.endpoint_id},
        "media": {"$literal": delivery.media_id},
        "revision": delivery.revision,
        "type": {"$literal": delivery.event_type},
        "body": Binary(delivery.body),
        "state": "waiting",
        "failures": 0,
        "fence": 0,
        "error": "",
        "created_at": "$$NOW",
        "next_at": "$$NOW",
        "expires_at": _after(UNSETTLED_TTL_SECONDS),
    }
    return [{"$set": {name: {"$ifNull": [f"${name}", value]} for name, value in fields.items()}}]


def claim(lease_seconds: float) -> list[Document]:
    """Let the delivery be due again when the lease has ended."""
    return [{"$set": {"fence": {"$add": ["$fence", 1]}, "next_at": _after(lease_seconds)}}]


def settle(outcome: DeliveryOutcome) -> list[Document]:
    """Record the outcome of a try."""
    failed = 0 if outcome.state == "done" else 1
    fields: Document = {
        "state": outcome.state,
        "status": outcome.status,
        "error": {"$literal": outcome.error},
        "failures": {"$add": ["$failures", failed]},
        "next_at": _after(outcome.delay),
    }
    if outcome.state != "waiting":
        fields["expires_at"] = _after(TTL_SECONDS[outcome.state])
    return [{"$set": fields}]


def bury(error: str) -> list[Document]:
    """Make a delivery dead without a try."""
    ttl = _after(DEAD_TTL_SECONDS)
    fence = {"$add": ["$fence", 1]}
    return [{"$set": {"state": "dead", "error": {"$literal": error}, "fence": fence, "expires_at": ttl}}]


def replay() -> list[Document]:
    """Let a delivery wait again, due now."""
    fields = {"state": "waiting", "failures": 0, "fence": {"$add": ["$fence", 1]}, "next_at": "$$NOW"}
    return [{"$set": {**fields, "expires_at": _after(UNSETTLED_TTL_SECONDS)}}]


def selection_filter(selection: ReplaySelection) -> Document:
    """A filter for the deliveries to send again."""
    if selection.id is not None:
        return {"_id": selection.id}
    query: Document = {"state": selection.state or {"$in": ["done", "dead"]}}
    if selection.endpoint_id is not None:
        query["endpoint"] = selection.endpoint_id
    bounds = {"$gte": selection.since, "$lt": selection.until}
    if given := {operator: time for operator, time in bounds.items() if time is not None}:
        query["created_at"] = given
    return query


def queue_pipeline() -> list[Document]:
    """An aggregation: the waiting and the dead of each endpoint, and when the oldest waiting one was created."""
    waiting = {"$eq": ["$state", "waiting"]}
    return [
        {"$match": {"state": {"$in": ["waiting", "dead"]}}},
        {
            "$group": {
                "_id": "$endpoint",
                "waiting": {"$sum": {"$cond": [waiting, 1, 0]}},
                "dead": {"$sum": {"$cond": [waiting, 0, 1]}},
                "oldest": {"$min": {"$cond": [waiting, "$created_at", "$$NOW"]}},
            }
        },
        {"$set": {"age": {"$subtract": ["$$NOW", "$oldest"]}}},
        {"$sort": {"_id": 1}},
    ]


def decode(document: Document, now: Any) -> WebhookDelivery:
    """A delivery; `now` is MongoDB's time, or that of a caller that wants no exact age."""
    return WebhookDelivery(
        id=document["_id"],
        event_id=document["event"],
        endpoint_id=document["endpoint"],
        media_id=document["media"],
        revision=document["revision"],
        event_type=document["type"],
        body=bytes(document.get("body", b"")),
        state=document["state"],
        failures=document["failures"],
        fencing_token=document["fence"],
        status=document.get("status"),
        error=document["error"],
        created_at=document["created_at"],
        next_at=document["next_at"],
        age=(now - document["created_at"]).total_seconds(),
    )


def event_ids(ids: list[str]) -> list[ObjectId]:
    """The ids of events as the outbox has them."""
    return [ObjectId(identifier) for identifier in ids]
