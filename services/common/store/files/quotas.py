"""Quotas in the table `quotas`, one row for each owner, changed in the transaction of the change that it counts. So it is exact.

A transaction that reserves locks the owner's row, so that uploads of one owner that begin together wait for each other. What
is reserved is in the rows of the uploads and nowhere else: it ends with them, however they end.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select, update

from services.common.store.files import schema
from services.common.store.files.database import Transaction
from services.common.store.files.names import insert_or_ignore
from services.common.store.quotas import Quota

quotas, uploads, media, posters = schema.quotas, schema.uploads, schema.media, schema.posters


def check_new_upload(transaction: Transaction, quota: Quota, owner: bytes | None, length: int) -> None:
    """Raise QuotaExceeded or TooManyRequests where the owner may not begin an upload of `length` bytes."""
    if owner is None or not quota.is_set:
        return
    stored = _lock(transaction, owner)
    reserved, count = _reserved(transaction, owner)
    quota.check_uploads(count + 1)
    quota.check_bytes(stored + reserved + length)


def extend(transaction: Transaction, quota: Quota, upload_id: str, owner: bytes, length: int) -> None:
    """Reserve `length` bytes in all for an upload whose name is locked. Raises QuotaExceeded."""
    stored = _lock(transaction, owner)
    held = transaction.connection.execute(select(uploads.c.reserved).where(uploads.c.id == upload_id)).scalar()
    if held is None or held >= length:
        return
    reserved, _ = _reserved(transaction, owner)
    quota.check_bytes(stored + reserved + length - held)
    transaction.connection.execute(update(uploads).where(uploads.c.id == upload_id).values(reserved=length))


def check_more(transaction: Transaction, quota: Quota, owner: bytes | None, more: int) -> None:
    """Raise QuotaExceeded where the owner may not have `more` bytes beside what it has."""
    if owner is None or not quota.max_bytes or more <= 0:
        return
    stored = _lock(transaction, owner)
    reserved, _ = _reserved(transaction, owner)
    quota.check_bytes(stored + reserved + more)


def poster_bytes(transaction: Transaction, file_id: str, etag: str | None) -> int:
    """Return how long the poster of a file is, which is looked at only where it has one."""
    if etag is None:
        return 0
    length = select(func.length(posters.c.data)).where(posters.c.file_id == file_id)
    return int(transaction.connection.execute(length).scalar() or 0)


def counted_bytes(transaction: Transaction, row: Mapping[str, Any]) -> int:
    """Return what the current version of a name counts: its bytes and those of its poster."""
    return int(row["length"]) + poster_bytes(transaction, row["file_id"], row["poster"])


def add_stored(transaction: Transaction, quota: Quota, changes: Mapping[bytes | None, int]) -> None:
    """Add to the bytes that owners have stored: less than 0 for a file that is not current any more.

    In one order, so that two transactions that replace files of each other's owners do not wait for each other.
    """
    for owner in sorted(owner for owner in changes if owner is not None):
        if quota.is_set:  # a count that is being made must not miss what this transaction commits
            insert_or_ignore(transaction, quotas, owner=owner, stored=None)
        changed = quotas.c.stored + changes[owner]
        transaction.connection.execute(update(quotas).where(quotas.c.owner == owner).values(stored=changed))


def count_stored(transaction: Transaction, owner: bytes) -> None:
    """Count the files of an owner again. Its row stays, also where it has nothing: another transaction may wait for its lock."""
    _lock(transaction, owner, anew=True)


def _lock(transaction: Transaction, owner: bytes, *, anew: bool = False) -> int:
    """Lock the row of an owner, and return how many bytes it has stored: counted where that is not known, or `anew`."""
    execute = transaction.connection.execute
    insert_or_ignore(transaction, quotas, owner=owner, stored=None)
    stored = execute(select(quotas.c.stored).where(quotas.c.owner == owner).with_for_update()).scalar()
    if stored is None or anew:
        files = select(func.sum(media.c.length)).where(media.c.owner == owner)
        pictures = (
            select(func.sum(func.length(posters.c.data)))
            .join(media, media.c.file_id == posters.c.file_id)
            .where(media.c.owner == owner, media.c.poster.is_not(None))
        )
        stored = int(execute(files).scalar() or 0) + int(execute(pictures).scalar() or 0)
        execute(update(quotas).where(quotas.c.owner == owner).values(stored=stored))
    return int(stored)


def _reserved(transaction: Transaction, owner: bytes) -> tuple[int, int]:
    """The bytes that the owner's unfinished uploads have reserved, and how many uploads these are."""
    counted = select(func.coalesce(func.sum(uploads.c.reserved), 0), func.count()).where(uploads.c.owner == owner)
    reserved, count = transaction.connection.execute(counted).one()
    return int(reserved), int(count)
