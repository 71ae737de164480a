"""Keeps deliveries of webhooks in the table `deliveries`, and endpoints in `webhook_endpoints`, with times of the lease clock."""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, case, delete, func, insert, select, update

from services.common.store.delivery_store import (
    DEAD_TTL_SECONDS,
    MAX_BLOCKED_DELIVERIES,
    MAX_REPLAYED,
    TTL_SECONDS,
    UNSETTLED_TTL_SECONDS,
    DeliveryOutcome,
    DeliveryState,
    NewDelivery,
    QueueSummary,
    ReplaySelection,
    StoredEndpoint,
    WebhookDelivery,
)
from services.common.store.files import schema
from services.common.store.files.clock import StoreClock, read_clock
from services.common.store.files.database import Transaction
from services.common.store.files.files_database import FilesDatabase
from services.common.store.files.names import insert_or_ignore, lock_media
from services.common.store.files.outbox import read_outbox
from services.common.store.files.rows import Row, decode_event
from services.common.store.files.upload_changes import milliseconds
from services.common.store.upload_store import OutboxEvent

_BLOCKED_MS = 20
_ID_BATCH = 200
"""Ids compared by one statement: databases limit the parameters of one."""

deliveries, endpoints, outbox = schema.deliveries, schema.webhook_endpoints, schema.outbox
_WITHOUT_BODY = [column for column in deliveries.c if column.name != "body"]

# Statements of each commit and of each look into a queue are built once: to build one takes longer than to run it.
_MARK_RELAYED = update(outbox).where(
    outbox.c.media_id == bindparam("of_media"), outbox.c.id.in_(bindparam("of_ids", expanding=True))
)
_READ_NEXT = select(func.min(deliveries.c.next_at)).where(
    deliveries.c.endpoint_id == bindparam("of_endpoint"), deliveries.c.state == "waiting"
)


class FilesDeliveryStore:
    """A `WebhookStore` beside the files."""

    def __init__(self, files: FilesDatabase) -> None:
        self._database = files.database

    async def relay(self, events: Sequence[OutboxEvent], new_deliveries: Sequence[NewDelivery]) -> None:
        """Insert the deliveries and mark the events in one transaction."""
        if not events:
            return
        ids, media_id = [event.id for event in events], events[0].name_key

        def write(transaction: Transaction) -> None:
            lock_media(transaction, media_id)
            for new in new_deliveries:
                insert_or_ignore(transaction, deliveries, **_encode(new, transaction.now))
            relayed = {"of_media": media_id, "of_ids": ids, "unrelayed": False}
            transaction.connection.execute(_MARK_RELAYED, relayed)

        await self._database.write(write)

    async def list_unrelayed(self, media_id: str) -> Sequence[OutboxEvent]:
        """Read the outbox of one name."""
        read_at = time.monotonic()

        def read(connection: Connection) -> list[OutboxEvent]:
            media = schema.media
            name = connection.execute(select(media).where(media.c.id == media_id)).mappings().first()
            rows = read_outbox(connection, media_id) if name is not None else []
            return [decode_event(name, row, read_at) for row in rows if name is not None and row["unrelayed"]]

        return await self._database.read(read)

    async def claim(self, endpoint_id: str, lease_seconds: float, *, ordered: bool) -> WebhookDelivery | None:
        """Claim in one transaction. In order, a blocked one is postponed until the one before it is due."""
        # Without a transaction where nothing is due: workers look often.
        if not await self._database.read(lambda connection: _is_anything_due(connection, endpoint_id)):
            return None
        return await self._database.write(
            lambda transaction: _claim(transaction, endpoint_id, milliseconds(lease_seconds), ordered=ordered)
        )

    async def settle(self, delivery: WebhookDelivery, outcome: DeliveryOutcome, *, ordered: bool) -> bool:
        """Update the row while its claim holds."""

        def write(transaction: Transaction) -> bool:
            now = transaction.now
            values: dict[str, Any] = {
                "state": outcome.state,
                "status": outcome.status,
                "error": outcome.error,
                "failures": deliveries.c.failures + (0 if outcome.state == "done" else 1),
                "next_at": now + milliseconds(outcome.delay),
            }
            if outcome.state != "waiting":
                values["expires_at"] = now + milliseconds(TTL_SECONDS[outcome.state])
            held = (deliveries.c.id == delivery.id, deliveries.c.fencing_token == delivery.fencing_token, _is_waiting())
            settled = transaction.connection.execute(update(deliveries).where(*held).values(values)).rowcount == 1
            if settled and ordered and outcome.state != "waiting":
                _release_next(transaction, delivery)
            return settled

        return await self._database.write(write)

    async def bury(self, endpoint_id: str, error: str) -> int:
        """Update all that are waiting."""

        def write(transaction: Transaction) -> int:
            values = {
                "state": "dead",
                "error": error,
                "fencing_token": deliveries.c.fencing_token + 1,
                "expires_at": transaction.now + milliseconds(DEAD_TTL_SECONDS),
            }
            waiting = (deliveries.c.endpoint_id == endpoint_id, _is_waiting())
            return transaction.connection.execute(update(deliveries).where(*waiting).values(values)).rowcount

        return await self._database.write(write)

    async def replay(self, selection: ReplaySelection) -> int:
        """Find the ids, then update these, in one transaction."""

        def write(transaction: Transaction) -> int:
            clock, execute = transaction.clock, transaction.connection.execute
            chosen = _select(selection, clock)
            ids = list(execute(chosen.order_by(deliveries.c.id).limit(MAX_REPLAYED)).scalars())
            values = {
                "state": "waiting",
                "failures": 0,
                "fencing_token": deliveries.c.fencing_token + 1,
                "next_at": clock.now,
                "expires_at": clock.now + milliseconds(UNSETTLED_TTL_SECONDS),
            }
            for start in range(0, len(ids), _ID_BATCH):
                batch = deliveries.c.id.in_(ids[start : start + _ID_BATCH])
                execute(update(deliveries).where(batch).values(values))
            return len(ids)

        return await self._database.write(write)

    async def list_deliveries(
        self, endpoint_id: str | None, state: DeliveryState | None, limit: int, before: str = ""
    ) -> Sequence[WebhookDelivery]:
        """Read by descending ids, which begin with the time of the event."""
        statement = select(*_WITHOUT_BODY).order_by(deliveries.c.id.desc()).limit(limit)
        if endpoint_id is not None:
            statement = statement.where(deliveries.c.endpoint_id == endpoint_id)
        if state is not None:
            statement = statement.where(deliveries.c.state == state)
        if before:
            statement = statement.where(deliveries.c.id < before)

        def read(connection: Connection) -> list[WebhookDelivery]:
            clock = read_clock(connection)
            return [_decode({**row, "body": b""}, clock) for row in connection.execute(statement).mappings()]

        return await self._database.read(read)

    async def summarize(self) -> Sequence[QueueSummary]:
        """Group by endpoint."""
        waiting = deliveries.c.state == "waiting"
        statement = (
            select(
                deliveries.c.endpoint_id,
                func.sum(case((waiting, 1), else_=0)),
                func.min(case((waiting, deliveries.c.created_at), else_=None)),
                func.sum(case((waiting, 0), else_=1)),
            )
            .where(deliveries.c.state.in_(("waiting", "dead")))
            .group_by(deliveries.c.endpoint_id)
            .order_by(deliveries.c.endpoint_id)
        )

        def read(connection: Connection) -> list[QueueSummary]:
            now = read_clock(connection).now
            return [
                QueueSummary(endpoint_id, count, 0.0 if oldest is None else (now - oldest) / 1000, dead)
                for endpoint_id, count, oldest, dead in connection.execute(statement)
            ]

        return await self._database.read(read)

    async def delete_expired(self) -> int:
        """Delete by the lease clock."""

        def write(transaction: Transaction) -> int:
            statement = delete(deliveries).where(deliveries.c.expires_at <= transaction.now)
            return transaction.connection.execute(statement).rowcount

        return await self._database.write(write, durable=False)

    async def list_endpoints(self) -> Sequence[StoredEndpoint]:
        """Read all."""
        statement = select(endpoints).order_by(endpoints.c.id)
        rows = await self._database.read(lambda connection: connection.execute(statement).all())
        return [StoredEndpoint(row.id, row.definition, row.is_ended) for row in rows]

    async def add_endpoint(self, endpoint_id: str, definition: str) -> bool:
        """Insert a row."""
        return await self._database.write(
            lambda transaction: insert_or_ignore(
                transaction, endpoints, id=endpoint_id, definition=definition, is_ended=False
            )
        )

    async def remove_endpoint(self, endpoint_id: str) -> bool:
        """Delete the row."""
        statement = delete(endpoints).where(endpoints.c.id == endpoint_id)
        return await self._database.write(lambda transaction: transaction.connection.execute(statement).rowcount == 1)

    async def set_ended(self, endpoint_id: str, *, ended: bool) -> None:
        """Set a column; the row of an endpoint of the settings is created for it."""

        def write(transaction: Transaction) -> None:
            own = update(endpoints).where(endpoints.c.id == endpoint_id).values(is_ended=ended)
            if not transaction.connection.execute(own).rowcount and ended:
                transaction.connection.execute(insert(endpoints).values(id=endpoint_id, is_ended=True))

        await self._database.write(write)


def _encode(new: NewDelivery, now: int) -> dict[str, Any]:
    return {
        "id": new.id,
        "event_id": new.event_id,
        "endpoint_id": new.endpoint_id,
        "media_id": new.media_id,
        "revision": new.revision,
        "event_type": new.event_type,
        "body": new.body,
        "state": "waiting",
        "failures": 0,
        "fencing_token": 0,
        "error": "",
        "created_at": now,
        "next_at": now,
        "expires_at": now + milliseconds(UNSETTLED_TTL_SECONDS),
    }


def _decode(row: Row, clock: StoreClock) -> WebhookDelivery:
    return WebhookDelivery(
        id=row["id"],
        event_id=row["event_id"],
        endpoint_id=row["endpoint_id"],
        media_id=row["media_id"],
        revision=row["revision"],
        event_type=row["event_type"],
        body=row["body"],
        state=row["state"],
        failures=row["failures"],
        fencing_token=row["fencing_token"],
        status=row["status"],
        error=row["error"],
        created_at=clock.to_datetime(row["created_at"]),
        next_at=clock.to_datetime(row["next_at"]),
        age=(clock.now - row["created_at"]) / 1000,
    )


def _is_waiting() -> ColumnElement[bool]:
    return deliveries.c.state == "waiting"


def _is_anything_due(connection: Connection, endpoint_id: str) -> bool:
    next_at = connection.execute(_READ_NEXT, {"of_endpoint": endpoint_id}).scalar()
    return next_at is not None and next_at <= read_clock(connection).now


def _claim(transaction: Transaction, endpoint_id: str, lease_ms: int, *, ordered: bool) -> WebhookDelivery | None:
    now, execute = transaction.now, transaction.connection.execute
    own = (deliveries.c.endpoint_id == endpoint_id, _is_waiting())
    first_due = (
        select(deliveries)
        .where(*own, deliveries.c.next_at <= now)
        .order_by(deliveries.c.next_at, deliveries.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    for _ in range(MAX_BLOCKED_DELIVERIES):
        row = execute(first_due).mappings().first()
        if row is None:
            return None
        chosen = update(deliveries).where(deliveries.c.id == row["id"])
        older = None
        if ordered:
            older = execute(
                select(deliveries.c.next_at)
                .where(*own, deliveries.c.media_id == row["media_id"], deliveries.c.revision < row["revision"])
                .order_by(deliveries.c.revision)
                .limit(1)
            ).scalar()
        if older is None:
            claimed = {"fencing_token": row["fencing_token"] + 1, "next_at": now + lease_ms}
            execute(chosen.values(claimed))
            return _decode({**row, **claimed}, transaction.clock)
        # Not before the older one is due, and a moment later, so that it is found first.
        execute(chosen.values(next_at=max(older + 1, now + _BLOCKED_MS)))
    return None


def _release_next(transaction: Transaction, delivery: WebhookDelivery) -> None:
    """Let the next delivery of the same file be due now."""
    later = (
        select(deliveries.c.id)
        .where(
            deliveries.c.endpoint_id == delivery.endpoint_id,
            deliveries.c.media_id == delivery.media_id,
            deliveries.c.revision > delivery.revision,
            deliveries.c.failures == 0,
            _is_waiting(),
        )
        .order_by(deliveries.c.revision)
        .limit(1)
    )
    if (found := transaction.connection.execute(later).scalar()) is not None:
        due = update(deliveries).where(deliveries.c.id == found).values(next_at=transaction.now)
        transaction.connection.execute(due)


def _select(selection: ReplaySelection, clock: StoreClock) -> Select[Any]:
    statement = select(deliveries.c.id)
    if selection.id is not None:
        return statement.where(deliveries.c.id == selection.id)
    statement = statement.where(
        deliveries.c.state == selection.state if selection.state else deliveries.c.state.in_(("done", "dead"))
    )
    if selection.endpoint_id is not None:
        statement = statement.where(deliveries.c.endpoint_id == selection.endpoint_id)
    if selection.since is not None:
        statement = statement.where(deliveries.c.created_at >= _to_lease_time(selection.since, clock))
    if selection.until is not None:
        statement = statement.where(deliveries.c.created_at < _to_lease_time(selection.until, clock))
    return statement


def _to_lease_time(when: datetime, clock: StoreClock) -> int:
    """A time of the world as the lease clock counts it."""
    return int(when.timestamp() * 1000) + clock.now - clock.wall
