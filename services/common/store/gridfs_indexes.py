"""The collection of chunks, and the indexes that the store rests on. Without the unique ones nothing else holds, so they are made
and then looked at.
"""

import logging
from dataclasses import dataclass, field
from typing import Any

from pymongo.errors import DuplicateKeyError, OperationFailure

from services.common.mongo import Mongo, is_transient, translated

_log = logging.getLogger("gridcast.store")

_CONFLICTS = frozenset({85, 86, 11000})
"""IndexOptionsConflict, IndexKeySpecsConflict, DuplicateKey."""


@dataclass(frozen=True, slots=True)
class Index:
    """One index as it must be."""

    name: str
    keys: tuple[str, ...]
    unique: bool = False
    options: dict[str, Any] = field(default_factory=dict)


INDEXES: dict[str, tuple[Index, ...]] = {
    "media": (
        Index("name", ("folder", "filename"), unique=True),
        # For lists: a filename that does not match is passed over in the index.
        Index("newest", ("current.uploaded_at", "_id", "filename")),
        Index("newest_in_folder", ("folder", "current.uploaded_at", "_id", "filename")),
        Index("attention", ("attention", "_id"), options={"partialFilterExpression": {"attention": {"$type": "date"}}}),
    ),
    # GridFS's own two, with the names that drivers give them.
    "fs.chunks": (Index("files_id_1_n_1", ("files_id", "n"), unique=True),),
    "fs.files": (Index("filename_1_uploadDate_1", ("filename", "uploadDate")),),
}


UNPACKED = {"wiredTiger": {"configString": "block_compressor=none"}}
"""Media are packed already, and trying to pack them once more took mongod a fifth of its time for an upload."""


async def prepare(mongo: Mongo) -> None:
    """Make what is missing. Raises RuntimeError where an index cannot be had."""
    async with translated():
        await _make_chunks(mongo)
        for collection, wanted in INDEXES.items():
            for index in wanted:
                await _make(mongo, collection, index)
            there = await mongo.indexes(collection)
            for index in wanted:
                if index.name not in there or bool(there[index.name].get("unique")) != index.unique:
                    raise RuntimeError(f"{collection}: the index {index.name} is missing or not unique")


async def _make_chunks(mongo: Mongo) -> None:
    """As they should be stored, where they are not there yet and the server lets us say so: some managed ones do not."""
    try:
        await mongo.database.create_collection("fs.chunks", storageEngine=UNPACKED, check_exists=False)
    except OperationFailure as error:
        if is_transient(error.code):
            raise
        _log.debug("fs.chunks is there, or is made as the server likes it: %s", error)


async def _make(mongo: Mongo, collection: str, index: Index) -> None:
    keys = [(key, 1) for key in index.keys]
    try:
        await mongo.collection(collection).create_index(keys, name=index.name, unique=index.unique, **index.options)
    except (DuplicateKeyError, OperationFailure) as error:
        if error.code not in _CONFLICTS:
            raise
        raise RuntimeError(f"{collection}: the index {index.name} cannot be built: {error.details}") from error
