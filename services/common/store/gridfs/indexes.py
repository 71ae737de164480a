"""The collection of chunks, and the indexes that the store rests on. Without the unique ones nothing else holds, so they are made
and then looked at.
"""

import logging
from dataclasses import dataclass, field
from typing import Any

from pymongo.errors import DuplicateKeyError, OperationFailure

from services.common.store.gridfs.mongo import MongoDatabase, is_transient_code, map_mongo_errors

_log = logging.getLogger("gridcast.store")

_INDEX_CONFLICT_CODES = frozenset({85, 86, 11000})
"""IndexOptionsConflict, IndexKeySpecsConflict, DuplicateKey."""


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """One index as it must be."""

    name: str
    keys: tuple[str, ...]
    unique: bool = False
    options: dict[str, Any] = field(default_factory=dict)


INDEXES: dict[str, tuple[IndexSpec, ...]] = {
    "media": (
        IndexSpec("name", ("folder", "filename"), unique=True),
        # For lists: a filename that does not match is passed over in the index.
        IndexSpec("newest", ("current.uploaded_at", "_id", "filename")),
        IndexSpec("newest_in_folder", ("folder", "current.uploaded_at", "_id", "filename")),
        IndexSpec(
            "attention", ("attention", "_id"), options={"partialFilterExpression": {"attention": {"$type": "date"}}}
        ),
    ),
    # GridFS's own two, with the names that drivers give them.
    "fs.chunks": (IndexSpec("files_id_1_n_1", ("files_id", "n"), unique=True),),
    "fs.files": (IndexSpec("filename_1_uploadDate_1", ("filename", "uploadDate")),),
}


UNCOMPRESSED = {"wiredTiger": {"configString": "block_compressor=none"}}
"""Media are packed already, and trying to pack them once more took mongod a fifth of its time for an upload."""


async def ensure_indexes(mongo: MongoDatabase) -> None:
    """Make what is missing. Raises RuntimeError where an index cannot be had."""
    async with map_mongo_errors():
        await _create_chunks_collection(mongo)
        for collection, wanted in INDEXES.items():
            for index in wanted:
                await _create_index(mongo, collection, index)
            there = await mongo.list_indexes(collection)
            for index in wanted:
                if index.name not in there or bool(there[index.name].get("unique")) != index.unique:
                    raise RuntimeError(f"{collection}: the index {index.name} is missing or not unique")


async def _create_chunks_collection(mongo: MongoDatabase) -> None:
    """As they should be stored, where they are not there yet and the server lets us say so: some managed ones do not."""
    try:
        await mongo.database.create_collection("fs.chunks", storageEngine=UNCOMPRESSED, check_exists=False)
    except OperationFailure as error:
        if is_transient_code(error.code):
            raise
        _log.debug("fs.chunks not created with our options: %s", error)


async def _create_index(mongo: MongoDatabase, collection: str, spec: IndexSpec) -> None:
    keys = [(key, 1) for key in spec.keys]
    try:
        await mongo.collection(collection).create_index(keys, name=spec.name, unique=spec.unique, **spec.options)
    except (DuplicateKeyError, OperationFailure) as error:
        if error.code not in _INDEX_CONFLICT_CODES:
            raise
        raise RuntimeError(f"{collection}: the index {spec.name} cannot be built: {error.details}") from error
