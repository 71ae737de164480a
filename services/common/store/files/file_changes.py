"""Changes of committed files beyond the commit, each the body of one transaction: moves, and restoring what was deleted."""

import json
import time

from sqlalchemy import delete, insert, select, update

from services.common.errors import AlreadyExists, Gone, PreconditionFailed
from services.common.media import MediaName, Poster
from services.common.store.files import quotas, schema
from services.common.store.files.database import Transaction
from services.common.store.files.ids import make_id
from services.common.store.files.names import delete_if_empty, lock_name, lock_or_create
from services.common.store.files.outbox import append_event
from services.common.store.files.rows import Row, identity_of, version_of
from services.common.store.files.upload_changes import add_tombstone, preconditions_hold
from services.common.store.limits import NOT_RESTORABLE
from services.common.store.preconditions import Preconditions
from services.common.store.quotas import Quota
from services.common.store.upload_store import (
    OutboxEvent,
)

media, tombstones = schema.media, schema.tombstones
_NOTHING = dict.fromkeys(schema.VERSION_FIELDS)


def move(
    transaction: Transaction,
    name: MediaName,
    new_name: MediaName,
    preconditions: Preconditions,
    event_id: str,
    *,
    unrelayed: bool,
) -> tuple[OutboxEvent, ...] | None:
    """Move the current version to the row of the new name. Its rows of uploads and tombstones stay.

    `unrelayed`, here and below: the events are to be relayed. Then TooManyUnrelayed is raised where a name has too many of them.
    """
    read_at = time.monotonic()
    source, target = _lock_both(transaction, name, new_name)
    if source is None or source["uploaded_at"] is None:
        if target is not None:
            delete_if_empty(transaction, target["id"])
        return None
    if not preconditions_hold(preconditions, source):
        raise PreconditionFailed("the file does not match the precondition")
    if target is None or target["uploaded_at"] is not None:
        raise AlreadyExists(new_name.folder, new_name.filename)
    version, identity = version_of(source), identity_of(source)
    departure = source["revision"] + 1
    arrival = max(target["revision"], departure) + 1
    execute = transaction.connection.execute
    execute(update(media).where(media.c.id == source["id"]).values(**_NOTHING, revision=departure, identity=make_id()))
    execute(update(media).where(media.c.id == target["id"]).values(**version, revision=arrival, identity=identity))
    moved = {
        **version,
        "id": event_id,
        "media_id": target["id"],
        "type": "file.moved",
        "revision": arrival,
        "identity": identity,
        "previous": json.dumps([name.folder, name.filename, departure]),
    }
    events = [append_event(transaction, target, moved, read_at, unrelayed=unrelayed)]
    if name.folder != new_name.folder:
        departed = {
            **version,
            "id": make_id(),
            "media_id": source["id"],
            "type": "file.deleted",
            "revision": departure,
            "identity": identity,
        }
        events.append(append_event(transaction, source, departed, read_at, unrelayed=unrelayed))
    delete_if_empty(transaction, source["id"])
    return tuple(events)


def _lock_both(transaction: Transaction, name: MediaName, new_name: MediaName) -> tuple[Row | None, Row | None]:
    """Lock the rows of both names, in an order that two moves the other way round keep, too. That of the new one is created."""
    if name == new_name:
        source = lock_name(transaction, name)
        return source, source
    if (name.folder, name.filename) < (new_name.folder, new_name.filename):
        source = lock_name(transaction, name)
        return source, lock_or_create(transaction, new_name)[0] if source is not None else None
    target, _ = lock_or_create(transaction, new_name)
    return lock_name(transaction, name), target


def doom_deleted(transaction: Transaction, row: Row, due: int) -> None:
    """Add the tombstone of a version that is deleted. It is the one that can be restored from now on."""
    others = (tombstones.c.media_id == row["id"], tombstones.c.uploaded_at.is_not(None))
    described = [field for field in schema.VERSION_FIELDS if field != "file_id"]
    transaction.connection.execute(update(tombstones).where(*others).values(dict.fromkeys(described)))
    add_tombstone(transaction, row["id"], row["file_id"], due, version=version_of(row))


def restore(transaction: Transaction, name: MediaName, event_id: str, *, unrelayed: bool) -> OutboxEvent:
    """Make the version current again whose tombstone describes it."""
    read_at = time.monotonic()
    row = lock_name(transaction, name)
    if row is None:
        raise Gone(NOT_RESTORABLE)
    if row["uploaded_at"] is not None:
        raise AlreadyExists(name.folder, name.filename)
    kept = (
        tombstones.c.media_id == row["id"],
        tombstones.c.uploaded_at.is_not(None),
        tombstones.c.due > transaction.now,
    )
    found = transaction.connection.execute(select(tombstones).where(*kept)).mappings().first()
    if found is None:
        raise Gone(NOT_RESTORABLE)
    version, revision = version_of(found), row["revision"] + 1
    transaction.connection.execute(delete(tombstones).where(tombstones.c.file_id == found["file_id"]))
    transaction.connection.execute(update(media).where(media.c.id == row["id"]).values(**version, revision=revision))
    restored = {
        **version,
        "id": event_id,
        "media_id": row["id"],
        "type": "file.restored",
        "revision": revision,
        "identity": row["identity"],
    }
    return append_event(transaction, row, restored, read_at, unrelayed=unrelayed)


def set_poster(
    transaction: Transaction,
    quota: Quota,
    name: MediaName,
    poster: Poster | None,
    preconditions: Preconditions,
    event_id: str,
    *,
    unrelayed: bool,
) -> OutboxEvent | None:
    """Set or remove the poster of the current version, with an event. It counts for the owner of the file."""
    read_at = time.monotonic()
    row = lock_name(transaction, name)
    if row is None or row["uploaded_at"] is None:
        return None
    if not preconditions_hold(preconditions, row):
        raise PreconditionFailed("the file does not match the precondition")
    more = (0 if poster is None else len(poster.data)) - quotas.poster_bytes(transaction, row["file_id"], row["poster"])
    quotas.check_more(transaction, quota, row["owner"], more)
    quotas.add_stored(transaction, quota, {row["owner"]: more})
    write_poster(transaction, row["file_id"], poster)
    etag, revision = None if poster is None else poster.etag, row["revision"] + 1
    transaction.connection.execute(update(media).where(media.c.id == row["id"]).values(poster=etag, revision=revision))
    described = {
        **version_of(row),
        "poster": etag,
        "id": event_id,
        "media_id": row["id"],
        "type": "file.described",
        "revision": revision,
        "identity": row["identity"],
    }
    return append_event(transaction, row, described, read_at, unrelayed=unrelayed)


def write_poster(transaction: Transaction, file_id: str, poster: Poster | None) -> None:
    """Store the poster of a file in place of what it had; None deletes it."""
    posters = schema.posters
    transaction.connection.execute(delete(posters).where(posters.c.file_id == file_id))
    if poster is not None:
        values = {"etag": poster.etag, "content_type": poster.content_type, "data": poster.data}
        transaction.connection.execute(insert(posters).values(file_id=file_id, **values))
