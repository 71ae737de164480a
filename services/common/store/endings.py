"""How an upload or a version ends in the `media` document: commit, abort, delete, reap, sweep. Pure, and the same rules as in
`documents`: one update for one change, MongoDB's clock, `$literal` around what a client chose.
"""

from typing import Any

from bson import ObjectId

from services.common.store.documents import MAX_NOTES, Document, Pipeline, Times, finished, holds, in_time
from services.common.store.port import Expected, Written


def commit(
    upload: ObjectId, file: ObjectId, written: Written, event: ObjectId, times: Times, expected: Expected
) -> tuple[Document, Pipeline]:
    """Make the file current, end the upload, doom the old version, note the event: one step for every reader."""
    current = {
        "file": file,
        "length": {"$literal": written.length},
        "content_type": {"$literal": written.content_type},
        "sha256": {"$literal": written.sha256},
        "uploaded_at": "$$NOW",
    }
    kind = {"$cond": [{"$eq": ["$current", None]}, "file.created", "file.replaced"]}
    old = {"$cond": [{"$eq": ["$current", None]}, [], [doomed("$current.file", times.grace)]]}
    stages: Pipeline = [
        # The old version is needed by the second stage, and a $set of an object would merge into one that is there.
        {"$set": {"doomed": {"$concatArrays": ["$doomed", old]}, **noted(event, kind, current)}},
        {"$set": {"current": None}},
        {"$set": {"current": current, **ended(upload, "stored", written)}},
    ]
    return {"$expr": holds(expected)}, finished(stages, times)


def delete(event: ObjectId, times: Times) -> Pipeline:
    """Make the current file invisible and doom it."""
    gone = {"$concatArrays": ["$doomed", [doomed("$current.file", times.grace)]]}
    return finished(
        [{"$set": {"doomed": gone, **noted(event, "file.deleted", "$current")}}, {"$set": {"current": None}}], times
    )


def noted(event: ObjectId, kind: Any, of: Any) -> Document:
    """The list of events with one more."""
    note = {"id": event, "type": kind, "of": of, "at": "$$NOW"}
    return {"announce": {"$slice": [{"$concatArrays": ["$announce", [note]]}, -MAX_NOTES]}}


def doomed(file: Any, milliseconds: int, *, late: bool = False) -> Document:
    """A version to delete; with `late` twice."""
    return {"file": file, "due": in_time(milliseconds), "late": late}


def ended(upload: ObjectId, outcome: str, written: Written | None) -> Document:
    """The upload leaves `uploads`; with a lifetime of its own it is remembered in `ended`. What is past there is forgotten."""
    asked_for = {"$and": [{"$eq": ["$$this.id", upload]}, {"$ne": ["$$this.lifetime", None]}]}
    this = {"$filter": {"input": "$uploads", "cond": asked_for}}
    end = {
        "id": "$$this.id",
        "outcome": outcome,
        "length": {"$literal": written.length} if written else "$$this.offset",
        "sha256": written.sha256 if written else "",
        "facts": "$$this.facts",
        "until": in_time("$$this.lifetime"),
    }
    known = {"$filter": {"input": "$ended", "cond": {"$gt": ["$$this.until", "$$NOW"]}}}
    added = {"$map": {"input": this, "in": end}}
    return {
        "uploads": {"$filter": {"input": "$uploads", "cond": {"$ne": ["$$this.id", upload]}}},
        "ended": {"$slice": [{"$concatArrays": [known, added]}, -MAX_NOTES]},
    }


def abort(upload: ObjectId, file: ObjectId, times: Times, *, lost: bool, late: bool) -> Pipeline:
    """End an upload without a file; its blocks are doomed at once."""
    left = {"$filter": {"input": "$uploads", "cond": {"$ne": ["$$this.id", upload]}}}
    uploads: Document = ended(upload, "lost", None) if lost else {"uploads": left}
    added = {"$concatArrays": ["$doomed", [doomed(file, 0, late=late)]]}
    return finished([{"$set": {**uploads, "doomed": added}}], times)


def leave(upload: ObjectId, times: Times) -> Pipeline:
    """The upload goes on in another document; its blocks stay."""
    left = {"$filter": {"input": "$uploads", "cond": {"$ne": ["$$this.id", upload]}}}
    return finished([{"$set": {"uploads": left}}], times)


def reap(times: Times) -> Pipeline:
    """Doom every upload that has expired, forget every end that is past. Writers that come back find their fence gone."""
    expired = {"$filter": {"input": "$uploads", "cond": {"$lte": ["$$this.expires_at", "$$NOW"]}}}
    litter = {"$map": {"input": expired, "in": doomed("$$this.file", 0, late=True)}}
    return finished(
        [
            {
                "$set": {
                    "doomed": {"$concatArrays": ["$doomed", litter]},
                    "uploads": {"$filter": {"input": "$uploads", "cond": {"$gt": ["$$this.expires_at", "$$NOW"]}}},
                    "ended": {"$filter": {"input": "$ended", "cond": {"$gt": ["$$this.until", "$$NOW"]}}},
                }
            }
        ],
        times,
    )


def swept(file: ObjectId, times: Times) -> Pipeline:
    """The blocks of a doomed version are deleted: forget it, or where a late write may come, sweep it again later.

    Only where it was due: of two janitors, the second must not forget what the first has put off.
    """
    this = {"$and": [{"$eq": ["$$this.file", file]}, {"$lte": ["$$this.due", "$$NOW"]}]}
    again = {"$map": {"input": "$doomed", "in": {"$cond": [this, doomed(file, times.late), "$$this"]}}}
    past = {"$filter": {"input": "$doomed", "cond": {"$not": [this]}}}
    late = {"$anyElementTrue": [{"$map": {"input": "$doomed", "in": {"$and": [this, "$$this.late"]}}}]}
    return finished([{"$set": {"doomed": {"$cond": [late, again, past]}}}], times)


def announced(event: ObjectId, times: Times) -> Pipeline:
    """Forget an event."""
    left = {"$filter": {"input": "$announce", "cond": {"$ne": ["$$this.id", event]}}}
    return finished([{"$set": {"announce": left}}], times)
