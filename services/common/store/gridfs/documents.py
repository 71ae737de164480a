"""The `media` document as values: every change of it as a filter and an aggregation pipeline. Pure; it names no driver's client.

One document is one truth: `current` is what readers see, `uploads` are unfinished, `ended` remembers what became of them, `doomed`
are versions to delete, `announce` are events to push, `attention` is the moment from which the janitor has something to do here.
Times are MongoDB's (`$$NOW`), so that no two clocks are ever compared. Values that a client chose stand in `$literal`, since a
string that begins with `$` would be read as a field path.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from bson import Binary, ObjectId

from services.common.media import MediaInfo, MediaName
from services.common.store.upload_store import FinishedUpload, InProgressUpload, NewUpload, Preconditions

Document = dict[str, Any]
Pipeline = list[Document]

MAX_UPLOADS_PER_NAME = 64
"""Unfinished uploads of one name: the document stays far from MongoDB's 16 MiB."""
MAX_TOMBSTONES = 10_000
"""Versions of one name that wait to be deleted: who replaces it faster is told to wait."""
MAX_TAIL_BYTES = 8 * 1024 * 1024
"""Bytes of all tails in one document."""
MAX_RETAINED_ENTRIES = 64
"""Events of one name that wait for Redis, and ends that are remembered: the newest count."""


@dataclass(frozen=True, slots=True)
class StoreTimings:
    """Milliseconds."""

    lease_ttl_ms: int = 30_000
    """How long a writer may be silent before others take it for gone."""
    tombstone_ttl_ms: int = 3_600_000
    """How long readers under way may go on with a version that was replaced or deleted."""
    second_purge_after_ms: int = 600_000
    """When the blocks of a writer that did not say good-bye are swept again: it may have been stopped before its last insert."""
    outbox_retry_after_ms: int = 30_000
    """What was not announced after so long is announced by the janitor: later than any commit is asked after, which it proves."""


def name_filter(name: MediaName | None, record_id: ObjectId) -> Document:
    """What identifies a document. A nameless one has its upload's id for a name: no client can choose an ObjectId."""
    if name is None:
        return {"folder": None, "filename": record_id}
    return {"folder": name.folder, "filename": name.filename}


def decode_name(document: Document) -> MediaName | None:
    """The name of a document that has one."""
    return None if document["folder"] is None else MediaName(document["folder"], document["filename"])


def now_plus(delay_ms: Any) -> Document:
    """So much after MongoDB's now."""
    return {"$add": ["$$NOW", delay_ms]}


def preconditions_hold(preconditions: Preconditions) -> Document:
    """An expression: whether `current` is as expected."""
    sha256 = {"$ifNull": ["$current.sha256", None]}
    tests: list[Document] = []
    if preconditions.must_not_exist:
        tests.append({"$eq": [sha256, None]})
    if preconditions.must_exist:
        tests.append({"$ne": [sha256, None]})
    if preconditions.sha256_in is not None:
        tests.append({"$in": [sha256, {"$literal": sorted(preconditions.sha256_in)}]})
    if preconditions.sha256_not_in:
        tests.append({"$not": [{"$in": [sha256, {"$literal": sorted(preconditions.sha256_not_in)}]}]})
    if preconditions.unmodified_since is not None:  # null, where there is no file, is before every date
        modified = {"$ifNull": ["$current.uploaded_at", None]}
        tests.append({"$lte": [modified, preconditions.unmodified_since + timedelta(milliseconds=999)]})
    return {"$and": tests}


def with_next_due_at(stages: Pipeline, timings: StoreTimings) -> Pipeline:
    """The pipeline with its last stage: the moment from which the janitor has something to do."""
    told = {"$min": {"$map": {"input": "$announce", "in": {"$add": ["$$this.at", timings.outbox_retry_after_ms]}}}}
    parts = [{"$min": "$uploads.expires_at"}, {"$min": "$doomed.due"}, {"$min": "$ended.until"}, told]
    return [*stages, {"$set": {"attention": {"$min": parts}}}]


def add_upload(
    record_id: ObjectId,
    file_id: ObjectId,
    holder_id: ObjectId,
    new_upload: NewUpload,
    preconditions: Preconditions,
    timings: StoreTimings,
) -> Pipeline:
    """Add an upload, unless `current` is other than expected or too many are there. The caller looks into the result for it."""
    uploads = {"$ifNull": ["$uploads", []]}
    lifetime = None if new_upload.ttl is None else int(new_upload.ttl * 1000)
    entry = {
        "id": record_id,
        "file": file_id,
        "fence": 1,
        "holder": holder_id,
        "lease_until": now_plus(timings.lease_ttl_ms) if lifetime is None else None,
        "expires_at": now_plus(lifetime or timings.lease_ttl_ms),
        "lifetime": lifetime,
        "offset": 0,
        "tail": Binary(b""),
        "length": new_upload.length,
        "facts": {"$literal": dict(new_upload.metadata)},
    }
    few = [
        {"$lt": [{"$size": uploads}, MAX_UPLOADS_PER_NAME]},
        {"$lt": [{"$size": {"$ifNull": ["$doomed", []]}}, MAX_TOMBSTONES]},
    ]
    free = {"$and": [preconditions_hold(preconditions), *few]}
    empty_lists = {list_: {"$ifNull": [f"${list_}", []]} for list_ in ("ended", "doomed", "announce")}
    added = {"$cond": [free, {"$concatArrays": [uploads, [entry]]}, uploads]}
    return with_next_due_at(
        [{"$set": {"current": {"$ifNull": ["$current", None]}, "uploads": added, **empty_lists}}], timings
    )


def document_filter(media_id: ObjectId, name: MediaName | None, record_id: ObjectId) -> Document:
    """A filter for one document. With its key: a mongos before 7.1 finds and changes nothing by `_id` alone."""
    return {"_id": media_id, **name_filter(name, record_id)}


def fenced_filter(media_id: ObjectId, name: MediaName | None, record_id: ObjectId, fencing_token: int) -> Document:
    """A filter that only the holder of the fence matches."""
    return {
        **document_filter(media_id, name, record_id),
        "uploads": {"$elemMatch": {"id": record_id, "fence": fencing_token}},
    }


def upload_not_expired(record_id: ObjectId) -> Document:
    """An expression: whether the upload is there and has not expired."""
    test = {"$and": [{"$eq": ["$$this.id", record_id]}, {"$gt": ["$$this.expires_at", "$$NOW"]}]}
    return {"$anyElementTrue": [{"$map": {"input": "$uploads", "in": test}}]}


def set_upload_fields(record_id: ObjectId, fields: Document, timings: StoreTimings) -> Pipeline:
    """Set fields of one upload."""
    entry = {"$cond": [{"$eq": ["$$this.id", record_id]}, {"$mergeObjects": ["$$this", fields]}, "$$this"]}
    return with_next_due_at([{"$set": {"uploads": {"$map": {"input": "$uploads", "in": entry}}}}], timings)


def renew_lease(record_id: ObjectId, timings: StoreTimings) -> Pipeline:
    """Prolong the lease from now, where one is held. An upload with a lifetime of its own lives as long at least."""
    until = now_plus(timings.lease_ttl_ms)
    lease = {"$cond": [{"$eq": ["$$this.lease_until", None]}, None, until]}
    return set_upload_fields(
        record_id, {"lease_until": lease, "expires_at": {"$max": ["$$this.expires_at", until]}}, timings
    )


def increment_fencing_token(record_id: ObjectId, holder_id: ObjectId, timings: StoreTimings) -> Pipeline:
    """Take the upload away from whoever holds it. `holder` proves later whose doing it was."""
    until = now_plus(timings.lease_ttl_ms)
    expires = {"$max": ["$$this.expires_at", until]}
    fence = {"$add": ["$$this.fence", 1]}
    return set_upload_fields(
        record_id, {"fence": fence, "holder": holder_id, "lease_until": until, "expires_at": expires}, timings
    )


def tails_fit(record_id: ObjectId, tail: bytes) -> Document:
    """An expression: whether the tails of the other uploads leave room for this one."""
    others = {"$filter": {"input": "$uploads", "cond": {"$ne": ["$$this.id", record_id]}}}
    sizes = {"$map": {"input": others, "in": {"$binarySize": "$$this.tail"}}}
    return {"$lte": [{"$sum": sizes}, MAX_TAIL_BYTES - len(tail)]}


def set_offset(
    record_id: ObjectId,
    offset: int,
    tail: bytes,
    length: int | None,
    timings: StoreTimings,
    *,
    keep_lease: bool,
    extend_expiry: bool,
) -> Pipeline:
    """Set the durable offset with its tail, and the lease, which is free where nobody holds more than that."""
    fields: Document = {
        "offset": offset,
        "tail": Binary(tail),
        "length": length,
        "lease_until": now_plus(timings.lease_ttl_ms) if keep_lease else None,
    }
    if extend_expiry:
        fields["expires_at"] = now_plus({"$ifNull": ["$$this.lifetime", timings.lease_ttl_ms]})
    return set_upload_fields(record_id, fields, timings)


def empty_document_filter(media_id: ObjectId) -> Document:
    """A filter that matches the document only while nothing is left in it."""
    return {"_id": media_id, "current": None, "uploads": [], "ended": [], "doomed": [], "announce": []}


def decode_media_info(document: Document, version: Document | None = None) -> MediaInfo:
    """The current file of a document that has one, or the one that `of` describes."""
    current = document["current"] if version is None else version
    return MediaInfo(
        id=str(document["_id"]),
        file_id=str(current["file"]),
        folder=document["folder"],
        filename=document["filename"],
        length=current["length"],
        content_type=current["content_type"],
        sha256=current["sha256"],
        uploaded_at=current["uploaded_at"],
    )


def find_upload(document: Document, record_id: ObjectId) -> Document | None:
    """One unfinished upload."""
    return next((entry for entry in document["uploads"] if entry["id"] == record_id), None)


def decode_in_progress(document: Document, entry: Document, *, write_in_progress: bool) -> InProgressUpload:
    """An unfinished upload as its callers see it."""
    return InProgressUpload(
        media_id=str(document["_id"]),
        name=decode_name(document),
        file_id=str(entry["file"]),
        offset=entry["offset"],
        tail=bytes(entry["tail"]),
        length=entry["length"],
        metadata=entry["facts"],
        expires_at=entry["expires_at"],
        write_in_progress=write_in_progress,
    )


NAME_PROJECTION = {"folder": 1, "filename": 1}
"""The projection whose result is the filter that `place` makes."""
TOUCH_UPDATE: Pipeline = [{"$set": {"asked_at": "$$NOW"}}]
"""A change that means nothing but is journalled."""
UPLOAD_PROJECTION = {**dict.fromkeys(("folder", "filename", "uploads", "ended"), 1), "now": "$$NOW"}
"""The projection that `state` reads."""


def decode_upload(document: Document, record_id: ObjectId) -> InProgressUpload | FinishedUpload | None:
    """What the document says of an upload. One that has expired is not there, reaped or not."""
    if (found := find_upload(document, record_id)) is not None:
        now, lease = document["now"], found["lease_until"]
        held = lease is not None and lease > now  # who is silent for longer was killed, and holds no bytes
        return decode_in_progress(document, found, write_in_progress=held) if found["expires_at"] > now else None
    for end in document["ended"]:
        if end["id"] == record_id:
            return FinishedUpload(
                outcome=end["outcome"],
                name=decode_name(document),
                length=end["length"],
                sha256=end["sha256"],
                metadata=end["facts"],
                expires_at=end["until"],
            )
    return None
