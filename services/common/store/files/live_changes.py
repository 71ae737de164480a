"""Changes of live streams, each the body of one transaction, fenced by the token of its writer."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from services.common.errors import Conflict, Gone
from services.common.live.segments import Epoch
from services.common.store.files import live_rows, schema
from services.common.store.files.clock import read_clock
from services.common.store.files.database import Transaction
from services.common.store.files.rows import Row
from services.common.store.limits import BLOCK_SIZE, MIN_ORPHAN_AGE, ORPHAN_SCAN_FILES
from services.common.store.live_store import (
    DELETED,
    MAX_EPOCHS,
    MAX_INIT_BYTES_IN_ALL,
    STREAM_TAKEN_OVER,
    LivePosition,
    LiveProgress,
    LiveState,
    NewRecording,
    NewStream,
    TooManyEpochs,
    complete_recording,
    new_progress,
    position_at_end,
    position_of_next,
)
from services.common.store.upload_ids import UploadId, parse_upload_id

live, segments, epochs, uploads = schema.live, schema.live_segments, schema.live_epochs, schema.uploads
messages = schema.live_messages
WITHOUT_PENDING = [column for column in live.c if column.name != "pending"]
"""What is read of a stream, but for its pending bytes."""


def create_stream(transaction: Transaction, stream: NewStream, upload_id: UploadId) -> None:
    """Insert the row. Raises ValueError where the id is taken, Gone where the upload is not there."""
    execute, now = transaction.connection.execute, transaction.now
    file_id = _find_bytes(transaction, upload_id)
    if execute(select(live.c.id).where(live.c.id == stream.id)).first() is not None:
        raise ValueError("the id of this stream is taken")
    execute(
        insert(live).values(
            id=stream.id,
            upload_id=upload_id.record_id,
            file_id=file_id,
            owner=stream.owner.encode(),
            definition=live_rows.encode_definition(stream),
            state="waiting",
            reason='""',
            publisher='""',
            fencing_token=0,
            step=-1,
            position=live_rows.encode_position(LivePosition(BLOCK_SIZE)),
            last_segment=-1,
            epoch_count=0,
            pending=b"",
            created_at=now,
            idle_since=now,
        )
    )


def _find_bytes(transaction: Transaction, upload_id: UploadId) -> str:
    """Return the id of the bytes of an upload. Raises Gone where it is not there."""
    digest = upload_id.secret_digest
    upload = transaction.connection.execute(
        select(uploads.c.file_id).where(
            uploads.c.id == upload_id.record_id,
            uploads.c.media_id == upload_id.media_id,
            uploads.c.secret_digest.is_(None) if digest is None else uploads.c.secret_digest == digest,
        )
    ).first()
    if upload is None:
        raise Gone("the upload of this stream is not there")
    return str(upload.file_id)


def lock_stream(transaction: Transaction, stream_id: str, fencing_token: int) -> Row | None:
    """Lock and return the row of a stream, None where it is not there. Raises Conflict for a token lower than the stored one."""
    statement = select(*WITHOUT_PENDING).where(live.c.id == stream_id).with_for_update()
    row = transaction.connection.execute(statement).mappings().first()
    if row is not None and row["fencing_token"] > fencing_token:
        raise Conflict(STREAM_TAKEN_OVER)
    return row


def _lock_unended(transaction: Transaction, stream_id: str, fencing_token: int) -> Row:
    row = lock_stream(transaction, stream_id, fencing_token)
    if row is None or row["state"] == "ended":
        raise Gone("this stream has ended")
    return row


def set_publisher(transaction: Transaction, stream_id: str, fencing_token: int, publisher: str) -> None:
    """Raise the stored fencing token."""
    _lock_unended(transaction, stream_id, fencing_token)
    _update(transaction, stream_id, fencing_token=fencing_token, publisher=json.dumps(publisher))


def advance(transaction: Transaction, stream_id: str, fencing_token: int, step: int, progress: LiveProgress) -> None:
    """Store what was added."""
    row = _lock_unended(transaction, stream_id, fencing_token)
    if row["step"] >= step:  # a call of the same writer that was given up, and is late
        raise Conflict(STREAM_TAKEN_OVER)
    new = new_progress(row["last_segment"], row["epoch_count"], progress)
    position = new.position
    if position.offset < live_rows.decode_position(row["position"]).offset:
        raise ValueError("an offset before the stored one")
    execute, now = transaction.connection.execute, transaction.now
    if new.epochs:
        _check_epochs(transaction, stream_id, new.epochs)
        execute(insert(epochs), [live_rows.encode_epoch(stream_id, epoch) for epoch in new.epochs])
    if new.segments:
        execute(insert(segments), [live_rows.encode_segment(stream_id, segment) for segment in new.segments])
    state: dict[str, Any] = {}
    if position.last_segment >= 0:
        state = {"state": "live", "started_at": now if row["started_at"] is None else row["started_at"]}
    _update(
        transaction,
        stream_id,
        fencing_token=fencing_token,
        step=step,
        position=live_rows.encode_position(position),
        last_segment=position.last_segment,
        epoch_count=row["epoch_count"] + len(new.epochs),
        pending=new.pending,
        advanced_at=now,
        idle_since=now,
        **state,
    )


def _check_epochs(transaction: Transaction, stream_id: str, new: Sequence[Epoch]) -> None:
    statement = select(func.coalesce(func.sum(func.length(epochs.c.init)), 0)).where(epochs.c.stream_id == stream_id)
    stored = int(transaction.connection.execute(statement).scalar_one())
    if new[-1].number >= MAX_EPOCHS or stored + sum(len(epoch.init) for epoch in new) > MAX_INIT_BYTES_IN_ALL:
        raise TooManyEpochs


def set_state(
    transaction: Transaction, stream_id: str, fencing_token: int, state: LiveState, reason: str, revision: int | None
) -> bool:
    """Change the state; False where there is nothing to change."""
    row = lock_stream(transaction, stream_id, fencing_token)
    if row is None or row["state"] in {"ended", state}:
        return False
    now = transaction.now
    fields: dict[str, Any] = {"state": state, "reason": json.dumps(reason), "fencing_token": fencing_token}
    if state == "live" and row["started_at"] is None:
        fields["started_at"] = now
    if state == "ended":
        fields |= {"ended_at": now, "pending": b"", "revision": revision}
        if revision is None and reason != DELETED and row["recordings"] is not None:
            fields |= _without_last_file(row)
    _update(transaction, stream_id, **fields)
    return True


def _without_last_file(row: Row) -> dict[str, Any]:
    """What a stream is whose last file has nothing."""
    recordings, first_fence = live_rows.decode_recordings(row["recordings"])
    if not recordings:
        return {}
    position = position_at_end(recordings, live_rows.decode_position(row["position"]))
    return {
        **_last_file(row, recordings[-1].upload_id),
        "file_id": recordings[-1].file_id,
        "revision": recordings[-1].revision,
        "recordings": live_rows.encode_recordings(recordings[:-1], first_fence),
        "position": live_rows.encode_position(position),
        "last_segment": position.last_segment,
        "epoch_count": recordings[-1].epochs,
    }


def _last_file(row: Row, upload_id: str) -> dict[str, Any]:
    key = parse_upload_id(upload_id)
    if key is None:
        raise Gone("the upload of this stream is not there")
    definition = live_rows.decode_definition(row["definition"], row)
    new = replace(definition, upload_id=upload_id)
    return {"upload_id": key.record_id, "definition": live_rows.encode_definition(new)}


def begin_recording(
    transaction: Transaction, stream_id: str, fencing_token: int, upload_id: str, recording: NewRecording
) -> bool:
    """Go on in another file; False where that has happened."""
    row = _lock_unended(transaction, stream_id, fencing_token)
    stream = live_rows.decode_stream(row, read_clock(transaction.connection))
    if stream.new.upload_id != upload_id:
        return False
    last_file = _last_file(row, recording.upload_id)
    key = parse_upload_id(recording.upload_id)
    file_id = None if key is None else _find_bytes(transaction, key)
    recordings = (*stream.recordings, complete_recording(stream, row["epoch_count"], recording))
    first_fence = fencing_token + 1  # a call of an older writer that is late changes nothing
    _update(
        transaction,
        stream_id,
        **last_file,
        file_id=file_id,
        fencing_token=first_fence,
        recordings=live_rows.encode_recordings(recordings, first_fence),
        position=live_rows.encode_position(position_of_next(stream.position)),
        pending=recording.pending,
        publisher=json.dumps(recording.publisher),
    )
    return True


def _update(transaction: Transaction, stream_id: str, **fields: Any) -> None:
    transaction.connection.execute(update(live).where(live.c.id == stream_id).values(**fields))


def move_to_file(transaction: Transaction, file_id: str, new_file_id: str) -> None:
    """The bytes of an upload go on in another file."""
    transaction.connection.execute(update(live).where(live.c.file_id == file_id).values(file_id=new_file_id))


def delete_stream(transaction: Transaction, stream_id: str) -> bool:
    """Delete a stream; False where there was none."""
    # Its row first: who advances it has locked that, and finds it gone.
    deleted = transaction.connection.execute(delete(live).where(live.c.id == stream_id)).rowcount
    _delete_parts(transaction, stream_id)
    return deleted == 1


def _delete_parts(transaction: Transaction, stream_id: str) -> None:
    for table in (segments, epochs, messages):
        transaction.connection.execute(delete(table).where(table.c.stream_id == stream_id))


def delete_of_files(transaction: Transaction, file_ids: Sequence[str]) -> None:
    """Delete the streams whose bytes these were. Of one that has not become a file, its row stays until it is due."""
    statement = select(live.c.id, live.c.revision).where(live.c.file_id.in_(file_ids))
    for row in transaction.connection.execute(statement).all():
        if row.revision is None:
            _delete_parts(transaction, row.id)
        else:
            delete_stream(transaction, row.id)


def list_left(connection: Connection) -> list[str]:
    """Return streams that did not become a file and have been idle for a day, where their upload is gone; a bounded number."""
    media, tombstones = schema.media, schema.tombstones
    until = read_clock(connection).now - MIN_ORPHAN_AGE // timedelta(milliseconds=1)
    # Each by an index, of which that of `media` has current files only.
    references = (
        select(media.c.file_id).where(media.c.file_id == live.c.file_id, media.c.uploaded_at.is_not(None)),
        select(uploads.c.file_id).where(uploads.c.file_id == live.c.file_id),
        select(tombstones.c.file_id).where(tombstones.c.file_id == live.c.file_id),
    )
    statement = (
        select(live.c.id)
        .where(
            live.c.revision.is_(None),
            live.c.idle_since <= until,
            *(~reference.exists() for reference in references),
        )
        .limit(ORPHAN_SCAN_FILES)
    )
    return list(connection.execute(statement).scalars())
