"""Changes of unfinished uploads, each the body of one transaction. Every one but the first is fenced by the token of its writer.

The names and rules are those of the GridFS store, where each is one update of a document.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from sqlalchemy import (
    BigInteger,
    Connection,
    CursorResult,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    update,
)

from services.common.errors import AlreadyExists, Conflict, GridcastError, PreconditionFailed, TooManyRequests
from services.common.media import MediaName
from services.common.store.files import live_changes, quotas, schema
from services.common.store.files.admission import UnfinishedUpload, admit_upload
from services.common.store.files.clock import StoreClock, to_milliseconds
from services.common.store.files.database import Transaction
from services.common.store.files.ids import make_id
from services.common.store.files.names import delete_if_empty, lock_media, lock_or_create
from services.common.store.files.rows import FilesUploadKey, Row, encode_metadata, encode_owner
from services.common.store.limits import MAX_FINISHED_UPLOADS, MAX_TOMBSTONES, RETRY_LATER
from services.common.store.preconditions import Preconditions
from services.common.store.quotas import Quota
from services.common.store.timings import StoreTimings
from services.common.store.upload_store import (
    NewUpload,
    StoredFile,
)

uploads, finished_uploads, tombstones = schema.uploads, schema.finished_uploads, schema.tombstones

# Statements are built once: to build one takes longer than to run it.
_FENCED = (
    uploads.c.id == bindparam("of_id"),
    uploads.c.media_id == bindparam("of_media"),
    uploads.c.fencing_token == bindparam("of_token"),
)
READ_FENCED = select(uploads).where(*_FENCED)
_INSERT_UPLOAD = insert(uploads)
_COUNT_TOMBSTONES = select(func.count()).select_from(tombstones).where(tombstones.c.media_id == bindparam("of_media"))
_READ_UPLOADS = select(uploads).where(uploads.c.media_id == bindparam("of_media"))
_INSERT_TOMBSTONE = insert(tombstones)
UPDATE_FENCED = update(uploads).where(*_FENCED)
_DELETE_FENCED = delete(uploads).where(*_FENCED).returning(uploads)
_FORGET_METADATA = update(finished_uploads).where(finished_uploads.c.media_id == bindparam("of_media"))
_INSERT_FINISHED = insert(finished_uploads)
_DROP_OLDEST_FINISHED = delete(finished_uploads).where(
    finished_uploads.c.media_id == bindparam("of_media"),
    finished_uploads.c.id.not_in(
        select(finished_uploads.c.id)
        .where(finished_uploads.c.media_id == bindparam("of_media"))
        .order_by(finished_uploads.c.until.desc(), finished_uploads.c.id.desc())
        .limit(MAX_FINISHED_UPLOADS)
    ),
)


def milliseconds(seconds: float) -> int:
    """The unit of stored times."""
    return int(seconds * 1000)


def preconditions_hold(preconditions: Preconditions, media: Row) -> bool:
    """Whether the preconditions hold for the current file of a name's row."""
    exists = media["uploaded_at"] is not None
    etag = media["etag"]  # null where there is no file
    since = preconditions.unmodified_since
    return (
        not (preconditions.must_not_exist and exists)
        and not (preconditions.must_exist and not exists)
        and (preconditions.etag_in is None or etag in preconditions.etag_in)
        and etag not in preconditions.etag_not_in
        and (since is None or not exists or media["uploaded_at"] <= to_milliseconds(since) + 999)
    )


def precondition_error(name: MediaName | None, preconditions: Preconditions) -> GridcastError:
    """The error for a precondition that does not hold."""
    if preconditions.must_not_exist and name is not None:
        return AlreadyExists(name.folder, name.filename)
    return PreconditionFailed("the file does not match the precondition")


def raise_lease_lost() -> NoReturn:
    """Raise the error for a void handle."""
    raise Conflict("another writer has acquired this upload, or it has expired")


def create_upload(
    transaction: Transaction,
    name: MediaName | None,
    secret_digest: str | None,
    new_upload: NewUpload,
    preconditions: Preconditions,
    timings: StoreTimings,
    quota: Quota,
) -> FilesUploadKey:
    """Add an upload to its name, unless a precondition fails or a limit is reached. An idle one may be evicted for it."""
    metadata = encode_metadata(new_upload.metadata)
    client = hashlib.sha256(new_upload.client.encode()).hexdigest()[:16] if new_upload.client else ""
    media = _admit(transaction, name, client, len(metadata), preconditions, resumable=new_upload.ttl is not None)
    owner = encode_owner(new_upload.owner)
    quotas.check_new_upload(transaction, quota, owner, new_upload.reserved_bytes)
    lifetime = None if new_upload.ttl is None else milliseconds(new_upload.ttl)
    lease_until = transaction.now + milliseconds(timings.lease_ttl)
    key = FilesUploadKey(media["id"], make_id(), make_id())
    transaction.connection.execute(
        _INSERT_UPLOAD,
        {
            "id": key.record_id,
            "secret_digest": secret_digest,
            "media_id": key.media_id,
            "file_id": key.file_id,
            "client": client,
            "fencing_token": 1,
            "lease_until": lease_until if lifetime is None else None,
            "expires_at": lease_until if lifetime is None else transaction.now + lifetime,
            "lifetime": lifetime,
            "offset": 0,
            "length": new_upload.length,
            "metadata": metadata,
            "owner": owner,
            "reserved": new_upload.reserved_bytes,
        },
    )
    return key


def assign_name(
    transaction: Transaction,
    key: FilesUploadKey,
    fencing_token: int,
    name: MediaName,
    preconditions: Preconditions,
    timings: StoreTimings,
    ttl: float | None = None,
) -> FilesUploadKey:
    """Move an upload from its row to that of another name, as an upload with this TTL. Its fencing token is incremented."""
    lock_media(transaction, key.media_id)
    media = _admit(transaction, name, "", 2, preconditions, resumable=ttl is not None)
    lifetime = None if ttl is None else milliseconds(ttl)
    lease_until = transaction.now + milliseconds(timings.lease_ttl)
    result = transaction.connection.execute(
        UPDATE_FENCED,
        {
            **fence(key, fencing_token),
            "media_id": media["id"],
            "client": "",
            "fencing_token": fencing_token + 1,
            "lease_until": lease_until,
            "expires_at": lease_until if lifetime is None else transaction.now + lifetime,
            "lifetime": lifetime,
            "length": None,
            "metadata": "{}",
        },
    )
    if not result.rowcount:
        raise_lease_lost()
    delete_if_empty(transaction, key.media_id)
    return key._replace(media_id=media["id"])


def _admit(
    transaction: Transaction,
    name: MediaName | None,
    client: str,
    metadata_bytes: int,
    preconditions: Preconditions,
    *,
    resumable: bool,
) -> Row:
    """Lock the row of the name and make room for one more upload. Raises AlreadyExists, PreconditionFailed, TooManyRequests."""
    media, is_new = lock_or_create(transaction, name)
    if not preconditions_hold(preconditions, media):
        raise precondition_error(name, preconditions)
    if is_new:
        return media
    of_media = {"of_media": media["id"]}
    if (transaction.connection.execute(_COUNT_TOMBSTONES, of_media).scalar() or 0) >= MAX_TOMBSTONES:
        raise TooManyRequests("too many replaced versions of this name await deletion", RETRY_LATER)
    rows = transaction.connection.execute(_READ_UPLOADS, of_media).mappings().all()
    now = transaction.now
    others = [
        UnfinishedUpload(
            id=row["id"],
            client=row["client"],
            idle=row["lifetime"] is not None and (row["lease_until"] is None or row["lease_until"] <= now),
            has_bytes=row["offset"] > 0,
            active_at=row["expires_at"] - (row["lifetime"] or 0),
            metadata_bytes=len(row["metadata"]),
        )
        for row in rows
    ]
    admission = admit_upload(others, client, metadata_bytes, resumable=resumable)
    if not admission.fits:
        raise TooManyRequests("too many unfinished uploads of this name are under way", RETRY_LATER)
    if admission.evicted is not None:
        doom_uploads(transaction, [row for row in rows if row["id"] == admission.evicted])
    return media


def fence(key: FilesUploadKey, fencing_token: int) -> dict[str, Any]:
    """The parameters of a statement that finds the upload only while it has that fencing token."""
    return {"of_id": key.record_id, "of_media": key.media_id, "of_token": fencing_token}


def read_fenced(connection: Connection, key: FilesUploadKey, fencing_token: int) -> Row | None:
    """Return the row of an upload, None where its fencing token is another."""
    return connection.execute(READ_FENCED, fence(key, fencing_token)).mappings().first()


def doom_uploads(transaction: Transaction, rows: Sequence[Row]) -> None:
    """Remove uploads whose writers may still be in the middle of a write; their files are deleted twice."""
    if not rows:
        return
    transaction.connection.execute(delete(uploads).where(uploads.c.id.in_([row["id"] for row in rows])))
    for row in rows:
        add_tombstone(transaction, row["media_id"], row["file_id"], transaction.now, second_purge=True)


def add_tombstone(
    transaction: Transaction,
    media_id: str,
    file_id: str,
    due: int,
    *,
    second_purge: bool = False,
    version: Mapping[str, Any] | None = None,
) -> None:
    """Note a file to delete from `due` on, with its `version` where it is one that may be restored."""
    values = {**(version or {}), "file_id": file_id, "media_id": media_id, "due": due, "second_purge": second_purge}
    transaction.connection.execute(_INSERT_TOMBSTONE, values)


def acquire(
    transaction: Transaction, key: FilesUploadKey, timings: StoreTimings, seen_token: int | None
) -> tuple[Row, StoreClock] | None:
    """Increment the fencing token; None where the upload is gone or has expired. Conflict where it is not `seen_token`."""
    if lock_media(transaction, key.media_id) is None:
        return None
    lease_until = transaction.now + milliseconds(timings.lease_ttl)
    alive = (uploads.c.id == key.record_id, uploads.c.media_id == key.media_id, uploads.c.expires_at > transaction.now)
    if seen_token is not None:
        current = transaction.connection.scalar(select(uploads.c.fencing_token).where(*alive))
        if current not in {None, seen_token}:
            raise_lease_lost()
    statement = (
        update(uploads)
        .where(*alive)
        .values(
            fencing_token=uploads.c.fencing_token + 1,
            lease_until=lease_until,
            expires_at=_greater(uploads.c.expires_at, lease_until),
        )
        .returning(uploads)
    )
    row = transaction.connection.execute(statement).mappings().first()
    return None if row is None else (row, transaction.clock)


def move_to_file(transaction: Transaction, key: FilesUploadKey, fencing_token: int, file_id: str) -> None:
    """Continue an upload in another file; the old one is deleted twice."""
    result = transaction.connection.execute(UPDATE_FENCED, {**fence(key, fencing_token), "file_id": file_id})
    if not result.rowcount:
        raise_lease_lost()
    live_changes.move_to_file(transaction, key.file_id, file_id)
    add_tombstone(transaction, key.media_id, key.file_id, transaction.now, second_purge=True)


def reserve(transaction: Transaction, key: FilesUploadKey, owner: bytes, length: int, quota: Quota) -> None:
    """Reserve `length` bytes in all of the owner's quota."""
    lock_media(transaction, key.media_id)
    quotas.extend(transaction, quota, key.record_id, owner, length)


def renew_lease(transaction: Transaction, key: FilesUploadKey, fencing_token: int, timings: StoreTimings) -> None:
    """Extend the lease from now on, where one is held. The upload does not expire before its lease ends."""
    until = transaction.now + milliseconds(timings.lease_ttl)
    result = transaction.connection.execute(_RENEW_LEASE, {**fence(key, fencing_token), "until": until})
    if not result.rowcount:
        raise_lease_lost()


def release_lease(transaction: Transaction, key: FilesUploadKey, fencing_token: int) -> None:
    """End the lease; no effect where another writer has acquired the upload."""
    transaction.connection.execute(UPDATE_FENCED, {**fence(key, fencing_token), "lease_until": None})


def remove_upload(transaction: Transaction, key: FilesUploadKey, fencing_token: int) -> Row | None:
    """Remove an upload of a locked name and return its row; None where the handle is void."""
    return transaction.connection.execute(_DELETE_FENCED, fence(key, fencing_token)).mappings().first()


def keep_outcome(transaction: Transaction, upload: Row, outcome: str, stored_file: StoredFile | None) -> None:
    """Keep the outcome of an upload that had a TTL, or whose file asks for it, until the garbage collector drops it.

    The metadata of one whose file is not there is not kept: nothing is answered from it.
    """
    of_media = {"of_media": upload["media_id"]}
    execute = transaction.connection.execute
    if outcome == "stored":  # then the files of all others were replaced
        execute(_FORGET_METADATA, {**of_media, "metadata": "{}"})
    lifetime = upload["lifetime"]
    if lifetime is None and stored_file is not None and stored_file.outcome_ttl is not None:
        lifetime = milliseconds(stored_file.outcome_ttl)
    if lifetime is None:
        return
    execute(
        _INSERT_FINISHED,
        {
            "id": upload["id"],
            "secret_digest": upload["secret_digest"],
            "owner": upload["owner"],
            "media_id": upload["media_id"],
            "file_id": upload["file_id"],
            "outcome": outcome,
            "length": stored_file.length if stored_file else upload["offset"],
            "sha256": stored_file.sha256 if stored_file else None,
            "etag": stored_file.etag if stored_file else None,
            "metadata": upload["metadata"] if outcome == "stored" else "{}",
            "until": transaction.now + lifetime,
        },
    )
    execute(_DROP_OLDEST_FINISHED, of_media)


def abort(
    transaction: Transaction, key: FilesUploadKey, fencing_token: int, *, name_taken: bool, second_purge: bool
) -> bool:
    """End an upload without a file, which is due for deletion at once. Returns whether the handle was valid."""
    lock_media(transaction, key.media_id)
    upload = remove_upload(transaction, key, fencing_token)
    if upload is None:
        return False
    if name_taken:
        keep_outcome(transaction, upload, "lost", None)
    add_tombstone(transaction, key.media_id, upload["file_id"], transaction.now, second_purge=second_purge)
    return True


def mark_purged(transaction: Transaction, media_id: str, file_ids: Sequence[str], timings: StoreTimings) -> None:
    """Remove the tombstones of files that are deleted, or postpone them where they are to be deleted a second time.

    Only where they were due: of two collectors the second must not remove what the first has postponed.
    """
    lock_media(transaction, media_id)
    due = (tombstones.c.file_id.in_(file_ids), tombstones.c.due <= transaction.now)
    later = transaction.now + milliseconds(timings.second_purge_after)
    # In this order: what is postponed is not due any more.
    postponed: CursorResult[Any] = transaction.connection.execute(
        update(tombstones).where(*due, tombstones.c.second_purge.is_(True)).values(due=later, second_purge=False)
    )
    transaction.connection.execute(delete(schema.posters).where(schema.posters.c.file_id.in_(file_ids)))
    live_changes.delete_of_files(transaction, file_ids)
    if postponed.rowcount < len(file_ids):
        transaction.connection.execute(delete(tombstones).where(*due))
    delete_if_empty(transaction, media_id)


def _greater(column: Any, value: Any) -> Any:
    """The greater of both: the databases have no function of the same name for it."""
    return case((column > value, column), else_=value)


_UNTIL = bindparam("until", type_=BigInteger())
_RENEW_LEASE = UPDATE_FENCED.values(
    lease_until=case((uploads.c.lease_until.is_(None), None), else_=_UNTIL),
    expires_at=_greater(uploads.c.expires_at, _UNTIL),
)
