"""The outbox of a name: events are added in the transaction of their change, listed, and removed once they are published."""

from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from services.common.store.delivery_store import TooManyUnrelayed
from services.common.store.files import schema
from services.common.store.files.database import Transaction
from services.common.store.files.ids import make_id
from services.common.store.files.rows import Row, version_of, with_earlier
from services.common.store.limits import MAX_OUTBOX_EVENTS, MAX_UNRELAYED_EVENTS
from services.common.store.upload_store import OutboxEvent

outbox = schema.outbox

# Statements are built once: to build one takes longer than to run it.
_INSERT = insert(outbox)
_READ_EVENTS = select(outbox).where(outbox.c.media_id == bindparam("of_media")).order_by(outbox.c.revision, outbox.c.at)
_DELETE_EVENT = (
    delete(outbox).where(outbox.c.id == bindparam("of_id"), outbox.c.unrelayed.is_(False)).returning(outbox.c.revision)
)
_MARK_UNRELAYED = update(outbox).where(outbox.c.id == bindparam("of_id")).returning(outbox.c.revision)
_MARK_EARLIER = update(outbox).where(
    outbox.c.media_id == bindparam("of_media"),
    outbox.c.revision < bindparam("before"),
    outbox.c.told.is_(False),
)


def append_event(
    transaction: Transaction,
    name: Row,
    event: dict[str, Any],
    read_at: float,
    *,
    is_first: bool = False,
    unrelayed: bool = False,
) -> OutboxEvent:
    """Add an event to the outbox of a locked name, and return it with the unpublished ones before it.

    `event` has the columns of `outbox` without `at`, `told` and `unrelayed`, which says that it is to be relayed. The first event
    of a name has none before it. Raises TooManyUnrelayed, to roll the change back.
    """
    new = {**event, "at": transaction.now, "told": False, "unrelayed": unrelayed}
    transaction.connection.execute(_INSERT, new)
    rows: list[Row] = [new] if is_first else read_outbox(transaction.connection, event["media_id"])
    if unrelayed and sum(row["unrelayed"] for row in rows) > MAX_UNRELAYED_EVENTS:
        raise TooManyUnrelayed
    if len(rows) > MAX_OUTBOX_EVENTS:
        rows = _merge_oldest(transaction, rows)
    appended = with_earlier(name, rows, event["id"], read_at)
    if appended is None:
        raise RuntimeError("the event that was added is not there")
    return appended


def read_outbox(connection: Connection, media_id: str) -> list[Row]:
    """The rows of a name's outbox, in their order."""
    return list(connection.execute(_READ_EVENTS, {"of_media": media_id}).mappings())


def read_event(connection: Connection, name: Row, event_id: str, read_at: float) -> OutboxEvent | None:
    """The event with that id and the unpublished ones before it, None where the outbox does not have it."""
    return with_earlier(name, read_outbox(connection, name["id"]), event_id, read_at)


def _merge_oldest(transaction: Transaction, rows: list[Row]) -> list[Row]:
    """Drop events with no work left; where the others are still too many, the oldest that are relayed become one resync.

    A resync that is there grows, and keeps its id: writers that publish it at the same time publish it once.
    """
    kept = [row for row in rows if not row["told"] or row["unrelayed"]]
    dropped = [row["id"] for row in rows if row["told"] and not row["unrelayed"]]
    mergeable = [row for row in kept if not row["unrelayed"]]
    merged_count = min(len(mergeable), len(kept) - MAX_OUTBOX_EVENTS + 1)
    if merged_count > 1:
        first, last = mergeable[0], mergeable[merged_count - 1]
        resync: dict[str, Any] = {
            **version_of(last),
            "identity": last["identity"],
            "id": first["id"] if first["type"] == "socket.resync" else make_id(),
            "media_id": first["media_id"],
            "type": "socket.resync",
            "at": first["at"],
            "revision": last["revision"],
            "told": False,
            "unrelayed": False,
            "previous_owner": None,
        }
        dropped += [row["id"] for row in mergeable[:merged_count]]
        kept = [resync, *(row for row in kept if row["id"] not in dropped)]
        transaction.connection.execute(delete(outbox).where(outbox.c.id.in_(dropped)))
        transaction.connection.execute(_INSERT, resync)
    else:
        transaction.connection.execute(delete(outbox).where(outbox.c.id.in_(dropped)))
    return kept


def remove_event(transaction: Transaction, media_id: str, event_id: str) -> None:
    """Remove an event and mark the earlier ones as published.

    These stay for their own writers, which find out by them that their commits were made. An event that is not relayed stays too.
    """
    execute = transaction.connection.execute
    revision = execute(_DELETE_EVENT, {"of_id": event_id}).scalar()
    if revision is None:
        revision = execute(_MARK_UNRELAYED, {"of_id": event_id, "told": True}).scalar()
    if revision is not None and revision > 1:
        earlier = {"of_media": media_id, "before": revision}
        execute(_MARK_EARLIER, {**earlier, "told": True})


def drop_published(transaction: Transaction, media_id: str, older_than: int, *, keep_unrelayed: bool) -> None:
    """Drop the published events that are older than a time of the lease clock.

    Without `keep_unrelayed` no event waits to be relayed: webhooks are off now.
    """
    statement = delete(outbox).where(outbox.c.media_id == media_id, outbox.c.told.is_(True), outbox.c.at <= older_than)
    if keep_unrelayed:
        statement = statement.where(outbox.c.unrelayed.is_(False))
    transaction.connection.execute(statement)
