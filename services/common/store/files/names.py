"""The row of a name: found, created and locked, and deleted with the last thing that is kept under it.

A transaction that changes what hangs on a name locks its row first; SQLite locks the whole database instead. A row that is deleted
leaves its revision in one of the buckets of `revision_floors`, chosen by the name, and the next row of any name of that bucket
begins there: so revisions never fall, and take a fixed amount of space.
"""

import hashlib
from typing import Any

from sqlalchemy import Table, delete, exists, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from services.common.errors import ServiceUnavailable
from services.common.media import MediaName
from services.common.store.files import schema
from services.common.store.files.database import Transaction
from services.common.store.files.ids import make_id
from services.common.store.files.rows import Row, fold
from services.common.store.limits import REVISION_BUCKETS

INSERT_ATTEMPTS = 20
"""A row that another transaction inserts and one that deletes it may follow each other so often."""

media = schema.media


def insert_or_ignore(transaction: Transaction, table: Table, **values: Any) -> bool:
    """Insert a row unless a unique one is there; return whether it was inserted."""
    dialect = postgresql if transaction.connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).values(values).on_conflict_do_nothing()
    return transaction.connection.execute(statement).rowcount == 1


def lock_media(transaction: Transaction, media_id: str) -> Row | None:
    """Lock and return a row, None where it is not there."""
    statement = select(media).where(media.c.id == media_id).with_for_update()
    return transaction.connection.execute(statement).mappings().first()


def lock_name(transaction: Transaction, name: MediaName) -> Row | None:
    """Lock and return the row of a name, None where it is not there."""
    statement = select(media).where(media.c.folder == name.folder, media.c.filename == name.filename).with_for_update()
    return transaction.connection.execute(statement).mappings().first()


def lock_or_create(transaction: Transaction, name: MediaName | None, media_id: str | None = None) -> tuple[Row, bool]:
    """Lock and return the row of a name, and whether it was created: always where there is no name.

    A row that is created gets `media_id`, or a new id.
    """
    new = {**dict.fromkeys(media.c.keys()), "id": media_id or make_id(), "revision": 0}
    if name is None:
        transaction.connection.execute(insert(media).values(id=new["id"], revision=0))
        return new, True
    new |= {"folder": name.folder, "filename": name.filename, "search_name": fold(name.filename)}
    for _ in range(INSERT_ATTEMPTS):
        if (row := lock_name(transaction, name)) is not None:
            return row, False
        if insert_or_ignore(transaction, media, **new):
            # Read after the insert: it has waited for the transaction that deleted the row before.
            return {**new, "revision": _begin_at_floor(transaction, name)}, True
    raise ServiceUnavailable("too many concurrent uploads of this name")


def _begin_at_floor(transaction: Transaction, name: MediaName) -> int:
    """Set the revision of a new row, and return it."""
    floors = schema.revision_floors
    floor = transaction.connection.execute(select(floors.c.floor).where(floors.c.bucket == bucket_of(name))).scalar()
    if floor:
        named = (media.c.folder == name.folder, media.c.filename == name.filename)
        transaction.connection.execute(update(media).where(*named).values(revision=floor))
    return floor or 0


def delete_if_empty(transaction: Transaction, media_id: str) -> None:
    """Delete a locked row where nothing is left under its name, and keep its revision."""
    kept = (
        exists().where(table.c.media_id == media_id)
        for table in (schema.uploads, schema.finished_uploads, schema.tombstones, schema.outbox)
    )
    empty = (media.c.id == media_id, media.c.uploaded_at.is_(None), *(~one for one in kept))
    statement = delete(media).where(*empty).returning(media.c.folder, media.c.filename, media.c.revision)
    row = transaction.connection.execute(statement).first()
    if row is not None and row.folder is not None and row.revision:
        _raise_floor(transaction, bucket_of(MediaName(row.folder, row.filename)), row.revision)


def _raise_floor(transaction: Transaction, bucket: int, revision: int) -> None:
    floors = schema.revision_floors
    if not insert_or_ignore(transaction, floors, bucket=bucket, floor=revision):
        lower = (floors.c.bucket == bucket, floors.c.floor < revision)
        transaction.connection.execute(update(floors).where(*lower).values(floor=revision))


def bucket_of(name: MediaName) -> int:
    """The bucket of a name."""
    digest = hashlib.sha256(f"{name.folder}/{name.filename}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % REVISION_BUCKETS
