"""The row of a name: found, created and locked, and deleted with the last thing that is kept under it.

A transaction that changes what hangs on a name locks its row first; SQLite locks the whole database instead. A row that is deleted
leaves its revision in one of the buckets of `revision_floors`, chosen by the name, and the next row of any name of that bucket
begins there: so revisions never fall, and take a fixed amount of space.
"""

import hashlib
from typing import Any

from sqlalchemy import Table, bindparam, delete, exists, insert, select, update
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

media, floors = schema.media, schema.revision_floors

# Statements are built once: to build one takes longer than to run it.
_NAMED = (media.c.folder == bindparam("of_folder"), media.c.filename == bindparam("of_filename"))
_LOCK_MEDIA = select(media).where(media.c.id == bindparam("of_id")).with_for_update()
_LOCK_NAME = select(media).where(*_NAMED).with_for_update()
_INSERT_MEDIA = insert(media)
_INSERT_OR_IGNORE = {
    (dialect, table.name): module.insert(table).on_conflict_do_nothing()
    for dialect, module in (("sqlite", sqlite), ("postgresql", postgresql))
    for table in (media, floors, schema.quotas, schema.deliveries, schema.webhook_endpoints)
}
_READ_FLOOR = select(floors.c.floor).where(floors.c.bucket == bindparam("of_bucket"))
_RAISE_FLOOR = (
    update(floors)
    .where(floors.c.bucket == bindparam("of_bucket"), floors.c.floor < bindparam("new_floor"))
    .values(floor=bindparam("new_floor"))
)
_SET_REVISION = update(media).where(*_NAMED)
_DELETE_IF_EMPTY = (
    delete(media)
    .where(
        media.c.id == bindparam("of_id"),
        media.c.uploaded_at.is_(None),
        *(
            ~exists().where(table.c.media_id == media.c.id)
            for table in (schema.uploads, schema.finished_uploads, schema.tombstones, schema.outbox)
        ),
    )
    .returning(media.c.folder, media.c.filename, media.c.revision)
)


def insert_or_ignore(transaction: Transaction, table: Table, **values: Any) -> bool:
    """Insert a row unless a unique one is there; return whether it was inserted."""
    statement = _INSERT_OR_IGNORE[transaction.connection.dialect.name, table.name]
    return transaction.connection.execute(statement, values).rowcount == 1


def lock_media(transaction: Transaction, media_id: str) -> Row | None:
    """Lock and return a row, None where it is not there."""
    return transaction.connection.execute(_LOCK_MEDIA, {"of_id": media_id}).mappings().first()


def lock_name(transaction: Transaction, name: MediaName) -> Row | None:
    """Lock and return the row of a name, None where it is not there."""
    return transaction.connection.execute(_LOCK_NAME, _of_name(name)).mappings().first()


def _of_name(name: MediaName) -> dict[str, str]:
    return {"of_folder": name.folder, "of_filename": name.filename}


def lock_or_create(transaction: Transaction, name: MediaName | None, media_id: str | None = None) -> tuple[Row, bool]:
    """Lock and return the row of a name, and whether it was created: always where there is no name.

    A row that is created gets `media_id`, or a new id.
    """
    new = {**dict.fromkeys(media.c.keys()), "id": media_id or make_id(), "revision": 0}
    if name is None:
        transaction.connection.execute(_INSERT_MEDIA, {"id": new["id"], "revision": 0})
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
    floor: int | None = transaction.connection.execute(_READ_FLOOR, {"of_bucket": bucket_of(name)}).scalar()
    if floor:
        transaction.connection.execute(_SET_REVISION, {**_of_name(name), "revision": floor})
    return floor or 0


def delete_if_empty(transaction: Transaction, media_id: str) -> None:
    """Delete a locked row where nothing is left under its name, and keep its revision."""
    row = transaction.connection.execute(_DELETE_IF_EMPTY, {"of_id": media_id}).first()
    if row is not None and row.folder is not None and row.revision:
        _raise_floor(transaction, bucket_of(MediaName(row.folder, row.filename)), row.revision)


def _raise_floor(transaction: Transaction, bucket: int, revision: int) -> None:
    if not insert_or_ignore(transaction, floors, bucket=bucket, floor=revision):
        transaction.connection.execute(_RAISE_FLOOR, {"of_bucket": bucket, "new_floor": revision})


def bucket_of(name: MediaName) -> int:
    """The bucket of a name."""
    digest = hashlib.sha256(f"{name.folder}/{name.filename}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % REVISION_BUCKETS
