"""Updates of the `media` document that change its committed file: deletion, restoring, another poster. Pure."""

from bson import ObjectId

from services.common.store.gridfs.document_updates import Pipeline, tombstone_of_current, with_next_due_at
from services.common.store.gridfs.documents import Document
from services.common.store.gridfs.outbox_updates import append_event, has_room_for_unrelayed
from services.common.store.timings import StoreTimings


def delete_current(
    event_id: ObjectId, revision_floor: int, timings: StoreTimings, *, relays_events: bool = False
) -> Pipeline:
    """Make the current file invisible, add a tombstone for it and an event."""
    tombstones = {"$concatArrays": ["$doomed", [tombstone_of_current(timings)]]}
    return with_next_due_at(
        [
            {"$set": {"restorable": "$$REMOVE"}},
            {
                "$set": {
                    "doomed": tombstones,
                    "restorable": "$current",
                    **append_event(event_id, "file.deleted", "$current", revision_floor, unrelayed=relays_events),
                }
            },
            {"$set": {"current": None}},
        ],
        timings,
    )


def restore_deleted(
    event_id: ObjectId, revision_floor: int, timings: StoreTimings, *, relays_events: bool = False
) -> tuple[Document, Pipeline]:
    """Make the version current again that was deleted last. Returns the condition to add to the filter, and the update.

    The condition fails from the moment on at which its tombstone is due: a garbage collector may be deleting its blocks.
    """
    is_restorable = {"$eq": ["$$this.file", "$restorable.file"]}
    is_kept = {"$and": [is_restorable, {"$gt": ["$$this.due", "$$NOW"]}, {"$ne": ["$$this.purging", True]}]}
    kept = {"$anyElementTrue": [{"$map": {"input": "$doomed", "in": is_kept}}]}
    others = {"$filter": {"input": "$doomed", "cond": {"$not": [is_restorable]}}}
    stages: Pipeline = [
        {"$set": {"current": "$$REMOVE", "incoming": "$$REMOVE"}},
        {
            "$set": {
                "current": "$restorable",
                "doomed": others,
                **append_event(event_id, "file.restored", "$restorable", revision_floor, unrelayed=relays_events),
            }
        },
        {"$set": {"restorable": "$$REMOVE"}},
    ]
    condition = {
        "current": None,
        "restorable": {"$type": "object"},
        "$expr": {"$and": [kept, has_room_for_unrelayed()]} if relays_events else kept,
    }
    return condition, with_next_due_at(stages, timings)


def describe_current(
    event_id: ObjectId,
    poster: Document | None,
    revision_floor: int,
    timings: StoreTimings,
    *,
    relays_events: bool = False,
) -> Pipeline:
    """Set or remove what names the poster of the current file, and add an event."""
    named = {"$literal": poster} if poster else "$$REMOVE"
    return with_next_due_at(
        [
            {"$set": {"current.poster": "$$REMOVE"}},
            {"$set": {"current.poster": named}},
            {"$set": append_event(event_id, "file.described", "$current", revision_floor, unrelayed=relays_events)},
        ],
        timings,
    )
