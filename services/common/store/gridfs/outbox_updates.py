"""Expressions for the events of a name that wait for their publication, in its `media` document. Pure."""

from typing import Any

from bson import ObjectId

from services.common.store.gridfs.documents import Document
from services.common.store.limits import MAX_OUTBOX_EVENTS, MAX_UNRELAYED_EVENTS

_IS_RELAYED: Document = {"$ne": ["$$this.unrelayed", True]}
_IS_UNPUBLISHED: Document = {"$ne": ["$$this.told", True]}

IDENTITY = {"$ifNull": ["$identity", "$_id"]}
"""An expression: the id of the file of this name."""


def append_event(
    event_id: ObjectId,
    event_type: Any,
    version: Any,
    revision_floor: int,
    *,
    unrelayed: bool,
    identity: Any = IDENTITY,
    previous: Document | None = None,
    previous_owner: Any = "$$REMOVE",
) -> Document:
    """The fields that count the change and hold the outbox, with one more event; `unrelayed`: it is to be relayed."""
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
        **({"unrelayed": True} if unrelayed else {}),
    }
    return {"revision": revision, "announce": _bounded_outbox({"$concatArrays": ["$announce", [event]]}, ObjectId())}


def has_room_for_unrelayed() -> Document:
    """An expression: whether one more event may wait to be relayed."""
    unrelayed = {"$filter": {"input": {"$ifNull": ["$announce", []]}, "cond": {"$eq": ["$$this.unrelayed", True]}}}
    return {"$lt": [{"$size": unrelayed}, MAX_UNRELAYED_EVENTS]}


def mark_relayed(event_ids: list[ObjectId]) -> Document:
    """The outbox, in which these events are relayed."""
    relayed = {"$mergeObjects": ["$$this", {"unrelayed": False}]}
    mapped = {"$cond": [{"$in": ["$$this.id", event_ids]}, relayed, "$$this"]}
    return {"announce": {"$map": {"input": "$announce", "in": mapped}}}


def without_event(event_id: ObjectId) -> Document:
    """The outbox without an event, or with it where it is not relayed; those up to it are published."""
    position = {"$indexOfArray": ["$announce.id", event_id]}
    others = {
        "$filter": {
            "input": {"$range": [0, {"$size": "$announce"}]},
            "as": "index",
            "cond": {"$or": [{"$ne": ["$$index", "$$position"]}, "$$unrelayed"]},
        }
    }
    event = {"$arrayElemAt": ["$announce", "$$index"]}
    told = {"$mergeObjects": [event, {"told": True}]}
    marked = {"$cond": [{"$lte": ["$$index", "$$position"]}, told, event]}
    waiting = {
        "input": "$announce",
        "cond": {"$and": [{"$eq": ["$$this.id", event_id]}, {"$eq": ["$$this.unrelayed", True]}]},
    }
    unrelayed = {"$gt": [{"$size": {"$filter": waiting}}, 0]}
    remaining = {"$map": {"input": others, "as": "index", "in": marked}}
    with_unrelayed = {"$let": {"vars": {"unrelayed": unrelayed}, "in": remaining}}
    return {"announce": {"$let": {"vars": {"position": position}, "in": with_unrelayed}}}


def _bounded_outbox(events: Document, resync_id: ObjectId) -> Document:
    """The events; where they are too many, those with work left, of which the oldest that are relayed become one resync.

    A resync that is there grows, and keeps its id: writers that publish it at the same time publish it once. An event that is not
    relayed stays as it is, and all before it are: so the relayed ones are the older ones.
    """
    first = {"$arrayElemAt": ["$$mergeable", 0]}
    last = {"$arrayElemAt": ["$$mergeable", {"$subtract": ["$$count", 1]}]}
    resync = {
        "id": {"$cond": [{"$eq": ["$$first.type", "socket.resync"]}, "$$first.id", resync_id]},
        "type": "socket.resync",
        "of": "$$last.of",
        "identity": "$$last.identity",
        "at": "$$first.at",
        "revision": "$$last.revision",
    }
    others = {"$slice": ["$$mergeable", {"$subtract": ["$$count", {"$size": "$$mergeable"}]}]}
    unrelayed = {"$filter": {"input": "$$kept", "cond": {"$not": [_IS_RELAYED]}}}
    joined = {"$concatArrays": [[resync], others, unrelayed]}
    merged = {"$let": {"vars": {"first": first, "last": last}, "in": joined}}
    excess = {"$add": [{"$subtract": [{"$size": "$$kept"}, MAX_OUTBOX_EVENTS]}, 1]}
    count = {"$min": [{"$size": "$$mergeable"}, excess]}
    mergeable = {"$filter": {"input": "$$kept", "cond": {"$and": [_IS_UNPUBLISHED, _IS_RELAYED]}}}
    counted = {"$let": {"vars": {"count": count}, "in": {"$cond": [{"$lt": ["$$count", 2]}, "$$kept", merged]}}}
    kept = {"$filter": {"input": "$$events", "cond": {"$or": [_IS_UNPUBLISHED, {"$not": [_IS_RELAYED]}]}}}
    with_mergeable = {"$let": {"vars": {"mergeable": mergeable}, "in": counted}}
    bounded = {"$let": {"vars": {"kept": kept}, "in": with_mergeable}}
    all_fit = {"$lte": [{"$size": "$$events"}, MAX_OUTBOX_EVENTS]}
    return {"$let": {"vars": {"events": events}, "in": {"$cond": [all_fit, "$$events", bounded]}}}
