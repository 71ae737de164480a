"""The `media` document as values: filters, projections and decoding. Pure. Updates are built in `document_updates`.

One document holds the whole truth about one file name; every change of it is one atomic update. Stored names and their meaning:

    folder, filename   the name; (null, record id) for an upload without a name
    current            the version that readers see, or null: file (id of its bytes), length, content_type, sha256, etag,
                       uploaded_at, metadata (a JSON object as text, because its keys may be any text), media_facts (JSON as text),
                       poster (id, etag), owner (the subject that uploaded it, missing where there is none)
    uploads            unfinished uploads: id (record id), secret (SHA-256 of the secret in its id, or null), file, client (a
                       digest of who created it), owner (the subject, or missing), fence (fencing token), holder
                       (who raised it last), lease_until, expires_at, lifetime (TTL in ms or null), offset, tail (null where it is
                       in a chunk), tail_number (of that chunk), tail_chunks (there have been some), length, facts (metadata)
    ended              finished uploads: id, secret, owner, file, outcome (stored, lost), length, sha256, etag, facts, until; in the
                       document of a nameless upload also `named`: it continues in the document `media`
    doomed             tombstones, versions to delete: file, due, late (purge a second time)
    revision           how many changes of the name were committed; see `revisions`
    announce           the outbox, events to publish, in the order of their commits: id, type, of (the version), at, revision,
                       identity, previous (where the file was moved from), told (it was published), unrelayed (true: its
                       deliveries are not stored yet), previous_owner (of the version that was replaced)
    attention          next_due_at, the time from which the garbage collector has work here
    identity           the id of the file of this name; missing where it is the document's own, until a file has moved
    restorable         the version that was deleted last, while `doomed` has it
    moving, incoming, arrived   moves that are in progress; see `move_updates`
    asked_at           set by `TOUCH_UPDATE` only

`etag` is missing in what was written before it was stored: it is derived from `sha256` then. A missing `revision` is 0. A version
without `metadata` has none; one without `media_facts` was not examined.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from bson import ObjectId

from services.common.media import NO_METADATA, MediaInfo, MediaName, sha256_etag
from services.common.store import upload_ids
from services.common.store.upload_store import (
    FinishedUpload,
    InProgressUpload,
    OutboxEvent,
    PreviousName,
    UploadHandle,
    UploadState,
)

Document = dict[str, Any]

TOUCH_UPDATE: Document = {"$currentDate": {"asked_at": True}}
"""An update without a meaning of its own, made for being journaled: 128 bytes. A pipeline would journal the whole document."""
NAME_PROJECTION = {"folder": 1, "filename": 1}
"""The projection whose result is a filter with the shard key, as `document_filter` makes it."""
MEDIA_PROJECTION = {"folder": 1, "filename": 1, "current": 1, "revision": 1, "identity": 1, "moving": 1}
"""The projection that `decode_media_info` reads."""


def upload_projection(record_id: ObjectId) -> Document:
    """The projection that `decode_upload` reads: of one upload, because the others of its name may be many."""
    return {
        **dict.fromkeys(("folder", "filename", "current.file", "current.sha256"), 1),
        **{name: _with_id(name, record_id) for name in ("uploads", "ended")},
        "now": "$$NOW",
    }


def play_projection(record_id: ObjectId) -> Document:
    """The projection that says what an upload is now, for the side that reads."""
    return {**{name: _with_id(name, record_id) for name in ("uploads", "ended")}, "now": "$$NOW"}


def commit_projection(record_id: ObjectId) -> Document:
    """The projection from which the outcome of a change is read: the outbox, and what is left of the upload."""
    return {**upload_projection(record_id), "announce": 1}


def _with_id(name: str, record_id: ObjectId) -> Document:
    entries = {"$ifNull": [f"${name}", []]}
    return {"$filter": {"input": entries, "cond": {"$eq": ["$$this.id", record_id]}}}


class UploadKey(NamedTuple):
    """The ids behind a handle: of the document, of the upload in it, and of the bytes in `fs.chunks`."""

    media_id: ObjectId
    record_id: ObjectId
    file_id: ObjectId


def make_handle(
    key: UploadKey, name: MediaName | None, fencing_token: int, secret: str, owner: str = ""
) -> UploadHandle:
    """Make the handle of an upload. Its id names the document and the upload, its store key the bytes."""
    upload_id = upload_ids.format_upload_id(key.media_id, key.record_id, secret)
    return UploadHandle(upload_id, name, fencing_token, str(key.file_id), owner)


def upload_key(upload: UploadHandle) -> UploadKey:
    """Return the ids behind a handle that `make_handle` has made."""
    media_id, record_id = upload.upload_id.split("-")[:2]
    return UploadKey(ObjectId(media_id), ObjectId(record_id), ObjectId(upload.store_key))


class RecordKey(NamedTuple):
    """An id of an upload as it is looked for: of the document, of the upload in it, and the digest of its secret."""

    media_id: ObjectId
    record_id: ObjectId
    secret_digest: str | None


def parse_upload_id(upload_id: str) -> RecordKey | None:
    """Return the parts of an id, None where the text has not that form."""
    found = upload_ids.parse_upload_id(upload_id)
    return found and RecordKey(ObjectId(found.media_id), ObjectId(found.record_id), found.secret_digest)


def name_filter(name: MediaName | None, record_id: ObjectId) -> Document:
    """A filter by the shard key. A document without a name has its upload's id instead: no client can choose an ObjectId."""
    if name is None:
        return {"folder": None, "filename": record_id}
    return {"folder": name.folder, "filename": name.filename}


def document_filter(media_id: ObjectId, name: MediaName | None, record_id: ObjectId) -> Document:
    """A filter for one document, with its shard key: a mongos before 7.1 refuses a find-and-modify by `_id` alone."""
    return {"_id": media_id, **name_filter(name, record_id)}


def fenced_filter(key: UploadKey, name: MediaName | None, fencing_token: int) -> Document:
    """A filter that matches only while the upload has that fencing token."""
    return {
        **document_filter(key.media_id, name, key.record_id),
        "uploads": {"$elemMatch": {"id": key.record_id, "fence": fencing_token}},
    }


def empty_document_filter(media_id: ObjectId) -> Document:
    """A filter that matches the document only while nothing is left in it."""
    lists: Document = {list_: [] for list_ in ("uploads", "ended", "doomed", "announce")}
    return {"_id": media_id, "current": None, **lists, "incoming": None, "arrived": {"$in": [None, []]}}


def decode_name(document: Document) -> MediaName | None:
    """The name of a document, None where it has none."""
    return None if document["folder"] is None else MediaName(document["folder"], document["filename"])


def identity_of(document: Document) -> ObjectId:
    """The id of the file of a document, or that of the next one."""
    identity: ObjectId = document.get("identity") or document["_id"]
    return identity


def decode_media_info(document: Document) -> MediaInfo:
    """The current file of a document that has one."""
    return _decode_version(document, document["current"], document.get("revision", 0), document.get("identity"))


def _decode_version(document: Document, current: Document, revision: int, identity: ObjectId | None) -> MediaInfo:
    return MediaInfo(
        id=str(identity or document["_id"]),
        file_id=str(current["file"]),
        folder=document["folder"],
        filename=document["filename"],
        length=current["length"],
        content_type=current["content_type"],
        sha256=current["sha256"],
        uploaded_at=current["uploaded_at"],
        stored_etag=current.get("etag"),
        metadata_json=current.get("metadata", NO_METADATA),
        revision=revision,
        media_facts_json=current.get("media_facts"),
        poster_etag=(current.get("poster") or {}).get("etag"),
        owner=current.get("owner", ""),
    )


def encode_files_entry(
    name: MediaName, length: int, content_type: str, sha256: str | None, uploaded_at: datetime
) -> Document:
    """The `fs.files` entry of a file, for other tools."""
    return {
        "length": length,
        "uploadDate": uploaded_at,
        "filename": f"{name.folder}/{name.filename}" if name.folder else name.filename,
        "metadata": {"contentType": content_type, "sha256": sha256},
    }


def decode_outbox_event(document: Document, entry: Document, read_at: float) -> OutboxEvent:
    """One event of the outbox, with the revision that its change has made."""
    info = _decode_version(document, entry["of"], entry.get("revision", 0), entry.get("identity"))
    previous = entry.get("previous")
    return OutboxEvent(
        str(entry["id"]),
        entry["type"],
        info,
        read_at,
        name_key=str(document["_id"]),
        previous=previous and PreviousName(MediaName(previous["folder"], previous["filename"]), previous["revision"]),
        previous_owner=entry.get("previous_owner", ""),
    )


def decode_committed_event(document: Document, event_id: ObjectId, read_at: float) -> OutboxEvent | None:
    """The event with that id and the unpublished ones before it, None where the outbox does not have it."""
    earlier: list[OutboxEvent] = []
    to_relay: list[OutboxEvent] = []
    for entry in document["announce"]:
        event = decode_outbox_event(document, entry, read_at)
        if entry.get("unrelayed"):
            to_relay.append(event)
        if entry["id"] == event_id:
            return replace(event, earlier=tuple(earlier), to_relay=tuple(to_relay))
        if not entry.get("told"):
            earlier.append(event)
    return None


def find_upload(document: Document, record_id: ObjectId) -> Document | None:
    """The entry of one unfinished upload."""
    return next((entry for entry in document["uploads"] if entry["id"] == record_id), None)


def decode_in_progress(document: Document, entry: Document, *, write_in_progress: bool) -> InProgressUpload:
    """The state of an unfinished upload."""
    return InProgressUpload(
        name=decode_name(document),
        offset=entry["offset"],
        tail=bytes(entry["tail"] or b""),
        length=entry["length"],
        metadata=entry["facts"],
        expires_at=entry["expires_at"],
        write_in_progress=write_in_progress,
        owner=entry.get("owner", ""),
    )


def decode_upload(document: Document, key: RecordKey) -> UploadState:
    """The state of an upload. One that has expired is not found, whether it has been collected or not.

    Nor is one whose id has another secret.
    """
    if (entry := find_upload(document, key.record_id)) is not None:
        if entry.get("secret") != key.secret_digest:
            return None
        now, lease = document["now"], entry["lease_until"]
        # A writer whose lease has ended was killed, and holds no bytes that would become durable.
        leased = lease is not None and lease > now
        return decode_in_progress(document, entry, write_in_progress=leased) if entry["expires_at"] > now else None
    for finished in document["ended"]:
        is_this = finished["id"] == key.record_id and finished.get("secret") == key.secret_digest
        if is_this and finished["outcome"] != "named":
            return _decode_finished(document, finished)
    return None


def _decode_finished(document: Document, entry: Document) -> FinishedUpload:
    sha256 = entry["sha256"] or None  # stored as "" where the upload was lost
    outcome = entry["outcome"]
    if outcome == "stored" and not _is_current(document.get("current"), entry):
        outcome = "removed"
    return FinishedUpload(
        outcome=outcome,
        name=decode_name(document),
        length=entry["length"],
        etag=entry.get("etag") or (sha256 and sha256_etag(sha256)),
        sha256=sha256,
        metadata=entry["facts"],
        expires_at=entry["until"],
        owner=entry.get("owner", ""),
    )


def _is_current(current: Document | None, finished: Document) -> bool:
    """Whether the file of a finished upload is there. What was written before its id was stored is compared by its bytes."""
    if current is None:
        return False
    if "file" in finished:
        return bool(current["file"] == finished["file"])
    return bool(current["sha256"] == finished["sha256"])
