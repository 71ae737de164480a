"""Updates of the two `media` documents of a move, in their order; each is one atomic update of one document. Pure.

A move gets an id, which fences every step. Its source and its target keep these fields while it is in progress:

    target.incoming    move, at: permits this one move to arrive. Whatever else makes a file current there removes it
    source.moving      move, target (id of its document), folder, filename, at, revision (of the departure): readers ask the target
                       whether the file has arrived, and nothing else changes the file until that is settled
    target.arrived     move, source (id of its document), at, revision: the file was moved here. Kept until the source says so too

1. `permit` writes target.incoming, 2. `begin` writes source.moving, 3. `arrive` makes the version current in the target, where the
permission is still there: with this update the file has moved. 4. `depart` makes the name of the source free. 5. `forget` removes
target.arrived. What a process leaves undone between 2 and 4 is settled by the next one that would change the source, or by the
garbage collector: `cancel` withdraws the permission, after which the move has either arrived or never will.
"""

from typing import Any

from bson import ObjectId

from services.common.media import MediaName
from services.common.store.gridfs.document_updates import Pipeline, change_allowed, with_next_due_at
from services.common.store.gridfs.documents import Document
from services.common.store.gridfs.outbox_updates import append_event, has_room_for_unrelayed
from services.common.store.preconditions import Preconditions
from services.common.store.timings import StoreTimings

MOVE_PROJECTION = {
    **dict.fromkeys(("folder", "filename", "current", "identity", "revision", "moving", "incoming", "arrived"), 1),
    "announce": 1,
    "now": "$$NOW",
}
"""The projection from which the state of a move is read."""


def permit(move_id: ObjectId, timings: StoreTimings, *, relays_events: bool = False) -> Pipeline:
    """Let a move arrive where the name has no file. The document may be a new one.

    With `relays_events` its event needs room in the outbox, which it keeps: nothing adds one while the permission is there.
    """
    lists = {list_: {"$ifNull": [f"${list_}", []]} for list_ in ("uploads", "ended", "doomed", "announce")}
    permission = {"move": move_id, "at": "$$NOW"}
    is_free: Document = {"$eq": ["$current", None]}
    if relays_events:
        is_free = {"$and": [is_free, has_room_for_unrelayed()]}
    incoming = {"$cond": [is_free, permission, "$$REMOVE"]}
    return with_next_due_at(
        [{"$set": {"current": {"$ifNull": ["$current", None]}, **lists}}, {"$set": {"incoming": incoming}}], timings
    )


def begin(
    move_id: ObjectId, target_id: ObjectId, new_name: MediaName, revision_floor: int, timings: StoreTimings
) -> Pipeline:
    """Say in the source that its file is being moved. `revision_floor` is that of its name."""
    moving = {
        "move": move_id,
        "target": target_id,
        "folder": {"$literal": new_name.folder},
        "filename": {"$literal": new_name.filename},
        "at": "$$NOW",
        "revision": {"$add": [{"$max": [{"$ifNull": ["$revision", 0]}, revision_floor]}, 1]},
    }
    return with_next_due_at([{"$set": {"moving": moving}}], timings)


def begin_filter(source: Document, preconditions: Preconditions, *, relays_events: bool = False) -> Document:
    """A filter for the source as it was read, while nothing else moves it and the preconditions hold.

    With `relays_events` the event of its departure needs room in the outbox.
    """
    return {
        **key_filter(source),
        "current.file": source["current"]["file"],
        "moving": None,
        "$expr": change_allowed(preconditions, relays_events=relays_events),
    }


def arrive(
    source: Document, event_id: ObjectId, revision_floor: int, timings: StoreTimings, *, relays_events: bool = False
) -> Pipeline:
    """Make the version of the source current, with its id and an event. `source` is what `begin` has left."""
    moving = source["moving"]
    version = {"$literal": source["current"]}
    previous = {"folder": source["folder"], "filename": source["filename"], "revision": moving["revision"]}
    identity = source.get("identity", source["_id"])
    floor = max(revision_floor, moving["revision"])
    event = append_event(
        event_id, "file.moved", version, floor, unrelayed=relays_events, identity=identity, previous=previous
    )
    entry = {"move": moving["move"], "source": source["_id"], "at": "$$NOW", "revision": event["revision"]}
    return with_next_due_at(
        [
            {"$set": {"current": "$$REMOVE", "incoming": "$$REMOVE"}},
            {
                "$set": {
                    "current": version,
                    "identity": identity,
                    "arrived": {"$concatArrays": [{"$ifNull": ["$arrived", []]}, [entry]]},
                    **event,
                }
            },
        ],
        timings,
    )


def depart(source: Document, event_id: ObjectId, timings: StoreTimings, *, relays_events: bool = False) -> Pipeline:
    """Make the name of the source free; the next file of it has a new id.

    Those who may read only the source's folder learn by an event that the file is no longer there.
    """
    moving = source["moving"]
    floor = moving["revision"] - 1
    fields: Document = {"revision": {"$max": [{"$ifNull": ["$revision", 0]}, moving["revision"]]}}
    if moving["folder"] != source["folder"]:
        fields = append_event(event_id, "file.deleted", "$current", floor, unrelayed=relays_events)
    return with_next_due_at(
        [{"$set": fields}, {"$set": {"current": None, "moving": "$$REMOVE", "identity": ObjectId()}}], timings
    )


def cancel(move_id: ObjectId, timings: StoreTimings) -> Pipeline:
    """Withdraw a permission. Always a write, so that all that is read with it is durable once it is acknowledged."""
    incoming = {"$cond": [{"$eq": ["$incoming.move", move_id]}, "$$REMOVE", "$incoming"]}
    return with_next_due_at([{"$set": {"incoming": incoming, "asked_at": "$$NOW"}}], timings)


def stay(timings: StoreTimings) -> Pipeline:
    """End a move that will not arrive: the file stays where it is."""
    return with_next_due_at([{"$set": {"moving": "$$REMOVE"}}], timings)


def forget(move_id: ObjectId, timings: StoreTimings) -> Pipeline:
    """Remove the note that a move has arrived."""
    others = {
        "$filter": {"input": {"$ifNull": ["$arrived", []]}, "cond": {"$ne": ["$$this.move", move_id]}},
    }
    return with_next_due_at([{"$set": {"arrived": others}}], timings)


def key_filter(document: Document) -> Document:
    """A filter for a document that was read, with its shard key."""
    return {"_id": document["_id"], "folder": document["folder"], "filename": document["filename"]}


def target_filter(moving: Document) -> Document:
    """A filter for the target of a move, with its shard key."""
    return {"_id": moving["target"], "folder": moving["folder"], "filename": moving["filename"]}


def has_arrived(target: Document | None, move_id: Any) -> bool:
    """Whether the target says that a move has arrived."""
    return target is not None and any(entry["move"] == move_id for entry in target.get("arrived") or ())
