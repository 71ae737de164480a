"""Which unfinished uploads of one name a document has room for, as an expression of MongoDB. Pure.

What others have left unfinished must not refuse a name to anyone for long, nor make its requests slow. So uploads that no writer
holds are evicted where there are too many: first those of the client that has the most of them, of these the ones without a byte,
of these the oldest.
"""

from typing import Any

from services.common.store.gridfs.documents import Document
from services.common.store.limits import MAX_FACTS_BYTES, MAX_IDLE_UPLOADS_PER_CLIENT, MAX_UPLOADS_PER_NAME


def admit_upload(client: str, facts_bytes: int, *, resumable: bool) -> Document:
    """An expression: `fits`, whether `uploads` has room for one more, and `evicted`, the upload that makes it, or null.

    `facts_bytes` is the size of the metadata as BSON. A `resumable` upload stays when its request has ended: it evicts uploads of
    other clients only where they have more than its own, and of its own client those without a byte.
    """
    own = {"$filter": {"input": "$$idle", "cond": {"$eq": ["$$this.client", {"$literal": client}]}}}
    own_count = {"$size": "$$own"}
    too_many = {"$gte": [{"$size": "$uploads"}, MAX_UPLOADS_PER_NAME]}
    too_large = {"$gt": [{"$add": ["$$facts", facts_bytes]}, MAX_FACTS_BYTES]}
    own_full = {"$gte": [own_count, MAX_IDLE_UPLOADS_PER_CLIENT]} if resumable else {"$literal": False}
    others: Any = "$$idle"
    if resumable:
        others = {"$filter": {"input": "$$idle", "cond": {"$gt": ["$$this.held", own_count]}}}
    own_empty = {"$filter": {"input": "$$own", "cond": {"$eq": ["$$this.has_bytes", False]}}}
    candidates = {
        "$switch": {
            "branches": [
                {"case": "$$own_full", "then": own_empty},
                {"case": {"$or": ["$$too_many", "$$too_large"]}, "then": others},
            ],
            "default": [],
        }
    }
    # Compared field by field, in this order.
    order = {
        "size": {"$cond": ["$$too_large", {"$multiply": ["$$this.size", -1]}, 0]},
        "held": {"$multiply": ["$$this.held", -1]},
        "has_bytes": "$$this.has_bytes",
        "active_at": "$$this.active_at",
        "id": "$$this.id",
        "file": "$$this.file",
    }
    evicted = {"$ifNull": [{"$min": {"$map": {"input": candidates, "in": order}}}, None]}
    facts_left = {
        "$subtract": ["$$facts", {"$cond": ["$$too_large", {"$multiply": [{"$ifNull": ["$$evicted.size", 0]}, -1]}, 0]}]
    }
    full = {"$or": ["$$own_full", "$$too_many", "$$too_large"]}
    makes_room = {
        "$and": [{"$ne": ["$$evicted", None]}, {"$lte": [{"$add": [facts_left, facts_bytes]}, MAX_FACTS_BYTES]}]
    }
    result = {"fits": {"$or": [{"$not": [full]}, makes_room]}, "evicted": "$$evicted"}
    return _let(
        {"idle": _idle_uploads(), "facts": {"$sum": {"$map": {"input": "$uploads", "in": _facts_bytes("$$this")}}}},
        _let(
            {"own": own, "too_many": too_many, "too_large": too_large},
            _let({"own_full": own_full}, _let({"evicted": evicted}, result)),
        ),
    )


def _idle_uploads() -> Document:
    """Uploads that outlive their request and that no writer holds, each with how many its client has of them."""
    no_lease = {"$or": [{"$eq": ["$$this.lease_until", None]}, {"$lte": ["$$this.lease_until", "$$NOW"]}]}
    idle = {"$filter": {"input": "$uploads", "cond": {"$and": [{"$ne": ["$$this.lifetime", None]}, no_lease]}}}
    client = {"$ifNull": ["$$upload.client", ""]}
    held = {"$filter": {"input": "$$idle", "cond": {"$eq": [{"$ifNull": ["$$this.client", ""]}, client]}}}
    described = {
        "id": "$$upload.id",
        "file": "$$upload.file",
        "client": client,
        "held": {"$size": held},
        "size": _facts_bytes("$$upload"),
        "has_bytes": {"$gt": ["$$upload.offset", 0]},
        "active_at": {"$subtract": ["$$upload.expires_at", "$$upload.lifetime"]},
    }
    return _let({"idle": idle}, {"$map": {"input": "$$idle", "as": "upload", "in": described}})


def _facts_bytes(upload: str) -> Document:
    return {"$bsonSize": {"$ifNull": [f"{upload}.facts", {}]}}


def _let(variables: Document, expression: Any) -> Document:
    return {"$let": {"vars": variables, "in": expression}}
