"""How an upload or a version ends in the `media` document: commit, abort, delete, reap, sweep. Pure, and the same rules as in
`documents`: one update for one change, MongoDB's clock, `$literal` around what a client chose.
"""

from typing import Any

from bson import ObjectId

from services.common.store.gridfs.documents import (
    MAX_RETAINED_ENTRIES,
    Document,
    Pipeline,
    StoreTimings,
    now_plus,
    preconditions_hold,
    with_next_due_at,
)
from services.common.store.upload_store import Preconditions, StoredFile


def commit_upload(
    record_id: ObjectId,
    file_id: ObjectId,
    stored_file: StoredFile,
    event_id: ObjectId,
    timings: StoreTimings,
    preconditions: Preconditions,
) -> tuple[Document, Pipeline]:
    """Make the file current, end the upload, doom the old version, note the event: one step for every reader."""
    current = {
        "file": file_id,
        "length": {"$literal": stored_file.length},
        "content_type": {"$literal": stored_file.content_type},
        "sha256": {"$literal": stored_file.sha256},
        "uploaded_at": "$$NOW",
    }
    kind = {"$cond": [{"$eq": ["$current", None]}, "file.created", "file.replaced"]}
    old = {"$cond": [{"$eq": ["$current", None]}, [], [tombstone("$current.file", timings.tombstone_ttl_ms)]]}
    stages: Pipeline = [
        # The old version is needed by the second stage, and a $set of an object would merge into one that is there.
        {"$set": {"doomed": {"$concatArrays": ["$doomed", old]}, **append_event(event_id, kind, current)}},
        {"$set": {"current": None}},
        {"$set": {"current": current, **finish_upload(record_id, "stored", stored_file)}},
    ]
    return {"$expr": preconditions_hold(preconditions)}, with_next_due_at(stages, timings)


def delete_current(event_id: ObjectId, timings: StoreTimings) -> Pipeline:
    """Make the current file invisible and doom it."""
    gone = {"$concatArrays": ["$doomed", [tombstone("$current.file", timings.tombstone_ttl_ms)]]}
    return with_next_due_at(
        [{"$set": {"doomed": gone, **append_event(event_id, "file.deleted", "$current")}}, {"$set": {"current": None}}],
        timings,
    )


def append_event(event_id: ObjectId, event_type: Any, version: Any) -> Document:
    """The list of events with one more."""
    note = {"id": event_id, "type": event_type, "of": version, "at": "$$NOW"}
    return {"announce": {"$slice": [{"$concatArrays": ["$announce", [note]]}, -MAX_RETAINED_ENTRIES]}}


def tombstone(file_id: Any, delay_ms: int, *, second_purge: bool = False) -> Document:
    """A version to delete; with `late` twice."""
    return {"file": file_id, "due": now_plus(delay_ms), "late": second_purge}


def finish_upload(record_id: ObjectId, outcome: str, stored_file: StoredFile | None) -> Document:
    """The upload leaves `uploads`; with a lifetime of its own it is remembered in `ended`. What is past there is forgotten."""
    asked_for = {"$and": [{"$eq": ["$$this.id", record_id]}, {"$ne": ["$$this.lifetime", None]}]}
    this = {"$filter": {"input": "$uploads", "cond": asked_for}}
    end = {
        "id": "$$this.id",
        "outcome": outcome,
        "length": {"$literal": stored_file.length} if stored_file else "$$this.offset",
        "sha256": stored_file.sha256 if stored_file else "",
        "facts": "$$this.facts",
        "until": now_plus("$$this.lifetime"),
    }
    known = {"$filter": {"input": "$ended", "cond": {"$gt": ["$$this.until", "$$NOW"]}}}
    added = {"$map": {"input": this, "in": end}}
    return {
        "uploads": {"$filter": {"input": "$uploads", "cond": {"$ne": ["$$this.id", record_id]}}},
        "ended": {"$slice": [{"$concatArrays": [known, added]}, -MAX_RETAINED_ENTRIES]},
    }


def abort_upload(
    record_id: ObjectId, file_id: ObjectId, timings: StoreTimings, *, name_taken: bool, second_purge: bool
) -> Pipeline:
    """End an upload without a file; its blocks are doomed at once."""
    left = {"$filter": {"input": "$uploads", "cond": {"$ne": ["$$this.id", record_id]}}}
    uploads: Document = finish_upload(record_id, "lost", None) if name_taken else {"uploads": left}
    added = {"$concatArrays": ["$doomed", [tombstone(file_id, 0, second_purge=second_purge)]]}
    return with_next_due_at([{"$set": {**uploads, "doomed": added}}], timings)


def remove_upload(record_id: ObjectId, timings: StoreTimings) -> Pipeline:
    """The upload goes on in another document; its blocks stay."""
    left = {"$filter": {"input": "$uploads", "cond": {"$ne": ["$$this.id", record_id]}}}
    return with_next_due_at([{"$set": {"uploads": left}}], timings)


def expire_uploads(timings: StoreTimings) -> Pipeline:
    """Doom every upload that has expired, forget every end that is past. Writers that come back find their fence gone."""
    expired = {"$filter": {"input": "$uploads", "cond": {"$lte": ["$$this.expires_at", "$$NOW"]}}}
    litter = {"$map": {"input": expired, "in": tombstone("$$this.file", 0, second_purge=True)}}
    return with_next_due_at(
        [
            {
                "$set": {
                    "doomed": {"$concatArrays": ["$doomed", litter]},
                    "uploads": {"$filter": {"input": "$uploads", "cond": {"$gt": ["$$this.expires_at", "$$NOW"]}}},
                    "ended": {"$filter": {"input": "$ended", "cond": {"$gt": ["$$this.until", "$$NOW"]}}},
                }
            }
        ],
        timings,
    )


def mark_purged(file_id: ObjectId, timings: StoreTimings) -> Pipeline:
    """The blocks of a doomed version are deleted: forget it, or where a late write may come, sweep it again later.

    Only where it was due: of two janitors, the second must not forget what the first has put off.
    """
    this = {"$and": [{"$eq": ["$$this.file", file_id]}, {"$lte": ["$$this.due", "$$NOW"]}]}
    again = {
        "$map": {
            "input": "$doomed",
            "in": {"$cond": [this, tombstone(file_id, timings.second_purge_after_ms), "$$this"]},
        }
    }
    past = {"$filter": {"input": "$doomed", "cond": {"$not": [this]}}}
    late = {"$anyElementTrue": [{"$map": {"input": "$doomed", "in": {"$and": [this, "$$this.late"]}}}]}
    return with_next_due_at([{"$set": {"doomed": {"$cond": [late, again, past]}}}], timings)


def remove_event(event_id: ObjectId, timings: StoreTimings) -> Pipeline:
    """Forget an event."""
    left = {"$filter": {"input": "$announce", "cond": {"$ne": ["$$this.id", event_id]}}}
    return with_next_due_at([{"$set": {"announce": left}}], timings)
