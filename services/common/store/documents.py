"""The `media` document as values: every change of it as a filter and an aggregation pipeline. Pure; it names no driver's client.

One document is one truth: `current` is what readers see, `uploads` are unfinished, `doomed` are versions to delete, `announce` are
events to push. Times are MongoDB's (`$$NOW`), so that no two clocks are ever compared. Values that a client chose stand in
`$literal`, since a string that begins with `$` would be read as a field path.
"""

from typing import Any

from bson import Binary, ObjectId

from services.common.media import MediaInfo, MediaName
from services.common.store.port import Written

Document = dict[str, Any]
Pipeline = list[Document]

MAX_UPLOADS = 64
"""Unfinished uploads of one name: the document stays far from MongoDB's 16 MiB."""
LEASE_MS = 30_000
"""How long a writer may be silent before others take it for gone."""


def key(name: MediaName | None, upload: ObjectId) -> Document:
    """What identifies a document. A nameless one has its upload's id for a name: no client can choose an ObjectId."""
    if name is None:
        return {"folder": None, "filename": upload}
    return {"folder": name.folder, "filename": name.filename}


def begin(upload: ObjectId, file: ObjectId) -> Pipeline:
    """Add an upload, unless a file stands there or too many uploads do. The caller looks whether it is in the result."""
    uploads = {"$ifNull": ["$uploads", []]}
    current = {"$ifNull": ["$current", None]}
    entry = {
        "id": upload,
        "file": file,
        "fence": 1,
        "lease_until": {"$add": ["$$NOW", LEASE_MS]},
        "expires_at": {"$add": ["$$NOW", LEASE_MS]},
        "offset": 0,
        "tail": Binary(b""),
        "length": None,
    }
    free = {"$and": [{"$eq": [current, None]}, {"$lt": [{"$size": uploads}, MAX_UPLOADS]}]}
    return [
        {
            "$set": {
                "current": current,
                "uploads": {"$cond": [free, {"$concatArrays": [uploads, [entry]]}, uploads]},
                "doomed": {"$ifNull": ["$doomed", []]},
                "announce": {"$ifNull": ["$announce", []]},
            }
        }
    ]


def mine(media: ObjectId, upload: ObjectId, fence: int) -> Document:
    """A filter that only the holder of the fence matches."""
    return {"_id": media, "uploads": {"$elemMatch": {"id": upload, "fence": fence}}}


def change(upload: ObjectId, fields: Document) -> Pipeline:
    """Set fields of one upload."""
    entry = {"$cond": [{"$eq": ["$$this.id", upload]}, {"$mergeObjects": ["$$this", fields]}, "$$this"]}
    return [{"$set": {"uploads": {"$map": {"input": "$uploads", "in": entry}}}}]


def renew(upload: ObjectId) -> Pipeline:
    """Prolong lease and expiry from now."""
    until = {"$add": ["$$NOW", LEASE_MS]}
    return change(upload, {"lease_until": until, "expires_at": until})


def raise_fence(upload: ObjectId) -> Pipeline:
    """Take the upload away from whoever holds it."""
    return change(upload, {"fence": {"$add": ["$$this.fence", 1]}})


def drop(upload: ObjectId) -> Document:
    """Forget one upload."""
    return {"$pull": {"uploads": {"id": upload}}}


def commit(upload: ObjectId, file: ObjectId, written: Written, event: str, kind: str) -> Pipeline:
    """Make the file current, end the upload, note the event: one step for every reader."""
    current = {
        "file": file,
        "length": {"$literal": written.length},
        "content_type": {"$literal": written.content_type},
        "sha256": {"$literal": written.sha256},
        "uploaded_at": "$$NOW",
    }
    others = {"$filter": {"input": "$uploads", "cond": {"$ne": ["$$this.id", upload]}}}
    note = {"id": {"$literal": event}, "type": {"$literal": kind}}
    # Two stages: a $set of an object merges into an object that is there, and the old version's members must not shine through.
    return [
        {"$set": {"current": None}},
        {"$set": {"current": current, "uploads": others, "announce": {"$concatArrays": ["$announce", [note]]}}},
    ]


def empty(media: ObjectId) -> Document:
    """A filter that matches the document only while nothing is left in it."""
    return {"_id": media, "current": None, "uploads": [], "doomed": [], "announce": []}


def info(document: Document) -> MediaInfo:
    """The current file of a document that has one."""
    current = document["current"]
    return MediaInfo(
        id=str(document["_id"]),
        file=str(current["file"]),
        folder=document["folder"],
        filename=document["filename"],
        length=current["length"],
        content_type=current["content_type"],
        sha256=current["sha256"],
        uploaded_at=current["uploaded_at"],
    )
