"""Dumps the media database into a directory while the services run, and restores it: `backup.py dump|restore DIRECTORY`.

The order makes an online dump complete. Messages of live streams come first: their streams have counted them. Then streams: the
uploads to which they refer have these bytes then, or more.
Then `media`: every file that it references was stored completely before, and chunks that are replaced or deleted afterwards stay
for the tombstone TTL. So the dump of chunks must begin and end within that TTL, or run while nothing is deleted: it counts the
chunks and bytes of each file and fails where some are missing. A restore runs in the reverse order, so that no document
references a file that is not there yet.
The files are those of MongoDB's own tools (`DATABASE/COLLECTION.bson`), so mongorestore reads them as well.
The URI comes from GRIDCAST_MONGODB_URI or from the file that GRIDCAST_MONGODB_URI_FILE names.
"""

import argparse
import contextlib
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient, ReadPreference
from pymongo.collection import Collection
from pymongo.errors import PyMongoError
from pymongo.write_concern import WriteConcern

COLLECTIONS = ("live_messages", "live", "live_segments", "media", "fs.files", "fs.chunks", "revisions", "posters")
"""In the order of a dump."""
NEWER_COLLECTIONS = frozenset({"revisions", "posters", "live", "live_segments", "live_messages"})
"""Missing in dumps of earlier versions."""
TAIL_ATTEMPTS = 100
"""How often a document is read until the tails of its uploads are there."""
BATCH_BYTES = 8 * 1024 * 1024
"""Approximate size of one insert of a restore."""
DEFAULT_DATABASE = "gridcast"

RawCollection = Collection[RawBSONDocument]
FileLengths = dict[Any, int | None]
"""Lengths in bytes by file id; None for an unfinished upload."""


def main() -> int:
    """Run the command line. Returns 1 after an error, which is printed on stderr."""
    parser = argparse.ArgumentParser(prog="backup.py", description="Dumps or restores the media database.")
    parser.add_argument("command", choices=("dump", "restore"))
    parser.add_argument("directory", type=Path, help="a dump creates it")
    options = parser.parse_args()
    name = os.environ.get("GRIDCAST_MONGODB_DATABASE", DEFAULT_DATABASE)
    try:
        with open_client(read_mongodb_uri()) as client:
            run = dump if options.command == "dump" else restore
            for count, collection in run(open_collections(client, name), options.directory / name):
                print(f"{options.command}: {collection}: {count} documents", flush=True)
    except (PyMongoError, OSError, ValueError) as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 1
    return 0


def read_mongodb_uri() -> str:
    """Read the URI from the environment or from the file that it names."""
    path = os.environ.get("GRIDCAST_MONGODB_URI_FILE")
    if not path:
        return os.environ["GRIDCAST_MONGODB_URI"]
    try:
        return Path(path).read_text("utf-8").strip()
    except OSError as error:
        # Without the path: it may be the URI itself, written into the wrong variable.
        raise ValueError(f"GRIDCAST_MONGODB_URI_FILE names a file that cannot be read: {error.strerror}") from None


def open_client(uri: str) -> MongoClient[RawBSONDocument]:
    """A client. Raises ValueError for an invalid URI, without its text: errors and warnings of the driver quote parts of it."""
    # An unencoded / or ? in a password ends the authority: the driver would look the rest up as a host, and name it.
    if any("@" in rest for rest in re.split(r"[/?]", uri.partition("://")[2], maxsplit=1)[1:]):
        raise ValueError(
            "the connection string of MongoDB is invalid: / ? @ in a user name or password are percent-encoded"
        )
    with warnings.catch_warnings(action="ignore"):
        try:
            return MongoClient[RawBSONDocument](uri, document_class=RawBSONDocument)
        except (PyMongoError, ValueError, TypeError, OSError):
            raise ValueError(
                "the connection string of MongoDB has an invalid value, or names a file or a host that cannot be found"
            ) from None


def open_collections(client: MongoClient[RawBSONDocument], name: str) -> dict[str, RawCollection]:
    """The collections, read from the primary whatever the URI says: a secondary may lack files that `media` references."""
    durable = WriteConcern(w="majority", j=True)
    database = client.get_database(name, write_concern=durable, read_preference=ReadPreference.PRIMARY)
    return {collection: database[collection] for collection in COLLECTIONS}


def dump(collections: dict[str, RawCollection], dump_dir: Path) -> Iterator[tuple[int, str]]:
    """Write a file for each collection; rename them once all are written. Yields counts. Raises ValueError for missing chunks."""
    dump_dir.mkdir(parents=True)
    files: FileLengths = {}
    counts = dict.fromkeys(COLLECTIONS, 0)
    with contextlib.ExitStack() as opened:
        parts = {name: opened.enter_context((dump_dir / f"{name}.part").open("xb")) for name in COLLECTIONS}
        for name in COLLECTIONS:
            for target, document in select_documents(collections, name, files):
                parts[target].write(document.raw)
                counts[target] += 1
            parts[name].flush()
            os.fsync(parts[name].fileno())
            yield counts[name], name
    for name in COLLECTIONS:
        (dump_dir / f"{name}.part").replace(dump_dir / f"{name}.bson")


def select_documents(
    collections: dict[str, RawCollection], name: str, file_lengths: FileLengths
) -> Iterator[tuple[str, RawBSONDocument]]:
    """The documents to dump, each with its collection.

    All of `media`, which fills `file_lengths`, with the tails of unfinished uploads; then the documents of those files.
    """
    collection = collections[name]
    if name == "media":
        for found in collection.find():
            document, tails = with_tails(collections, found)
            if document is not None:
                file_lengths.update(referenced_files(document))
                yield name, document
                yield from (("fs.chunks", tail) for tail in tails)
    elif name == "fs.chunks":
        for identifier, length in file_lengths.items():
            chunks = collection.find({"files_id": identifier}, batch_size=32).sort("n", 1)
            yield from ((name, chunk) for chunk in verify_chunks(chunks, identifier, length))
    elif name == "fs.files":
        for identifier in file_lengths:
            yield from ((name, document) for document in collection.find({"_id": identifier}))
    else:
        yield from ((name, document) for document in collection.find())


def with_tails(
    collections: dict[str, RawCollection], document: RawBSONDocument | None
) -> tuple[RawBSONDocument | None, list[RawBSONDocument]]:
    """A `media` document and the chunks that are the tails of its uploads.

    Writers replace tails: while one is missing, the document is read again. None where it was deleted meanwhile. Raises ValueError.
    """
    for _ in range(TAIL_ATTEMPTS):
        if document is None:
            return None, []
        places = [
            {"files_id": entry["id"], "n": entry["tail_number"]}
            for entry in document["uploads"]
            if entry.get("tail_number") is not None
        ]
        tails = [collections["fs.chunks"].find_one(place) for place in places]
        if None not in tails:
            return document, [tail for tail in tails if tail is not None]
        document = collections["media"].find_one({"_id": document["_id"]})
    raise ValueError("an unfinished upload has no tail, or has another one each time that it is read")


def referenced_files(document: RawBSONDocument) -> FileLengths:
    """The files of one `media` document: the current one, and unfinished uploads, which can resume after a restore.

    A file that can be restored may lack chunks: then its time was over.
    """
    current = document["current"]
    unfinished: FileLengths = {entry["file"]: None for entry in document["uploads"]}
    if restorable := document.get("restorable"):
        unfinished[restorable["file"]] = None
    return {**unfinished, current["file"]: current["length"]} if current else unfinished


def verify_chunks(chunks: Iterable[RawBSONDocument], file_id: Any, length: int | None) -> Iterator[RawBSONDocument]:
    """Pass the chunks on. Raises ValueError where a finished file lacks a chunk or bytes."""
    count = size = 0
    for chunk in chunks:
        if length is not None and chunk["n"] != count:
            raise ValueError(f"file {file_id}: chunk {count} is missing")
        count += 1
        size += len(chunk["data"])
        yield chunk
    if length is not None and size != length:
        raise ValueError(f"file {file_id}: found {size} of {length} bytes, in {count} chunks")


def restore(collections: dict[str, RawCollection], dump_dir: Path) -> Iterator[tuple[int, str]]:
    """Insert all documents. Raises ValueError, before the first write, if a collection is not empty or the dump is incomplete."""
    missing = {name for name in COLLECTIONS if not (dump_dir / f"{name}.bson").is_file()}
    for name in COLLECTIONS:
        if name in missing - NEWER_COLLECTIONS:
            raise ValueError(f"{dump_dir} is not a complete dump: {name}.bson is missing")
        if collections[name].find_one(projection=["_id"]) is not None:
            raise ValueError(f"{name} is not empty: restore into an empty database")
    for name in reversed([name for name in COLLECTIONS if name not in missing]):
        count = 0
        for batch in read_batches(dump_dir / f"{name}.bson"):
            collections[name].insert_many(batch)
            count += len(batch)
        yield count, name


def read_batches(path: Path) -> Iterator[list[RawBSONDocument]]:
    """The documents of a dumped collection, about BATCH_BYTES at a time. Raises ValueError for a truncated file."""
    batch: list[RawBSONDocument] = []
    size = 0
    with path.open("rb") as file:
        while head := file.read(4):
            length = int.from_bytes(head, "little")
            data = head + file.read(length - 4)
            if len(data) != length:
                raise ValueError(f"{path} ends in the middle of a document")
            batch.append(RawBSONDocument(data))
            size += length
            if size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


if __name__ == "__main__":
    sys.exit(main())
