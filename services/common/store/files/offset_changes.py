"""Sets the durable offset of an unfinished upload: the change that follows every batch."""

from datetime import datetime

from sqlalchemy import BigInteger, Executable, bindparam, func

from services.common.store.files import schema
from services.common.store.files.clock import LEASE_CLOCK, SKEW, from_milliseconds
from services.common.store.files.database import Execute
from services.common.store.files.rows import upload_key
from services.common.store.files.upload_changes import UPDATE_FENCED, fence, milliseconds, raise_lease_lost
from services.common.store.timings import StoreTimings
from services.common.store.upload_store import Checkpoint, UploadHandle


def set_offset(
    execute: Execute,
    upload: UploadHandle,
    checkpoint: Checkpoint,
    timings: StoreTimings,
    *,
    keep_lease: bool = True,
    extend_expiry: bool = True,
) -> datetime:
    """Set the durable offset, and renew or release the lease. Returns when the upload expires.

    One statement, which reads the lease clock itself: it needs no transaction around it.
    """
    lease_ttl = milliseconds(timings.lease_ttl)
    values = {"to_offset": checkpoint.offset, "to_length": checkpoint.length, "lease_ttl": lease_ttl}
    row = execute(_SET_OFFSET[keep_lease, extend_expiry], {**fence(upload_key(upload), upload.fencing_token), **values})
    if row is None:
        raise_lease_lost()
    expires_at, skew = row
    return from_milliseconds(expires_at - skew)


def _set_offset(*, keep_lease: bool, extend_expiry: bool) -> Executable:
    lease_ttl = bindparam("lease_ttl", type_=BigInteger())
    statement = UPDATE_FENCED.values(
        offset=bindparam("to_offset", type_=BigInteger()),
        length=bindparam("to_length", type_=BigInteger()),
        lease_until=LEASE_CLOCK + lease_ttl if keep_lease else None,
    )
    if extend_expiry:
        statement = statement.values(expires_at=LEASE_CLOCK + func.coalesce(schema.uploads.c.lifetime, lease_ttl))
    return statement.returning(schema.uploads.c.expires_at, SKEW)


_SET_OFFSET = {
    (keep_lease, extend_expiry): _set_offset(keep_lease=keep_lease, extend_expiry=extend_expiry)
    for keep_lease in (False, True)
    for extend_expiry in (False, True)
}
