"""Expressions for the events of a name that wait for their publication, in its `media` document. Pure."""

from typing import Any

from bson import ObjectId

from services.common.store.gridfs.documents import Document
from services.common.store.limits import MAX_OUTBOX_EVENTS

IDENTITY = {"$ifNull": ["$identity", "$_id"]}
"""An expression: the id of the file of this name."""


def append_event(
    event_id: ObjectId,
    event_type: Any,
    version: Any,
    revision_floor: int,
    *,
    identity: Any = IDENTITY,
    previous: Document | None = None,
    previous_owner: Any = "$$REMOVE",
) -> Document:
    """The fields that count the change and hold the outbox, with one more event."""
    revision = {"$add": [{"$max": [{"$ifNull": ["$revision", 0]}, revision_floor]}, 1]}
    event = {
        "id": event_id,
        "type": event_type,
        "of": version,
        "at": "$$NOW",
        "revision": revision,
        "identity": identity,
        **({"previous": {"$literal": previous}} if previous else {}),
        "previous_owner": previous_owner,
    }
    return {"revision": revision, "announce": _bounded_outbox({"$concatArrays": ["$announce", [event]]}, ObjectId())}


def _bounded_outbox(events: Document, resync_id: ObjectId) -> Document:
    """The events; where they are too many, the unpublished ones, of which the oldest become one resync.

    A resync that is there grows, and keeps its id: writers that publish it at the same time publish it once.
    """
    first, last = (
        {"$arrayElemAt": ["$$unpublished", index]}
        for index in (0, {"$subtract": [{"$size": "$$unpublished"}, MAX_OUTBOX_EVENTS]})
    )
    resync = {
        "id": {"$cond": [{"$eq": ["$$first.type", "socket.resync"]}, "$$first.id", resync_id]},
        "type": "socket.resync",
        "of": "$$last.of",
        "identity": "$$last.identity",
        "at": "$$first.at",
        "revision": "$$last.revision",
    }
    newest = {"$slice": ["$$unpublished", 1 - MAX_OUTBOX_EVENTS]}
    merged = {"$let": {"vars": {"first": first, "last": last}, "in": {"$concatArrays": [[resync], newest]}}}
    fits = {"$lte": [{"$size": "$$unpublished"}, MAX_OUTBOX_EVENTS]}
    unpublished = {"$filter": {"input": "$$events", "cond": {"$ne": ["$$this.told", True]}}}
    bounded = {"$let": {"vars": {"unpublished": unpublished}, "in": {"$cond": [fits, "$$unpublished", merged]}}}
    all_fit = {"$lte": [{"$size": "$$events"}, MAX_OUTBOX_EVENTS]}
    return {"$let": {"vars": {"events": events}, "in": {"$cond": [all_fit, "$$events", bounded]}}}
