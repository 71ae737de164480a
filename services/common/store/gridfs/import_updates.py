"""The update of the `media` document that makes an imported file current. Pure."""

from bson import ObjectId

from services.common.media import NO_METADATA, MediaInfo
from services.common.store.gridfs.document_updates import Pipeline, milliseconds, tombstone, with_next_due_at
from services.common.store.gridfs.documents import Document
from services.common.store.timings import StoreTimings

IMPORT_PROJECTION = {
    **dict.fromkeys(("folder", "filename", "current", "revision", "doomed.file", "uploads.id", "uploads.file"), 1),
    "identity": 1,
    **dict.fromkeys(("uploads.fence", "uploads.secret"), 1),
}
"""The projection that `find_import` reads."""


def find_import(document: Document, file_id: ObjectId) -> Document | None:
    """The unfinished upload that an earlier import of that version has left."""
    return next((entry for entry in document["uploads"] if entry["file"] == file_id), None)


def commit_import(
    record_id: ObjectId,
    info: MediaInfo,
    revision_floor: int,
    replaced: ObjectId | None,
    poster: Document | None,
    timings: StoreTimings,
) -> tuple[Document, Pipeline]:
    """Make the file current, and add a tombstone for the version `replaced`: one step for every reader.

    `revision_floor` is what `RevisionFloors.get` has returned. The revision is that of `next_revision`. The outbox stays as it is.
    `poster` names the poster that was written before. Returns the condition to add to the filter, that `replaced` is still current,
    and the update.
    """
    current: Document = {
        "file": ObjectId(info.file_id),
        "length": {"$literal": info.length},
        "content_type": {"$literal": info.content_type},
        "sha256": {"$literal": info.sha256},
        "etag": {"$literal": info.etag},
        "uploaded_at": info.uploaded_at,
    }
    if info.metadata_json != NO_METADATA:
        current["metadata"] = {"$literal": info.metadata_json}
    if info.media_facts_json is not None:
        current["media_facts"] = {"$literal": info.media_facts_json}
    if poster is not None:
        current["poster"] = {"$literal": poster}
    if info.owner:
        current["owner"] = {"$literal": info.owner}
    condition: Document = {"current": None} if replaced is None else {"current.file": replaced, "moving": None}
    old = [] if replaced is None else [tombstone(replaced, milliseconds(timings.tombstone_ttl))]
    uploads = {"$filter": {"input": "$uploads", "cond": {"$ne": ["$$this.id", record_id]}}}
    known = {"$max": [{"$ifNull": ["$revision", 0]}, revision_floor]}
    greater = {"$max": [info.revision, {"$add": [known, 1]}]}
    revision = {"$cond": [{"$eq": [known, 0]}, info.revision, greater]}
    file_key = ObjectId(info.id)
    identity = {"$cond": [{"$eq": ["$_id", file_key]}, "$$REMOVE", file_key]}
    stages: Pipeline = [
        # A $set of an object would merge into one that is there.
        {
            "$set": {
                "current": None,
                "doomed": {"$concatArrays": ["$doomed", old]},
                "uploads": uploads,
                "incoming": "$$REMOVE",
            }
        },
        {"$set": {"current": current, "revision": revision, "identity": identity}},
    ]
    return condition, with_next_due_at(stages, timings)
