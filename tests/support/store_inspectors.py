"""The content of a store read and changed directly, past the product: the same calls for every store.

An entry describes one name, in the shape of GridFS's `media` document: `_id`, `folder`, `filename`, `revision`, `current`,
`uploads`, `ended`, `doomed` and `announce`, with the field names that `services.common.store.gridfs.documents` explains.
"""

import contextlib
import os
import random
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pymongo
import pytest
from bson import ObjectId

from services.common.media import sha256_etag
from services.common.settings import StoreSettings
from services.common.store.files.rows import fold
from tests.support.sizes import CHUNK_SIZE

Entry = dict[str, Any]
FILES_PREFIX = "files:"
"""Before the folder, where a files store is named like a server."""


class StoreInspector(Protocol):
    """What tests ask of any store."""

    def list_documents(self) -> list[Entry]:
        """The entries of all names."""

    def only_document(self) -> Entry:
        """The entry of the only name; fails where there is another number of them."""

    def find_document(self, filename: str) -> Entry | None:
        """The entry of a file in any folder."""

    def sample_document(self, dice: random.Random) -> Entry | None:
        """The entry of some name that has a file, None where there is none."""

    def count_chunks(self) -> int:
        """How many blocks are stored, of all files."""

    def read_current(self, identifier: str) -> bytes:
        """The bytes of the current version of a file, by its id."""

    def read_file(self, file: Any) -> bytes:
        """The bytes of one version, by its file id; fails where one is missing in the middle."""

    def list_orphans(self) -> list[Any]:
        """Ids of files with bytes that no entry references, or with bytes past their end."""

    def has_no_garbage(self) -> bool:
        """Whether nothing is left to delete: no orphans, unfinished uploads or tombstones."""

    def clear(self) -> None:
        """Delete every file, what was revoked, and what webhooks have stored."""

    def delete_blocks(self, file: Any, first: int = 0) -> None:
        """Delete the bytes of a file from block `first` on."""

    def lose_block(self, file: Any, number: int) -> None:
        """Delete one block of a file; with it those after it, where a file has no holes."""

    def delete_all_bytes(self) -> None:
        """Delete the bytes of all files and unfinished uploads, and nothing else."""

    def damage_block(self, file: Any, number: int) -> None:
        """Give one block a wrong length."""

    def write_late(self, file: Any, number: int, data: bytes) -> None:
        """Store a block as a writer would whose write arrives now, without any check."""

    def expire_uploads(self) -> None:
        """Let all unfinished uploads expire now."""

    def set_event_time(self, number: int, at: datetime) -> None:
        """Set the time of one event in the outbox of the only name."""

    def age_events(self, seconds: float) -> None:
        """Make all events in all outboxes older."""

    def add_tombstones(self, count: int) -> None:
        """Add tombstones that are due in an hour to the only name."""

    def set_uploaded_at(self, at: datetime) -> None:
        """Set the time of upload of all current files."""

    def set_current(self, filename: str, current: Entry) -> None:
        """Make `current`, as an entry has it, the current version of a file, in silence."""

    def insert_documents(self, documents: Sequence[Entry]) -> None:
        """Insert names in the shape of entries; their files have no bytes."""

    def delete_documents(self, filenames: Sequence[str]) -> None:
        """Delete names that `insert_documents` has inserted."""

    def rename(self, identifier: str, filename: str) -> None:
        """Give a file another name, whether it is a valid one or not."""

    def make_tombstones_due(self, filename: str) -> None:
        """Let all tombstones of a file be due now."""

    def forget_secrets(self) -> None:
        """Leave all uploads as they were stored before their ids had secrets."""

    def list_revoked(self) -> list[str]:
        """The tokens and subjects of all revocations that are stored, also of those that have ended."""

    def count_live(self) -> tuple[int, int]:
        """How many live streams are stored, and how many segments and epochs."""

    def age_streams(self, seconds: float) -> None:
        """Let all live streams have got their last byte so much earlier."""


LIVE = ("live", "live_segments")
"""The collections of live streams."""
MESSAGES = "live_messages"


class MongoInspector:
    """The documents and chunks in MongoDB."""

    def __init__(self, uri: str, name: str) -> None:
        self.client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri, tz_aware=True)
        self.db = self.client[name]

    def close(self) -> None:
        self.client.close()

    def count_chunks(self) -> int:
        return self.db["fs.chunks"].count_documents({})

    def list_documents(self) -> list[Entry]:
        return list(self.db["media"].find())

    def only_document(self) -> Entry:
        (document,) = self.list_documents()
        return document

    def sample_document(self, dice: random.Random) -> Entry | None:
        del dice  # MongoDB has its own
        stages: list[Entry] = [{"$match": {"current": {"$ne": None}}}, {"$sample": {"size": 1}}]
        return next(iter(self.db["media"].aggregate(stages)), None)

    def find_document(self, filename: str) -> Entry | None:
        return self.db["media"].find_one({"filename": filename})

    def read_current(self, identifier: str) -> bytes:
        document = self.db["media"].find_one({"_id": ObjectId(identifier)})
        assert document is not None
        return self.read_file(document["current"]["file"])

    def read_file(self, file: Any) -> bytes:
        found = list(self.db["fs.chunks"].find({"files_id": file}).sort("n"))
        assert [chunk["n"] for chunk in found] == list(range(len(found)))
        return b"".join(chunk["data"] for chunk in found)

    def list_orphans(self) -> list[Any]:
        named: dict[ObjectId, int | None] = {}
        for document in self.list_documents():
            if current := document["current"]:
                named[current["file"]] = -(-current["length"] // CHUNK_SIZE)
            for other in (*document["uploads"], *document["doomed"]):
                named.setdefault(other["file"], None)
            for upload in document["uploads"]:
                named.setdefault(upload["id"], None)  # its tail
        grouped = self.db["fs.chunks"].aggregate([{"$group": {"_id": "$files_id", "count": {"$sum": 1}}}])
        return [
            g["_id"] for g in grouped if named.get(g["_id"], 0) is not None and g["count"] != named.get(g["_id"], 0)
        ]

    def has_no_garbage(self) -> bool:
        return _has_no_garbage(self)

    def clear(self) -> None:
        for name in (
            "media",
            "fs.chunks",
            "fs.files",
            "revoked",
            "quotas",
            "deliveries",
            "webhook_endpoints",
            MESSAGES,
            *LIVE,
        ):
            self.db[name].delete_many({})

    def delete_blocks(self, file: Any, first: int = 0) -> None:
        self.db["fs.chunks"].delete_many({"files_id": ObjectId(file), "n": {"$gte": first}})

    def lose_block(self, file: Any, number: int) -> None:
        assert self.db["fs.chunks"].delete_one({"files_id": ObjectId(file), "n": number}).deleted_count == 1

    def delete_all_bytes(self) -> None:
        self.db["fs.chunks"].delete_many({})

    def damage_block(self, file: Any, number: int) -> None:
        where = {"files_id": ObjectId(file), "n": number}
        assert self.db["fs.chunks"].update_one(where, {"$set": {"data": b"short"}}).matched_count == 1

    def write_late(self, file: Any, number: int, data: bytes) -> None:
        self.db["fs.chunks"].insert_one({"files_id": ObjectId(file), "n": number, "data": data})

    def expire_uploads(self) -> None:
        now = datetime.now(UTC)
        self.db["media"].update_many({}, {"$set": {"uploads.$[].expires_at": now, "attention": now}})

    def set_event_time(self, number: int, at: datetime) -> None:
        self.db["media"].update_one({}, {"$set": {f"announce.{number}.at": at}})

    def age_events(self, seconds: float) -> None:
        # One update, because a service may take entries out meanwhile: positions that were read before would be other entries.
        older = {"$mergeObjects": ["$$one", {"at": {"$subtract": ["$$one.at", int(seconds * 1000)]}}]}
        self.db["media"].update_many(
            {"announce.0": {"$exists": True}},
            [{"$set": {"announce": {"$map": {"input": "$announce", "as": "one", "in": older}}, "attention": "$$NOW"}}],
        )

    def add_tombstones(self, count: int) -> None:
        due = datetime.now(UTC) + timedelta(hours=1)
        waiting = [{"file": ObjectId(), "due": due, "late": False} for _ in range(count)]
        self.db["media"].update_one({}, {"$push": {"doomed": {"$each": waiting}}})

    def set_uploaded_at(self, at: datetime) -> None:
        self.db["media"].update_many({"current": {"$ne": None}}, {"$set": {"current.uploaded_at": at}})

    def set_current(self, filename: str, current: Entry) -> None:
        self.db["media"].update_one({"filename": filename}, {"$set": {"current": current}})

    def insert_documents(self, documents: Sequence[Entry]) -> None:
        self.db["media"].insert_many(list(documents))

    def delete_documents(self, filenames: Sequence[str]) -> None:
        self.db["media"].delete_many({"filename": {"$in": list(filenames)}})

    def rename(self, identifier: str, filename: str) -> None:
        self.db["media"].update_one({"_id": ObjectId(identifier)}, {"$set": {"filename": filename}})

    def make_tombstones_due(self, filename: str) -> None:
        due = {"doomed.due": {"$subtract": ["$$NOW", 1]}, "attention": "$$NOW"}
        self.db["media"].update_one({"filename": filename}, [{"$set": due}])

    def forget_secrets(self) -> None:
        self.db["media"].update_many({}, {"$unset": {"uploads.$[].secret": "", "ended.$[].secret": ""}})

    def list_revoked(self) -> list[str]:
        return sorted(found["value"] for found in self.db["revoked"].find())

    def count_live(self) -> tuple[int, int]:
        streams, segments = (self.db[name].count_documents({}) for name in LIVE)
        return streams, segments

    def age_streams(self, seconds: float) -> None:
        fields = ("idle_since", "keep_until")
        ages = {name: {"$subtract": [f"${name}", int(seconds * 1000)]} for name in fields}
        self.db["live"].update_many({"keep_until": {"$exists": True}}, [{"$set": ages}])


PART_TABLES = {"uploads": "id", "finished_uploads": "id", "tombstones": "file_id", "outbox": "revision"}
"""The tables of what belongs to a name, and their orders."""
Query = Callable[[str], list[Entry]]


class FilesInspector:
    """The rows and files of a files store. `query` runs one statement of SQL and returns its rows."""

    def __init__(self, folder: Path, query: Query) -> None:
        self.folder = folder
        self.query = query

    def close(self) -> None:
        """Nothing stays open."""

    @property
    def db(self) -> Any:
        """What only MongoDB has."""
        pytest.skip("reads or changes the documents of MongoDB")

    client = db

    def forget_secrets(self) -> None:
        for table in ("uploads", "finished_uploads"):
            self.query(f"UPDATE {table} SET secret_digest = NULL")

    def list_revoked(self) -> list[str]:
        return sorted(bytes(row["value"]).decode() for row in self.query("SELECT value FROM revocations"))

    def count_live(self) -> tuple[int, int]:
        streams, *parts = (
            int(self.query(f"SELECT count(*) AS found FROM {name}")[0]["found"]) for name in (*LIVE, "live_epochs")
        )
        return streams, sum(parts)

    def age_streams(self, seconds: float) -> None:
        self.query(f"UPDATE live SET idle_since = idle_since - {int(seconds * 1000)}")

    def path_of(self, file: Any) -> Path:
        """The path of a file."""
        name = str(file)
        return self.folder / "files" / name[-2:] / name[-3] / name

    def list_files(self) -> list[Path]:
        """All files below the folder of the data."""
        return [path for path in (self.folder / "files").rglob("*") if path.is_file()]

    def count_chunks(self) -> int:
        count = 0
        for path in self.list_files():
            with contextlib.suppress(FileNotFoundError):
                count += -(-path.stat().st_size // CHUNK_SIZE)
        return count

    def list_documents(self) -> list[Entry]:
        try:
            rows = self.query("SELECT * FROM media ORDER BY id")
        except sqlite3.OperationalError:  # before the first service has started
            return []
        parts = {table: self.query(f"SELECT * FROM {table} ORDER BY {order}") for table, order in PART_TABLES.items()}
        return [
            _entry(row, {k: [r for r in v if r["media_id"] == row["id"]] for k, v in parts.items()}) for row in rows
        ]

    def only_document(self) -> Entry:
        (document,) = self.list_documents()
        return document

    def sample_document(self, dice: random.Random) -> Entry | None:
        names = self.query("SELECT * FROM media WHERE uploaded_at IS NOT NULL")
        return _entry(dice.choice(names), {table: [] for table in PART_TABLES}) if names else None

    def find_document(self, filename: str) -> Entry | None:
        return next((one for one in self.list_documents() if one["filename"] == filename), None)

    def read_current(self, identifier: str) -> bytes:
        (document,) = (one for one in self.list_documents() if one["_id"] == identifier)
        return self.read_file(document["current"]["file"])

    def read_file(self, file: Any) -> bytes:
        path = self.path_of(file)
        return path.read_bytes() if path.exists() else b""

    def list_orphans(self) -> list[Any]:
        named: dict[str, int | None] = {}
        for document in self.list_documents():
            if current := document["current"]:
                named[current["file"]] = current["length"]
            for other in (*document["uploads"], *document["doomed"]):
                named.setdefault(other["file"], None)
        sizes = {}
        for path in self.list_files():
            with contextlib.suppress(FileNotFoundError):
                sizes[path.name] = path.stat().st_size
        return [name for name, size in sizes.items() if named.get(name, -1) not in {None, size}]

    def has_no_garbage(self) -> bool:
        return _has_no_garbage(self)

    def clear(self) -> None:
        for table in (
            "uploads",
            "finished_uploads",
            "tombstones",
            "outbox",
            "media",
            "revocations",
            "quotas",
            "deliveries",
            "webhook_endpoints",
            *LIVE,
            "live_epochs",
            MESSAGES,
        ):
            with contextlib.suppress(sqlite3.OperationalError):  # before the first service has started
                self.query(f"DELETE FROM {table}")
        for path in self.list_files():
            path.unlink(missing_ok=True)

    def delete_blocks(self, file: Any, first: int = 0) -> None:
        if first:
            os.truncate(self.path_of(file), first * CHUNK_SIZE)
        else:
            self.path_of(file).unlink()

    def lose_block(self, file: Any, number: int) -> None:
        self.delete_blocks(file, number)

    def delete_all_bytes(self) -> None:
        for path in self.list_files():
            path.unlink()

    def damage_block(self, file: Any, number: int) -> None:
        os.truncate(self.path_of(file), number * CHUNK_SIZE + 5)

    def write_late(self, file: Any, number: int, data: bytes) -> None:
        path = self.path_of(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        try:
            os.pwrite(descriptor, data, number * CHUNK_SIZE)
        finally:
            os.close(descriptor)

    def expire_uploads(self) -> None:
        self.query(f"UPDATE uploads SET expires_at = {_now_ms()}")

    def set_event_time(self, number: int, at: datetime) -> None:
        identifier = self.query("SELECT id FROM outbox ORDER BY revision")[number]["id"]
        self.query(f"UPDATE outbox SET at = {_milliseconds(at)} WHERE id = '{identifier}'")

    def age_events(self, seconds: float) -> None:
        self.query(f"UPDATE outbox SET at = at - {int(seconds * 1000)}")

    def add_tombstones(self, count: int) -> None:
        media_id = self.only_document()["_id"]
        due = _now_ms() + 3_600_000
        values = ", ".join(f"('{ObjectId()}', '{media_id}', {due}, FALSE)" for _ in range(count))
        self.query(f"INSERT INTO tombstones (file_id, media_id, due, second_purge) VALUES {values}")

    def set_uploaded_at(self, at: datetime) -> None:
        self.query(f"UPDATE media SET uploaded_at = {_milliseconds(at)} WHERE uploaded_at IS NOT NULL")

    def set_current(self, filename: str, current: Entry) -> None:
        file_id = current["file"]
        self.query(f"UPDATE media SET file_id = NULL, uploaded_at = NULL WHERE file_id = '{file_id}'")
        texts = {name: current[name] for name in ("content_type", "sha256", "etag", "metadata")}
        values = [
            f"file_id = '{file_id}'",
            f"length = {current['length']}",
            f"uploaded_at = {_milliseconds(current['uploaded_at'])}",
            *(f"{name} = {_quote(text)}" for name, text in texts.items()),
        ]
        self.query(f"UPDATE media SET {', '.join(values)} WHERE filename = {_quote(filename)}")

    def insert_documents(self, documents: Sequence[Entry]) -> None:
        columns = "id, folder, filename, search_name, revision, file_id, length, content_type, sha256, etag, uploaded_at, metadata"
        for start in range(0, len(documents), 500):
            values = ", ".join(map(_media_values, documents[start : start + 500]))
            self.query(f"INSERT INTO media ({columns}) VALUES {values}")

    def delete_documents(self, filenames: Sequence[str]) -> None:
        self.query(f"DELETE FROM media WHERE filename IN ({', '.join(map(_quote, filenames))})")

    def rename(self, identifier: str, filename: str) -> None:
        self.query(f"UPDATE media SET filename = {_quote(filename)} WHERE id = '{identifier}'")

    def make_tombstones_due(self, filename: str) -> None:
        named = f"(SELECT id FROM media WHERE filename = {_quote(filename)})"
        self.query(f"UPDATE tombstones SET due = {_now_ms() - 1} WHERE media_id IN {named}")


def sqlite_query(path: Path) -> Query:
    """Statements on an SQLite file."""

    def query(sql: str) -> list[Entry]:
        if not path.exists():
            raise sqlite3.OperationalError("no database")
        with contextlib.closing(sqlite3.connect(path, timeout=20)) as connection:
            connection.row_factory = sqlite3.Row
            rows = [dict(row) for row in connection.execute(sql)]
            connection.commit()
            return rows

    return query


def _entry(row: Entry, parts: dict[str, list[Entry]]) -> Entry:
    return {
        "_id": row["id"],
        "folder": row["folder"],
        "filename": row["filename"],
        "revision": row["revision"],
        "current": None if row["uploaded_at"] is None else _version(row),
        "uploads": [
            {
                "id": one["id"],
                "file": one["file_id"],
                "client": one["client"],
                "fence": one["fencing_token"],
                "lease_until": _moment(one["lease_until"]),
                "expires_at": _moment(one["expires_at"]),
                "lifetime": one["lifetime"],
                "offset": one["offset"],
                "length": one["length"],
            }
            for one in parts["uploads"]
        ],
        "ended": [
            {"id": one["id"], "file": one["file_id"], "outcome": one["outcome"], "until": _moment(one["until"])}
            for one in parts["finished_uploads"]
        ],
        "doomed": [
            {"file": one["file_id"], "due": _moment(one["due"]), "late": bool(one["second_purge"])}
            for one in parts["tombstones"]
        ],
        "announce": [
            {
                "id": one["id"],
                "type": one["type"],
                "of": _version(one),
                "at": _moment(one["at"]),
                "revision": one["revision"],
                **({"told": True} if one["told"] else {}),
                **({"unrelayed": True} if one["unrelayed"] else {}),
            }
            for one in parts["outbox"]
        ],
    }


def _version(row: Entry) -> Entry:
    version = {name: row[name] for name in ("length", "content_type", "sha256", "etag", "metadata")}
    return {"file": row["file_id"], **version, "uploaded_at": _moment(row["uploaded_at"])}


def _moment(value: int | None) -> datetime | None:
    return None if value is None else datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=value)


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _media_values(document: Entry) -> str:
    folder, filename, current = document["folder"], document["filename"], document["current"]
    name = [None, None, None] if folder is None else [folder, filename, fold(filename)]
    texts = ", ".join(_quote(text) for text in (str(document["_id"]), *name))
    if current is None:
        return f"({texts}, 0, {', '.join(['NULL'] * 7)})"
    sha256 = current["sha256"]
    version = ", ".join(_quote(text) for text in (current["content_type"], sha256, sha256_etag(sha256)))
    at = _milliseconds(current["uploaded_at"])
    return f"({texts}, 0, '{current['file']}', {current['length']}, {version}, {at}, '{{}}')"


def _quote(text: str | None) -> str:
    return "NULL" if text is None else "'" + text.replace("'", "''") + "'"


def _now_ms() -> int:
    return _milliseconds(datetime.now(UTC))


def _has_no_garbage(inspector: StoreInspector) -> bool:
    pending = any(document["uploads"] or document["doomed"] for document in inspector.list_documents())
    return inspector.list_orphans() == [] and not pending


@contextlib.contextmanager
def open_inspector(uri: str, name: str) -> Iterator[Any]:
    """Inspect the database `name` of a server, or of the folder that stands for one: a MongoInspector or a FilesInspector."""
    inspector: MongoInspector | FilesInspector
    if uri.startswith(FILES_PREFIX):
        folder = Path(uri.removeprefix(FILES_PREFIX)) / name
        inspector = FilesInspector(folder, sqlite_query(folder / "gridcast.sqlite3"))
    else:
        inspector = MongoInspector(uri, name)
    try:
        yield inspector
    finally:
        inspector.close()


@contextlib.contextmanager
def open_settings_inspector(settings: StoreSettings) -> Iterator[Any]:
    """Inspect the store of these settings: GridFS, or files with SQLite."""
    folder = Path(settings.files_dir)
    uri, name = (
        (f"{FILES_PREFIX}{folder.parent}", folder.name)
        if settings.store == "files"
        else (settings.mongodb_uri.get_secret_value(), settings.mongodb_database)
    )
    with open_inspector(uri, name) as inspector:
        yield inspector


@contextlib.contextmanager
def open_env_inspector(env: Mapping[str, str]) -> Iterator[Any]:
    """Inspect the store that these variables of a service choose."""
    if env.get("GRIDCAST_STORE") == "files":
        folder = Path(env["GRIDCAST_FILES_DIR"])
        uri, name = f"{FILES_PREFIX}{folder.parent}", folder.name
    else:
        uri, name = env["GRIDCAST_MONGODB_URI"], env["GRIDCAST_MONGODB_DATABASE"]
    with open_inspector(uri, name) as inspector:
        yield inspector
