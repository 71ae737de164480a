"""Quotas in the table `quotas`, one row for each owner, changed in the transaction of the change that it counts. So it is exact.

A transaction that reserves locks the owner's row, so that uploads of one owner that begin together wait for each other. What
is reserved is in the rows of the uploads and nowhere else: it ends with them, however they end.
"""

from collections.abc import Mapping

from sqlalchemy import func, select, update

from services.common.store.files import schema
from services.common.store.files.database import Transaction
from services.common.store.files.names import insert_or_ignore
from services.common.store.quotas import Quota

quotas, uploads, media = schema.quotas, schema.uploads, schema.media


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
        stored = int(
            execute(select(func.coalesce(func.sum(media.c.length), 0)).where(media.c.owner == owner)).scalar() or 0
        )
        execute(update(quotas).where(quotas.c.owner == owner).values(stored=stored))
    return int(stored)


def _reserved(transaction: Transaction, owner: bytes) -> tuple[int, int]:
    """The bytes that the owner's unfinished uploads have reserved, and how many uploads these are."""
    counted = select(func.coalesce(func.sum(uploads.c.reserved), 0), func.count()).where(uploads.c.owner == owner)
    reserved, count = transaction.connection.execute(counted).one()
    return int(reserved), int(count)
