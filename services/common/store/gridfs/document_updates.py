"""Updates of the `media` document, each an aggregation pipeline or an expression in one. Pure.

Times are MongoDB's `$$NOW`, so that the clocks of two processes are never compared. Values from clients are inside `$literal`:
a string that begins with `$` would be read as a field path. The stored names are explained in `documents`.
"""

from datetime import timedelta
from typing import Any

import bson
from bson import Binary, ObjectId

from services.common.media import NO_METADATA
from services.common.store.gridfs.admission import admit_upload
from services.common.store.gridfs.documents import Document
from services.common.store.gridfs.outbox_updates import append_event, has_room_for_unrelayed, without_event
from services.common.store.limits import MAX_FINISHED_UPLOADS, MAX_TOMBSTONES
from services.common.store.preconditions import Preconditions
from services.common.store.timings import StoreTimings
from services.common.store.upload_store import (
    NewUpload,
    StoredFile,
)

Pipeline = list[Document]

MAX_INLINE_TAIL_BYTES = 1024
"""Longer tails are stored as chunks: each change of the document costs MongoDB a copy of all that is in it."""


# Times.


def milliseconds(seconds: float) -> int:
    """The unit of date arithmetic in MongoDB."""
    return int(seconds * 1000)


def now_plus(delay_ms: Any) -> Document:
    """MongoDB's time plus a delay in milliseconds, given as a number or an expression."""
    return {"$add": ["$$NOW", delay_ms]}


def with_next_due_at(stages: Pipeline, timings: StoreTimings) -> Pipeline:
    """Append the stage that sets the time from which the garbage collector has work in the document.

    An empty document is due at once. Its last update is followed by its deletion, but events that are acknowledged out of order
    and a crash in between would leave it forever.
    """
    retry_after = milliseconds(timings.outbox_retry_after)
    retry_at = {"$min": {"$map": {"input": "$announce", "in": {"$add": ["$$this.at", retry_after]}}}}
    unfinished_moves = [{"$add": [at, retry_after]} for at in ("$moving.at", "$incoming.at", {"$min": "$arrived.at"})]
    due_times = [{"$min": "$uploads.expires_at"}, {"$min": "$doomed.due"}, {"$min": "$ended.until"}, retry_at]
    due_times += unfinished_moves
    if_empty = {"$cond": [{"$eq": ["$current", None]}, "$$NOW", None]}
    return [*stages, {"$set": {"attention": {"$ifNull": [{"$min": due_times}, if_empty]}}}]


# Expressions.


def preconditions_hold(preconditions: Preconditions) -> Document:
    """An expression: whether the preconditions hold for `current`."""
    current = {"$ifNull": ["$current", None]}
    # Null where there is no current version, which no entity tag equals.
    etag = {"$ifNull": ["$current.etag", {"$concat": ['"sha256-', "$current.sha256", '"']}]}
    tests: list[Document] = []
    if preconditions.must_not_exist:
        tests.append({"$eq": [current, None]})
    if preconditions.must_exist:
        tests.append({"$ne": [current, None]})
    if preconditions.etag_in is not None:
        tests.append({"$in": [etag, {"$literal": sorted(preconditions.etag_in)}]})
    if preconditions.etag_not_in:
        tests.append({"$not": [{"$in": [etag, {"$literal": sorted(preconditions.etag_not_in)}]}]})
    if preconditions.unmodified_since is not None:  # null, where there is no file, sorts before every date
        modified = {"$ifNull": ["$current.uploaded_at", None]}
        tests.append({"$lte": [modified, preconditions.unmodified_since + timedelta(milliseconds=999)]})
    return {"$and": tests}


def may_acquire(record_id: ObjectId, secret_digest: str | None, fencing_token: int | None) -> Document:
    """An expression: whether the upload is there, has that secret, has not expired, and has that fencing token, if one is given."""
    secret = {"$eq": [{"$ifNull": ["$$this.secret", None]}, secret_digest]}
    tests = [{"$eq": ["$$this.id", record_id]}, secret, {"$gt": ["$$this.expires_at", "$$NOW"]}]
    if fencing_token is not None:
        tests.append({"$eq": ["$$this.fence", fencing_token]})
    return {"$anyElementTrue": [{"$map": {"input": "$uploads", "in": {"$and": tests}}}]}


# Updates of unfinished uploads.


def add_upload(
    record_id: ObjectId,
    file_id: ObjectId,
    holder_id: ObjectId,
    client: str,
    secret_digest: str | None,
    new_upload: NewUpload,
    preconditions: Preconditions,
    timings: StoreTimings,
) -> Pipeline:
    """Add an upload, unless a precondition fails or a limit is reached: the caller looks for it in the result.

    An idle upload of the name may be evicted for it.
    """
    uploads = {"$ifNull": ["$uploads", []]}
    lease_ttl = milliseconds(timings.lease_ttl)
    lifetime = None if new_upload.ttl is None else milliseconds(new_upload.ttl)
    facts = dict(new_upload.metadata)
    entry = {
        "id": record_id,
        "secret": secret_digest,
        "file": file_id,
        "client": {"$literal": client},
        "fence": 1,
        "holder": holder_id,
        "lease_until": now_plus(lease_ttl) if lifetime is None else None,
        "expires_at": now_plus(lifetime or lease_ttl),
        "lifetime": lifetime,
        "offset": 0,
        "tail": Binary(b""),
        "length": new_upload.length,
        "facts": {"$literal": facts},
        **_owner_field(new_upload.owner),
    }
    allowed = {"$and": [preconditions_hold(preconditions), {"$lt": [{"$size": "$doomed"}, MAX_TOMBSTONES]}]}
    admission = admit_upload(client, len(bson.encode(facts)), resumable=lifetime is not None)
    # Its own id: `assign_name` may be repeated after a process was killed.
    kept = {"$and": [{"$ne": ["$$this.id", "$admission.evicted.id"]}, {"$ne": ["$$this.id", record_id]}]}
    others = {"$filter": {"input": "$uploads", "cond": kept}}
    evicted = {"$filter": {"input": "$uploads", "cond": {"$eq": ["$$this.id", "$admission.evicted.id"]}}}
    tombstones = {"$concatArrays": ["$doomed", *_tombstones_of(evicted, second_purge=True)]}
    empty_lists = {list_: {"$ifNull": [f"${list_}", []]} for list_ in ("ended", "doomed", "announce")}
    return with_next_due_at(
        [
            {"$set": {"current": {"$ifNull": ["$current", None]}, "uploads": uploads, **empty_lists}},
            {"$set": {"admission": {"$cond": [allowed, admission, {"fits": False}]}}},
            {
                "$set": {
                    "uploads": {"$cond": ["$admission.fits", {"$concatArrays": [others, [entry]]}, "$uploads"]},
                    "doomed": {"$cond": ["$admission.fits", tombstones, "$doomed"]},
                }
            },
            {"$unset": "admission"},
        ],
        timings,
    )


def set_upload_fields(record_id: ObjectId, fields: Document, timings: StoreTimings) -> Pipeline:
    """Set fields of one upload."""
    entry = {"$cond": [{"$eq": ["$$this.id", record_id]}, {"$mergeObjects": ["$$this", fields]}, "$$this"]}
    return with_next_due_at([{"$set": {"uploads": {"$map": {"input": "$uploads", "in": entry}}}}], timings)


def renew_lease(record_id: ObjectId, timings: StoreTimings) -> Pipeline:
    """Extend the lease from now on, where one is held. The upload does not expire before its lease ends."""
    until = now_plus(milliseconds(timings.lease_ttl))
    lease = {"$cond": [{"$eq": ["$$this.lease_until", None]}, None, until]}
    return set_upload_fields(
        record_id, {"lease_until": lease, "expires_at": {"$max": ["$$this.expires_at", until]}}, timings
    )


def increment_fencing_token(record_id: ObjectId, holder_id: ObjectId, timings: StoreTimings) -> Pipeline:
    """Acquire the upload, so that every older handle is void. `holder_id` proves later who has made this update."""
    until = now_plus(milliseconds(timings.lease_ttl))
    expires = {"$max": ["$$this.expires_at", until]}
    fence = {"$add": ["$$this.fence", 1]}
    return set_upload_fields(
        record_id, {"fence": fence, "holder": holder_id, "lease_until": until, "expires_at": expires}, timings
    )


def set_offset(
    record_id: ObjectId,
    offset: int,
    tail: bytes | int,
    length: int | None,
    timings: StoreTimings,
    *,
    keep_lease: bool,
    extend_expiry: bool,
) -> Pipeline:
    """Set the durable offset with its tail, and renew or release the lease. A tail in a chunk is given as the chunk's number."""
    lease_ttl = milliseconds(timings.lease_ttl)
    in_chunk = isinstance(tail, int)
    fields: Document = {
        "offset": offset,
        "tail": None if isinstance(tail, int) else Binary(tail),
        "tail_number": tail if in_chunk else None,
        "length": length,
        "lease_until": now_plus(lease_ttl) if keep_lease else None,
    }
    if extend_expiry:
        fields["expires_at"] = now_plus({"$ifNull": ["$$this.lifetime", lease_ttl]})
    return set_upload_fields(record_id, fields, timings)


def remove_upload(record_id: ObjectId, timings: StoreTimings) -> Pipeline:
    """Remove an upload that continues in another document; its blocks stay."""
    remaining = {"$filter": {"input": "$uploads", "cond": {"$ne": ["$$this.id", record_id]}}}
    return with_next_due_at([{"$set": {"uploads": remaining}}], timings)


# Updates that end an upload or a version.


def commit_upload(
    record_id: ObjectId,
    file_id: ObjectId,
    stored_file: StoredFile,
    owner: str,
    event_id: ObjectId,
    revision_floor: int,
    timings: StoreTimings,
    preconditions: Preconditions,
    *,
    relays_events: bool = False,
) -> tuple[Document, Pipeline]:
    """Make the file current, finish the upload, add a tombstone for the old version and an event: one step for every reader.

    `revision_floor` is what `RevisionFloors.get` has returned. Returns the condition to add to the filter, and the update.
    """
    current = {
        "file": file_id,
        "length": {"$literal": stored_file.length},
        "content_type": {"$literal": stored_file.content_type},
        "sha256": {"$literal": stored_file.sha256},
        "etag": {"$literal": stored_file.etag},
        "uploaded_at": "$$NOW",
        **_optional_fields(stored_file),
        **_owner_field(owner),
    }
    event_type = {"$cond": [{"$eq": ["$current", None]}, "file.created", "file.replaced"]}
    tombstones = {"$cond": [{"$eq": ["$current", None]}, [], [tombstone_of_current(timings)]]}
    stages: Pipeline = [
        # The second stage overwrites the old version, and a $set of an object would merge into one that is there.
        {
            "$set": {
                "doomed": {"$concatArrays": ["$doomed", tombstones, _tails_of(record_id)]},
                **append_event(
                    event_id,
                    event_type,
                    current,
                    revision_floor,
                    previous_owner="$current.owner",
                    unrelayed=relays_events,
                ),
            }
        },
        # A move that has not arrived yet is cancelled: the name is taken now.
        {"$set": {"current": None, "incoming": "$$REMOVE"}},
        {"$set": {"current": current, **finish_upload(record_id, "stored", stored_file)}},
    ]
    condition = {"moving": None, "$expr": change_allowed(preconditions, relays_events=relays_events)}
    return condition, with_next_due_at(stages, timings)


def change_allowed(preconditions: Preconditions, *, relays_events: bool) -> Document:
    """An expression: whether the preconditions hold, and the event of the change has room where it is to be relayed."""
    holds = preconditions_hold(preconditions)
    return {"$and": [holds, has_room_for_unrelayed()]} if relays_events else holds


def _optional_fields(stored_file: StoredFile) -> Document:
    """The fields with the metadata and the media facts of a version; each only where there are any."""
    metadata = {} if stored_file.metadata_json == NO_METADATA else {"metadata": {"$literal": stored_file.metadata_json}}
    facts = stored_file.media_facts_json
    return metadata if facts is None else {**metadata, "media_facts": {"$literal": facts}}


def _owner_field(owner: str) -> Document:
    """The field with the owner of an upload or a version, where it has one."""
    return {"owner": {"$literal": owner}} if owner else {}


def remove_event(event_id: ObjectId, timings: StoreTimings) -> Pipeline:
    """Remove an event from the outbox and mark the earlier ones as published.

    These stay for their own writers, which find out by them that their commits were made. An event that is not relayed stays too.
    """
    return with_next_due_at([{"$set": without_event(event_id)}], timings)


def tombstone(file_id: Any, delay_ms: int, *, second_purge: bool = False) -> Document:
    """A version to delete after a delay in milliseconds; with `second_purge` its blocks are deleted twice."""
    return {"file": file_id, "due": now_plus(delay_ms), "late": second_purge}


def _tombstones_of(uploads: Document, *, second_purge: bool) -> list[Document]:
    """Expressions: the tombstones of the files of these uploads, and of the chunks with their tails."""
    with_tails = {"$filter": {"input": uploads, "cond": {"$eq": ["$$this.tail_chunks", True]}}}
    return [
        {"$map": {"input": uploads, "in": tombstone("$$this.file", 0, second_purge=second_purge)}},
        {"$map": {"input": with_tails, "in": tombstone("$$this.id", 0, second_purge=second_purge)}},
    ]


def _tails_of(record_id: ObjectId) -> Document:
    """An expression: the tombstone of the chunks with tails of one upload, where it has any."""
    return _tombstones_of(_uploads_with_id(record_id), second_purge=False)[1]


def _uploads_with_id(record_id: ObjectId) -> Document:
    return {"$filter": {"input": "$uploads", "cond": {"$eq": ["$$this.id", record_id]}}}


def tombstone_of_current(timings: StoreTimings) -> Document:
    """The tombstone of the current version."""
    return tombstone("$current.file", milliseconds(timings.tombstone_ttl))


def finish_upload(record_id: ObjectId, outcome: str, stored_file: StoredFile | None) -> Document:
    """The fields that hold unfinished and finished uploads, with one moved from the first to the second.

    Only an upload with a TTL of its own, or one whose file asks for it, is kept as finished. Those whose time has passed are
    dropped. The metadata of one whose file is not there is not kept: nothing is answered from it.
    """
    own_ttl = milliseconds(stored_file.outcome_ttl) if stored_file and stored_file.outcome_ttl is not None else None
    ttl = {"$ifNull": ["$$this.lifetime", own_ttl]}
    has_ttl = {"$and": [{"$eq": ["$$this.id", record_id]}, {"$ne": [ttl, None]}]}
    ending = {"$filter": {"input": "$uploads", "cond": has_ttl}}
    entry = {
        "id": "$$this.id",
        "secret": "$$this.secret",
        "owner": "$$this.owner",
        "file": "$$this.file",
        "outcome": outcome,
        "length": {"$literal": stored_file.length} if stored_file else "$$this.offset",
        "sha256": {"$literal": stored_file.sha256} if stored_file else "",
        "etag": {"$literal": stored_file.etag} if stored_file else None,
        "facts": "$$this.facts" if outcome == "stored" else {},
        "until": now_plus(ttl),
    }
    kept: Document = {"$filter": {"input": "$ended", "cond": {"$gt": ["$$this.until", "$$NOW"]}}}
    if outcome == "stored":  # then the files of all others were replaced
        kept = {"$map": {"input": kept, "in": {"$mergeObjects": ["$$this", {"facts": {}}]}}}
    added = {"$map": {"input": ending, "in": entry}}
    return {
        "uploads": {"$filter": {"input": "$uploads", "cond": {"$ne": ["$$this.id", record_id]}}},
        "ended": {"$slice": [{"$concatArrays": [kept, added]}, -MAX_FINISHED_UPLOADS]},
    }


def abort_upload(
    record_id: ObjectId, file_id: ObjectId, timings: StoreTimings, *, name_taken: bool, second_purge: bool
) -> Pipeline:
    """End an upload without a file; its blocks are due for deletion at once."""
    remaining = {"$filter": {"input": "$uploads", "cond": {"$ne": ["$$this.id", record_id]}}}
    uploads: Document = finish_upload(record_id, "lost", None) if name_taken else {"uploads": remaining}
    blocks = tombstone(file_id, 0, second_purge=second_purge)
    tombstones = {"$concatArrays": ["$doomed", [blocks], _tails_of(record_id)]}
    return with_next_due_at([{"$set": {**uploads, "doomed": tombstones}}], timings)


def expire_uploads(timings: StoreTimings, *, keep_unrelayed: bool = True) -> Pipeline:
    """Add tombstones for all expired uploads; drop finished uploads and published events whose time has passed.

    A writer that comes back finds its handle void. Without `keep_unrelayed` no event waits to be relayed: webhooks are off now.
    """
    retry_at = {"$add": ["$$this.at", milliseconds(timings.outbox_retry_after)]}
    is_relayed = [{"$ne": ["$$this.unrelayed", True]}] if keep_unrelayed else []
    told = {"$and": [{"$eq": ["$$this.told", True]}, *is_relayed, {"$lte": [retry_at, "$$NOW"]}]}
    expired = {"$filter": {"input": "$uploads", "cond": {"$lte": ["$$this.expires_at", "$$NOW"]}}}
    tombstones = _tombstones_of(expired, second_purge=True)
    due = {"$lte": ["$$this.due", "$$NOW"]}
    # Its blocks are deleted next. It is not restored any more, also where another primary's clock is behind.
    marked = {"$cond": [due, {"$mergeObjects": ["$$this", {"purging": True}]}, "$$this"]}
    waiting = {"$map": {"input": "$doomed", "in": marked}}
    return with_next_due_at(
        [
            {
                "$set": {
                    "doomed": {"$concatArrays": [waiting, *tombstones]},
                    "uploads": {"$filter": {"input": "$uploads", "cond": {"$gt": ["$$this.expires_at", "$$NOW"]}}},
                    "ended": {"$filter": {"input": "$ended", "cond": {"$gt": ["$$this.until", "$$NOW"]}}},
                    "announce": {"$filter": {"input": "$announce", "cond": {"$not": [told]}}},
                }
            }
        ],
        timings,
    )


def mark_purged(file_id: ObjectId, timings: StoreTimings) -> Pipeline:
    """Remove the tombstone of a version whose blocks are deleted, or postpone it where they are to be deleted a second time.

    Only where it was due: of two collectors the second must not remove what the first has postponed.
    """
    due = {"$and": [{"$eq": ["$$this.file", file_id]}, {"$lte": ["$$this.due", "$$NOW"]}]}
    later = tombstone(file_id, milliseconds(timings.second_purge_after))
    postponed = {"$map": {"input": "$doomed", "in": {"$cond": [due, later, "$$this"]}}}
    removed = {"$filter": {"input": "$doomed", "cond": {"$not": [due]}}}
    second_purge = {"$anyElementTrue": [{"$map": {"input": "$doomed", "in": {"$and": [due, "$$this.late"]}}}]}
    restorable = {"$cond": [{"$eq": ["$restorable.file", file_id]}, "$$REMOVE", "$restorable"]}
    doomed = {"$cond": [second_purge, postponed, removed]}
    return with_next_due_at([{"$set": {"doomed": doomed, "restorable": restorable}}], timings)
