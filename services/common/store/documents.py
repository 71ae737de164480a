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
from services.common.store.port import Ended, Expected, Open, Plan

Document = dict[str, Any]
Pipeline = list[Document]

MAX_UPLOADS = 64
"""Unfinished uploads of one name: the document stays far from MongoDB's 16 MiB."""
MAX_DOOMED = 10_000
"""Versions of one name that wait to be deleted: who replaces it faster is told to wait."""
MAX_TAILS = 8 * 1024 * 1024
"""Bytes of all tails in one document."""
MAX_NOTES = 64
"""Events of one name that wait for Redis, and ends that are remembered: the newest count."""


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds."""

    lease: int = 30_000
    """How long a writer may be silent before others take it for gone."""
    grace: int = 3_600_000
    """How long readers under way may go on with a version that was replaced or deleted."""
    late: int = 600_000
    """When the blocks of a writer that did not say good-bye are swept again: it may have been stopped before its last insert."""
    told: int = 30_000
    """What was not announced after so long is announced by the janitor: later than any commit is asked after, which it proves."""


def key(name: MediaName | None, upload: ObjectId) -> Document:
    """What identifies a document. A nameless one has its upload's id for a name: no client can choose an ObjectId."""
    if name is None:
        return {"folder": None, "filename": upload}
    return {"folder": name.folder, "filename": name.filename}


def name_of(document: Document) -> MediaName | None:
    """The name of a document that has one."""
    return None if document["folder"] is None else MediaName(document["folder"], document["filename"])


def in_time(milliseconds: Any) -> Document:
    """So much after MongoDB's now."""
    return {"$add": ["$$NOW", milliseconds]}


def holds(expected: Expected) -> Document:
    """An expression: whether `current` is as expected."""
    sha256 = {"$ifNull": ["$current.sha256", None]}
    tests: list[Document] = []
    if expected.absent:
        tests.append({"$eq": [sha256, None]})
    if expected.present:
        tests.append({"$ne": [sha256, None]})
    if expected.one_of is not None:
        tests.append({"$in": [sha256, {"$literal": sorted(expected.one_of)}]})
    if expected.none_of:
        tests.append({"$not": [{"$in": [sha256, {"$literal": sorted(expected.none_of)}]}]})
    if expected.unmodified_since is not None:  # null, where there is no file, is before every date
        modified = {"$ifNull": ["$current.uploaded_at", None]}
        tests.append({"$lte": [modified, expected.unmodified_since + timedelta(milliseconds=999)]})
    return {"$and": tests}


def finished(stages: Pipeline, times: Times) -> Pipeline:
    """The pipeline with its last stage: the moment from which the janitor has something to do."""
    told = {"$min": {"$map": {"input": "$announce", "in": {"$add": ["$$this.at", times.told]}}}}
    parts = [{"$min": "$uploads.expires_at"}, {"$min": "$doomed.due"}, {"$min": "$ended.until"}, told]
    return [*stages, {"$set": {"attention": {"$min": parts}}}]


def begin(upload: ObjectId, file: ObjectId, holder: ObjectId, plan: Plan, expected: Expected, times: Times) -> Pipeline:
    """Add an upload, unless `current` is other than expected or too many are there. The caller looks into the result for it."""
    uploads = {"$ifNull": ["$uploads", []]}
    lifetime = None if plan.seconds is None else int(plan.seconds * 1000)
    entry = {
        "id": upload,
        "file": file,
        "fence": 1,
        "holder": holder,
        "lease_until": in_time(times.lease) if lifetime is None else None,
        "expires_at": in_time(lifetime or times.lease),
        "lifetime": lifetime,
        "offset": 0,
        "tail": Binary(b""),
        "length": plan.length,
        "facts": {"$literal": dict(plan.facts)},
    }
    few = [
        {"$lt": [{"$size": uploads}, MAX_UPLOADS]},
        {"$lt": [{"$size": {"$ifNull": ["$doomed", []]}}, MAX_DOOMED]},
    ]
    free = {"$and": [holds(expected), *few]}
    empty_lists = {list_: {"$ifNull": [f"${list_}", []]} for list_ in ("ended", "doomed", "announce")}
    added = {"$cond": [free, {"$concatArrays": [uploads, [entry]]}, uploads]}
    return finished([{"$set": {"current": {"$ifNull": ["$current", None]}, "uploads": added, **empty_lists}}], times)


def place(media: ObjectId, name: MediaName | None, upload: ObjectId) -> Document:
    """A filter for one document. With its key: a mongos before 7.1 finds and changes nothing by `_id` alone."""
    return {"_id": media, **key(name, upload)}


def mine(media: ObjectId, name: MediaName | None, upload: ObjectId, fence: int) -> Document:
    """A filter that only the holder of the fence matches."""
    return {**place(media, name, upload), "uploads": {"$elemMatch": {"id": upload, "fence": fence}}}


def alive(upload: ObjectId) -> Document:
    """An expression: whether the upload is there and has not expired."""
    test = {"$and": [{"$eq": ["$$this.id", upload]}, {"$gt": ["$$this.expires_at", "$$NOW"]}]}
    return {"$anyElementTrue": [{"$map": {"input": "$uploads", "in": test}}]}


def change(upload: ObjectId, fields: Document, times: Times) -> Pipeline:
    """Set fields of one upload."""
    entry = {"$cond": [{"$eq": ["$$this.id", upload]}, {"$mergeObjects": ["$$this", fields]}, "$$this"]}
    return finished([{"$set": {"uploads": {"$map": {"input": "$uploads", "in": entry}}}}], times)


def renew(upload: ObjectId, times: Times) -> Pipeline:
    """Prolong the lease from now, where one is held. An upload with a lifetime of its own lives as long at least."""
    until = in_time(times.lease)
    lease = {"$cond": [{"$eq": ["$$this.lease_until", None]}, None, until]}
    return change(upload, {"lease_until": lease, "expires_at": {"$max": ["$$this.expires_at", until]}}, times)


def raise_fence(upload: ObjectId, holder: ObjectId, times: Times) -> Pipeline:
    """Take the upload away from whoever holds it. `holder` proves later whose doing it was."""
    until = in_time(times.lease)
    expires = {"$max": ["$$this.expires_at", until]}
    fence = {"$add": ["$$this.fence", 1]}
    return change(upload, {"fence": fence, "holder": holder, "lease_until": until, "expires_at": expires}, times)


def room_for(upload: ObjectId, tail: bytes) -> Document:
    """An expression: whether the tails of the other uploads leave room for this one."""
    others = {"$filter": {"input": "$uploads", "cond": {"$ne": ["$$this.id", upload]}}}
    sizes = {"$map": {"input": others, "in": {"$binarySize": "$$this.tail"}}}
    return {"$lte": [{"$sum": sizes}, MAX_TAILS - len(tail)]}


def move(
    upload: ObjectId, offset: int, tail: bytes, length: int | None, times: Times, *, writing: bool, moved: bool
) -> Pipeline:
    """Set the durable offset with its tail, and the lease, which is free where nobody holds more than that."""
    fields: Document = {
        "offset": offset,
        "tail": Binary(tail),
        "length": length,
        "lease_until": in_time(times.lease) if writing else None,
    }
    if moved:
        fields["expires_at"] = in_time({"$ifNull": ["$$this.lifetime", times.lease]})
    return change(upload, fields, times)


def empty(media: ObjectId) -> Document:
    """A filter that matches the document only while nothing is left in it."""
    return {"_id": media, "current": None, "uploads": [], "ended": [], "doomed": [], "announce": []}


def info(document: Document, of: Document | None = None) -> MediaInfo:
    """The current file of a document that has one, or the one that `of` describes."""
    current = document["current"] if of is None else of
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


def entry(document: Document, upload: ObjectId) -> Document | None:
    """One unfinished upload."""
    return next((entry for entry in document["uploads"] if entry["id"] == upload), None)


def opened(document: Document, of: Document, *, writing: bool) -> Open:
    """An unfinished upload as its callers see it."""
    return Open(
        media=str(document["_id"]),
        name=name_of(document),
        file=str(of["file"]),
        offset=of["offset"],
        tail=bytes(of["tail"]),
        length=of["length"],
        facts=of["facts"],
        expires_at=of["expires_at"],
        writing=writing,
    )


PLACE = {"folder": 1, "filename": 1}
"""The projection whose result is the filter that `place` makes."""
TOUCH: Pipeline = [{"$set": {"asked_at": "$$NOW"}}]
"""A change that means nothing but is journalled."""
STATE = {**dict.fromkeys(("folder", "filename", "uploads", "ended"), 1), "now": "$$NOW"}
"""The projection that `state` reads."""


def state(document: Document, upload: ObjectId) -> Open | Ended | None:
    """What the document says of an upload. One that has expired is not there, reaped or not."""
    if (found := entry(document, upload)) is not None:
        now, lease = document["now"], found["lease_until"]
        held = lease is not None and lease > now  # who is silent for longer was killed, and holds no bytes
        return opened(document, found, writing=held) if found["expires_at"] > now else None
    for end in document["ended"]:
        if end["id"] == upload:
            return Ended(
                outcome=end["outcome"],
                name=name_of(document),
                length=end["length"],
                sha256=end["sha256"],
                facts=end["facts"],
                expires_at=end["until"],
            )
    return None
