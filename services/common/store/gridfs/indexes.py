"""The collection of chunks, and the indexes. The store relies on the unique ones, so they are verified after they were created."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pymongo import IndexModel
from pymongo.errors import OperationFailure

from services.common.store.gridfs.mongo import MongoDatabase, is_transient_code, map_mongo_errors

_log = logging.getLogger("gridcast.store")

_INDEX_CONFLICT_CODES = frozenset({85, 86, 11000})
"""IndexOptionsConflict, IndexKeySpecsConflict, DuplicateKey."""


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """The definition of one index."""

    name: str
    keys: tuple[str, ...]
    unique: bool = False
    options: dict[str, Any] = field(default_factory=dict)


INDEXES: dict[str, tuple[IndexSpec, ...]] = {
    "media": (
        IndexSpec("name", ("folder", "filename"), unique=True),
        # For lists: a filename that does not match is skipped within the index.
        IndexSpec("newest", ("current.uploaded_at", "_id", "filename")),
        IndexSpec("newest_in_folder", ("folder", "current.uploaded_at", "_id", "filename")),
        IndexSpec("by_size", ("current.length", "_id", "filename")),
        IndexSpec("by_size_in_folder", ("folder", "current.length", "_id", "filename")),
        IndexSpec("by_name", ("filename", "_id"), options={"partialFilterExpression": {"current.length": {"$gte": 0}}}),
        IndexSpec("identity", ("identity",), options={"partialFilterExpression": {"identity": {"$exists": True}}}),
        # For the sum of an owner's files: covered, and without an entry for files that have no owner.
        IndexSpec(
            "owner",
            ("current.owner", "current.file", "current.length"),
            options={"partialFilterExpression": {"current.owner": {"$exists": True}}},
        ),
        IndexSpec(
            "attention", ("attention", "_id"), options={"partialFilterExpression": {"attention": {"$type": "date"}}}
        ),
    ),
    "deliveries": (
        IndexSpec("next", ("endpoint", "state", "next_at", "_id")),
        IndexSpec("order", ("endpoint", "media", "revision")),
        IndexSpec("state", ("state", "_id")),
        IndexSpec("expired", ("expires_at",)),
    ),
    "live": (
        IndexSpec("state", ("state", "_id")),
        IndexSpec("owner", ("owner", "state", "_id")),
        IndexSpec("file", ("file",)),
        IndexSpec(
            "keep_until", ("keep_until",), options={"partialFilterExpression": {"keep_until": {"$type": "date"}}}
        ),
    ),
    "live_segments": (IndexSpec("place", ("l", "n"), unique=True),),
    "live_messages": (IndexSpec("place", ("l", "t", "n")),),
    # MongoDB deletes what has ended.
    "revoked": (IndexSpec("ended", ("until",), options={"expireAfterSeconds": 0}),),
    # The two indexes of GridFS, with the names that drivers give them.
    "fs.chunks": (IndexSpec("files_id_1_n_1", ("files_id", "n"), unique=True),),
    "fs.files": (IndexSpec("filename_1_uploadDate_1", ("filename", "uploadDate")),),
}


UNCOMPRESSED = {"wiredTiger": {"configString": "block_compressor=none"}}
"""Media are compressed already, and trying to compress them again took mongod a fifth of its time for an upload."""


async def ensure_indexes(mongo: MongoDatabase) -> None:
    """Create what is missing. Raises RuntimeError where an index cannot be built, ServiceUnavailable."""
    async with map_mongo_errors():
        await _create_chunks_collection(mongo)
        for collection, specs in INDEXES.items():
            await _create_indexes(mongo, collection, specs)
            existing = await mongo.list_indexes(collection)
            for spec in specs:
                if spec.name not in existing or bool(existing[spec.name].get("unique")) != spec.unique:
                    raise RuntimeError(f"{collection}: the index {spec.name} is missing or not unique")


async def _create_chunks_collection(mongo: MongoDatabase) -> None:
    """Create the collection uncompressed where it does not exist and the server allows that: some managed ones do not."""
    try:
        await mongo.database.create_collection("fs.chunks", storageEngine=UNCOMPRESSED, check_exists=False)
    except OperationFailure as error:
        if is_transient_code(error.code):
            raise
        _log.debug("fs.chunks not created with our options: %s", error)


async def _create_indexes(mongo: MongoDatabase, collection: str, specs: Sequence[IndexSpec]) -> None:
    """Create them with one command, so that a restored collection is read once for all. One that fails is found by one for each."""
    try:
        await mongo.collection(collection).create_indexes([_index_model(spec) for spec in specs])
    except OperationFailure as error:
        if error.code not in _INDEX_CONFLICT_CODES:
            raise
        for spec in specs:
            await _create_index(mongo, collection, spec)


def _index_model(spec: IndexSpec) -> IndexModel:
    return IndexModel([(key, 1) for key in spec.keys], name=spec.name, unique=spec.unique, **spec.options)


async def _create_index(mongo: MongoDatabase, collection: str, spec: IndexSpec) -> None:
    try:
        await mongo.collection(collection).create_indexes([_index_model(spec)])
    except OperationFailure as error:
        if error.code not in _INDEX_CONFLICT_CODES:
            raise
        raise RuntimeError(f"{collection}: the index {spec.name} cannot be built: {error.details}") from error
