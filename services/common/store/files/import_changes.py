"""Changes of an import, each the body of one transaction."""

from collections import Counter

from sqlalchemy import exists, insert, select, update

from services.common.errors import Conflict
from services.common.media import MediaInfo, MediaName
from services.common.store.file_importer import (
    ANOTHER_HAS_ID,
    ANOTHER_HAS_NAME,
    BYTES_LEFT_BEHIND,
    CHANGED_MEANWHILE,
    FILE_ID_IN_USE,
    TO_BE_DELETED,
    UNFINISHED_IMPORT_TTL_SECONDS,
    compare_versions,
    next_revision,
)
from services.common.store.files import quotas, schema, upload_changes
from services.common.store.files.clock import to_milliseconds
from services.common.store.files.database import Transaction
from services.common.store.files.ids import make_id
from services.common.store.files.names import lock_media, lock_name, lock_or_create
from services.common.store.files.rows import (
    FilesUploadKey,
    decode_media_info,
    encode_metadata,
    encode_owner,
    identity_of,
)
from services.common.store.files.upload_changes import milliseconds
from services.common.store.quotas import NO_QUOTA
from services.common.store.timings import StoreTimings

media, uploads, tombstones = schema.media, schema.uploads, schema.tombstones


def begin_import(
    transaction: Transaction, info: MediaInfo, secret_digest: str | None, *, is_orphan: bool
) -> tuple[FilesUploadKey, bool]:
    """Add an upload with the ids of the file to its name; the second value says that an earlier import has left one.

    One that is left gets the new secret.

    `is_orphan`: its file is there, and the search for orphans may be about to delete it unless a row has had it.
    """
    name = MediaName(info.folder, info.filename)
    row = lock_name(transaction, name)
    if row is not None and identity_of(row) != info.id:
        raise Conflict(ANOTHER_HAS_NAME)
    if row is None and lock_media(transaction, info.id) is not None:
        raise Conflict(ANOTHER_HAS_ID)
    execute = transaction.connection.execute
    moved = select(exists().where(media.c.identity == info.id, media.c.id != (row["id"] if row else "")))
    if execute(moved).scalar():
        raise Conflict(ANOTHER_HAS_ID)
    row, _ = lock_or_create(transaction, name, info.id)
    if execute(select(exists().where(tombstones.c.file_id == info.file_id))).scalar():
        raise Conflict(TO_BE_DELETED)
    # Whether it is current or not: a version that is current under this name was compared before.
    if execute(
        select(
            exists().where(media.c.file_id == info.file_id, media.c.uploaded_at.is_not(None), media.c.id != row["id"])
        )
    ).scalar():
        raise Conflict(FILE_ID_IN_USE)
    left = execute(select(uploads).where(uploads.c.file_id == info.file_id)).mappings().first()
    if left is not None:
        if left["media_id"] != row["id"]:
            raise Conflict(FILE_ID_IN_USE)
        if left["expires_at"] <= transaction.now:
            raise Conflict(TO_BE_DELETED)
        execute(update(uploads).where(uploads.c.id == left["id"]).values(secret_digest=secret_digest))
        return FilesUploadKey(row["id"], left["id"], info.file_id), True
    if is_orphan:
        raise Conflict(BYTES_LEFT_BEHIND)
    lifetime = milliseconds(UNFINISHED_IMPORT_TTL_SECONDS)
    key = FilesUploadKey(row["id"], make_id(), info.file_id)
    execute(
        insert(uploads).values(
            id=key.record_id,
            secret_digest=secret_digest,
            media_id=key.media_id,
            file_id=key.file_id,
            client="",
            fencing_token=1,
            lease_until=None,
            expires_at=transaction.now + lifetime,
            lifetime=lifetime,
            offset=0,
            length=info.length,
            metadata=encode_metadata({}),
        )
    )
    return key, False


def commit_import(
    transaction: Transaction, key: FilesUploadKey, fencing_token: int, info: MediaInfo, timings: StoreTimings
) -> None:
    """Make the file current, and add a tombstone for the old version: one step for every reader. The outbox stays as it is."""
    row = lock_media(transaction, key.media_id)
    removed = upload_changes.remove_upload(transaction, key, fencing_token)
    if row is None or removed is None or removed["file_id"] != info.file_id:
        raise Conflict(CHANGED_MEANWHILE)
    length = info.length + quotas.poster_bytes(transaction, info.file_id, info.poster_etag)
    change = Counter({encode_owner(info.owner): length})
    if row["uploaded_at"] is not None:
        change[row["owner"]] -= quotas.counted_bytes(transaction, row)
        if compare_versions(decode_media_info(row), info) is not None:
            raise Conflict(CHANGED_MEANWHILE)
        due = transaction.now + milliseconds(timings.tombstone_ttl)
        upload_changes.add_tombstone(transaction, key.media_id, row["file_id"], due)
    quotas.add_stored(transaction, NO_QUOTA, change)
    version = {
        "file_id": info.file_id,
        "length": info.length,
        "content_type": info.content_type,
        "sha256": info.sha256,
        "etag": info.etag,
        "uploaded_at": to_milliseconds(info.uploaded_at),
        "metadata": info.metadata_json,
        "media_facts": info.media_facts_json,
        "poster": info.poster_etag,
        "owner": encode_owner(info.owner),
    }
    revision = next_revision(info.revision, row["revision"])
    identity = None if row["id"] == info.id else info.id
    statement = update(media).where(media.c.id == key.media_id).values(**version, revision=revision, identity=identity)
    transaction.connection.execute(statement)
