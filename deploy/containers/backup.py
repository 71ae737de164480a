"""Dumps the media database into a folder and restores it, while uploads and readers go on: `backup.py dump|restore FOLDER`.

What makes an online dump whole is its order. `media` comes first: every file that it names was stored in full before it was named,
and chunks that are replaced or deleted afterwards stay for the readers' grace. So the dump of chunks must begin and end within
that grace, or be made where nobody deletes: it counts what it gets of each file and fails where that is not all. A restore goes the
other way round: nothing is named before it is there.
The files are those of MongoDB's own tools (`DATABASE/COLLECTION.bson`), so mongorestore reads them too.
The address comes from GRIDCAST_MONGODB_URI or the file that GRIDCAST_MONGODB_URI_FILE names. It knows the collections, no service.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient, ReadPreference
from pymongo.collection import Collection
from pymongo.errors import PyMongoError
from pymongo.write_concern import WriteConcern

COLLECTIONS = ("media", "fs.files", "fs.chunks")
"""In the order of a dump."""
BATCH_BYTES = 8 * 1024 * 1024
DEFAULT_DATABASE = "gridcast"

RawCollection = Collection[RawBSONDocument]
FileLengths = dict[Any, int | None]
"""Files by id; what is unfinished has no length yet."""


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="backup.py", description="Dumps or restores the media database.")
    parser.add_argument("verb", choices=("dump", "restore"))
    parser.add_argument("folder", type=Path, help="must be empty or new for a dump")
    options = parser.parse_args()
    name = os.environ.get("GRIDCAST_MONGODB_DATABASE", DEFAULT_DATABASE)
    try:
        with MongoClient[RawBSONDocument](read_mongodb_uri(), document_class=RawBSONDocument) as client:
            work = dump if options.verb == "dump" else restore
            folder = options.folder / name
            for count, collection in work(open_collections(client, name), folder):
                print(f"{options.verb}: {collection}: {count} documents", flush=True)
    except (PyMongoError, OSError, ValueError) as error:
        print(f"{options.verb}: {error}", file=sys.stderr)
        return 1
    return 0


def read_mongodb_uri() -> str:
    """Where MongoDB is."""
    path = os.environ.get("GRIDCAST_MONGODB_URI_FILE")
    return Path(path).read_text("utf-8").strip() if path else os.environ["GRIDCAST_MONGODB_URI"]


def open_collections(client: MongoClient[RawBSONDocument], name: str) -> dict[str, RawCollection]:
    """The collections. Whatever the address says, they are the primary's: a secondary may not have what `media` names."""
    durable = WriteConcern(w="majority", j=True)
    database = client.get_database(name, write_concern=durable, read_preference=ReadPreference.PRIMARY)
    return {collection: database[collection] for collection in COLLECTIONS}


def dump(collections: dict[str, RawCollection], dump_dir: Path) -> Iterator[tuple[int, str]]:
    """Write each collection to its file; the names appear when all is written. Yields counts. Raises ValueError for lost blocks."""
    dump_dir.mkdir(parents=True)
    files: FileLengths = {}
    for name in COLLECTIONS:
        count = 0
        with (dump_dir / f"{name}.part").open("xb") as file:
            for document in select_documents(collections[name], files):
                file.write(document.raw)
                count += 1
            file.flush()
            os.fsync(file.fileno())
        yield count, name
    for name in COLLECTIONS:
        (dump_dir / f"{name}.part").replace(dump_dir / f"{name}.bson")


def select_documents(collection: RawCollection, file_lengths: FileLengths) -> Iterator[RawBSONDocument]:
    """What belongs into the dump. `media` fills `files`; of the rest comes only what those files consist of, file by file."""
    if collection.name == "media":
        for document in collection.find():
            file_lengths.update(referenced_files(document))
            yield document
    elif collection.name == "fs.chunks":
        for identifier, length in file_lengths.items():
            yield from verify_chunks(
                collection.find({"files_id": identifier}, batch_size=32).sort("n", 1), identifier, length
            )
    else:
        for identifier in file_lengths:
            yield from collection.find({"_id": identifier})


def referenced_files(document: RawBSONDocument) -> FileLengths:
    """The files of one `media` document: the one that readers see, and unfinished ones that may go on after a restore."""
    current = document["current"]
    unfinished: FileLengths = {entry["file"]: None for entry in document["uploads"]}
    return {**unfinished, current["file"]: current["length"]} if current else unfinished


def verify_chunks(chunks: Iterable[RawBSONDocument], file_id: Any, length: int | None) -> Iterator[RawBSONDocument]:
    """The blocks as they come. Raises ValueError at the end where one of a finished file was missing."""
    count = size = 0
    for block in chunks:
        if length is not None and block["n"] != count:
            raise ValueError(f"file {file_id}: block {count} is missing")
        count += 1
        size += len(block["data"])
        yield block
    if length is not None and size != length:
        raise ValueError(f"file {file_id}: {size} of {length} bytes are there, in {count} blocks")


def restore(collections: dict[str, RawCollection], dump_dir: Path) -> Iterator[tuple[int, str]]:
    """Insert everything. Raises ValueError, before anything is written, unless the collections are empty and the dump is whole."""
    for name in COLLECTIONS:
        if not (dump_dir / f"{name}.bson").is_file():
            raise ValueError(f"{dump_dir} is not a whole dump: {name}.bson is missing")
        if collections[name].find_one(projection=["_id"]) is not None:
            raise ValueError(f"{name} is not empty: restore into an empty database")
    for name in reversed(COLLECTIONS):
        count = 0
        for batch in read_batches(dump_dir / f"{name}.bson"):
            collections[name].insert_many(batch)
            count += len(batch)
        yield count, name


def read_batches(path: Path) -> Iterator[list[RawBSONDocument]]:
    """The documents of a dump, about BATCH bytes at a time."""
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
