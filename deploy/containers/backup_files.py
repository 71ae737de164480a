"""Dumps the files store into a directory while the services run, and restores it: `backup_files.py dump|restore DIRECTORY`.

For a store on SQLite; of one on PostgreSQL the database is dumped by pg_dump, in the same order (docs/operations.md). The database
is dumped first: every file that it references was complete before, and what is replaced or deleted afterwards stays for the
tombstone TTL. So the copy of the files must end within that TTL, or run while nothing is deleted: it fails where a file is missing,
or its length or SHA-256 is not that of its row. A restore writes the database last: without it nothing is visible.

    DIRECTORY/files/4f/2/68...24f  the files, as in the store
    DIRECTORY/gridcast.sqlite3     the database; written last, so that a dump that has it is complete

GRIDCAST_FILES_DIR and GRIDCAST_DATABASE_URL name the store, or the files that the same variables with _FILE name. Imports the
standard library only.
"""

import argparse
import contextlib
import hashlib
import os
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

DATABASE_NAME = "gridcast.sqlite3"
SQLITE_PREFIXES = ("sqlite:///", "sqlite+aiosqlite:///")
BUSY_TIMEOUT_SECONDS = 30.0
READ_BYTES = 1024 * 1024
STORED_FILES = (
    "SELECT file_id, length, sha256 FROM media WHERE uploaded_at IS NOT NULL"
    ' UNION ALL SELECT file_id, "offset", NULL FROM uploads'
)
"""The current files, and unfinished uploads up to their durable offset, which can resume after a restore."""


@dataclass(frozen=True)
class DumpedFile:
    """A file as its row describes it. `sha256` is None for an unfinished upload."""

    id: str
    length: int
    sha256: str | None

    @property
    def path(self) -> Path:
        """Where it lies, below the folder `files`."""
        return Path(self.id[-2:], self.id[-3], self.id)


@dataclass(frozen=True)
class Store:
    """A files store on SQLite: its folder and its database."""

    folder: Path
    database: Path


def main() -> int:
    """Run the command line. Returns 1 after an error, which is printed on stderr."""
    parser = argparse.ArgumentParser(prog="backup_files.py", description="Dumps or restores the files store.")
    parser.add_argument("command", choices=("dump", "restore"))
    parser.add_argument("directory", type=Path, help="a dump creates it")
    options = parser.parse_args()
    try:
        run = dump if options.command == "dump" else restore
        count, size = run(find_store(), options.directory)
    except (sqlite3.Error, OSError, ValueError) as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 1
    print(f"{options.command}: {count} files, {size} bytes")
    return 0


def find_store() -> Store:
    """Find the store of the environment. Raises ValueError, without a value, where there is none on SQLite."""
    folder = read_setting("GRIDCAST_FILES_DIR")
    if not folder:
        raise ValueError("GRIDCAST_FILES_DIR is not set")
    url = read_setting("GRIDCAST_DATABASE_URL")
    if not url:
        return Store(Path(folder), Path(folder, DATABASE_NAME))
    if not url.startswith(SQLITE_PREFIXES):
        raise ValueError(
            "GRIDCAST_DATABASE_URL is no SQLite: dump PostgreSQL with pg_dump, then copy GRIDCAST_FILES_DIR"
        )
    return Store(Path(folder), Path(url.partition(":///")[2]))


def read_setting(name: str) -> str:
    """Read a variable, or the file that the same variable with _FILE names; empty where neither is set."""
    path = os.environ.get(f"{name}_FILE")
    if not path:
        return os.environ.get(name, "")
    try:
        return Path(path).read_text("utf-8").strip()
    except OSError as error:
        # Without the path: it may be the value itself, written into the wrong variable.
        raise ValueError(f"{name}_FILE names a file that cannot be read: {error.strerror}") from None


def dump(store: Store, directory: Path) -> tuple[int, int]:
    """Copy the database, then each file that it references. Returns the number of files and bytes.

    Raises ValueError for a damaged database and for a file that is not as its row says; then the directory has no database.
    """
    directory.mkdir(parents=True)
    copy = directory / f"{DATABASE_NAME}.part"
    with open_database(store.database, "rw") as source, open_database(copy, "rwc") as target:
        source.backup(target)
        # One file without a log beside it.
        target.execute("PRAGMA journal_mode = DELETE")
    count, size = copy_files(copy, store.folder / "files", directory / "files")
    sync(copy)
    copy.replace(directory / DATABASE_NAME)
    sync(directory)
    return count, size


def restore(store: Store, directory: Path) -> tuple[int, int]:
    """Copy the files, then the database. Returns the number of files and bytes.

    Raises ValueError, before the first write, where the dump is incomplete or the store is not empty.
    """
    source = directory / DATABASE_NAME
    if not source.is_file():
        raise ValueError(f"{directory} is not a complete dump: {DATABASE_NAME} is missing")
    for path in (store.database, store.folder / "store_id", store.folder / "files"):
        if path.exists():
            raise ValueError(f"{path} exists: restore into an empty folder")
    store.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    count, size = copy_files(source, directory / "files", store.folder / "files")
    with open_database(source, "ro") as database:
        (store_id,) = database.execute("SELECT store_id FROM store").fetchone()
    write_durably(store.folder / "store_id", f"{store_id}\n".encode())
    store.database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = store.database.with_name(f"{store.database.name}.part")
    write_durably(part, source.read_bytes())
    part.replace(store.database)
    sync(store.database.parent)
    return count, size


def copy_files(database: Path, source: Path, target: Path) -> tuple[int, int]:
    """Copy all files that the database references, durably. Raises ValueError for one that is not as its row says."""
    target.mkdir(mode=0o700)
    count = size = 0
    folders = {target, target.parent}
    for file in list_files(database):
        folder = (target / file.path).parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folders |= {folder, folder.parent}
        copy_file(file, source / file.path, target / file.path)
        count, size = count + 1, size + file.length
    for folder in folders:
        sync(folder)
    return count, size


def list_files(database: Path) -> Iterator[DumpedFile]:
    """List the files with bytes that a dumped database references. Raises ValueError where it is damaged."""
    with open_database(database, "ro") as connection:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise ValueError(f"the database is damaged: {found}")
        for file_id, length, sha256 in connection.execute(STORED_FILES):
            if length:
                yield DumpedFile(file_id, length, sha256)


def copy_file(file: DumpedFile, source: Path, target: Path) -> None:
    """Copy a file up to the length of its row and compare its digest; bytes beyond that of an unfinished upload are left out."""
    try:
        reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise ValueError(f"file {file.id}: {error.strerror}") from error
    digest, rest = hashlib.sha256(), file.length
    with os.fdopen(reader, "rb") as taken, target.open("xb") as written:
        while rest and (data := taken.read(min(rest, READ_BYTES))):
            digest.update(data)
            written.write(data)
            rest -= len(data)
        if rest or (file.sha256 is not None and taken.read(1)):
            found = file.length - rest if rest else "more"
            raise ValueError(f"file {file.id}: found {found} of {file.length} bytes")
        if file.sha256 not in {None, digest.hexdigest()}:
            raise ValueError(f"file {file.id}: its SHA-256 is not that of its row")
        target.chmod(0o600)
        written.flush()
        os.fsync(written.fileno())


@contextlib.contextmanager
def open_database(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    """Open a SQLite file: `ro`, `rw` or `rwc`."""
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_SECONDS)) as connection:
        yield connection


def write_durably(path: Path, data: bytes) -> None:
    """Write a file and sync it."""
    with path.open("xb") as file:
        path.chmod(0o600)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Sync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
