"""The update of the document of a nameless upload when it gets a name. Pure."""

from bson import ObjectId

from services.common.store.gridfs.document_updates import Pipeline, milliseconds, now_plus, with_next_due_at
from services.common.store.gridfs.documents import Document
from services.common.store.timings import StoreTimings


def leave_nameless(record_id: ObjectId, media_id: ObjectId, seconds: float, timings: StoreTimings) -> Pipeline:
    """Remove an upload that continues in the document `media_id`, and keep for that long where it is."""
    moved: Document = {
        "id": "$$this.id",
        "secret": "$$this.secret",
        "outcome": "named",
        "media": media_id,
        "facts": {},
        "until": now_plus(milliseconds(seconds)),
    }
    uploads = {"$filter": {"input": "$uploads", "cond": {"$eq": ["$$this.id", record_id]}}}
    remaining = {"$filter": {"input": "$uploads", "cond": {"$ne": ["$$this.id", record_id]}}}
    added = {"$map": {"input": uploads, "in": moved}}
    fields = {"uploads": remaining, "ended": {"$concatArrays": ["$ended", added]}}
    return with_next_due_at([{"$set": fields}], timings)
