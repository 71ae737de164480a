"""Keeps live streams in the tables `live`, `live_segments` and `live_epochs`; each change is one transaction."""

import itertools
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, func, select

from services.common.errors import Gone
from services.common.live.segments import Segment
from services.common.media import MediaInfo, MediaName
from services.common.store.files import live_changes, live_rows, schema
from services.common.store.files.clock import read_clock
from services.common.store.files.database import Transaction
from services.common.store.files.files_database import FilesDatabase
from services.common.store.files.live_changes import WITHOUT_PENDING
from services.common.store.files.rows import decode_media_info
from services.common.store.files.upload_changes import milliseconds
from services.common.store.live_store import (
    MAX_LISTED_STREAMS,
    MAX_SEGMENTS_READ,
    LiveProgress,
    LiveState,
    LiveStream,
    NewRecording,
    NewStream,
)
from services.common.store.upload_ids import format_upload_id, parse_upload_id, secret_of

live, segments, epochs = schema.live, schema.live_segments, schema.live_epochs
media, uploads = schema.media, schema.uploads


class FilesLiveStore:
    """A `LiveStore` beside the files."""

    def __init__(self, files: FilesDatabase) -> None:
        self._database = files.database
        self._steps = itertools.count()

    async def create_stream(self, stream: NewStream) -> None:
        """Insert the row."""
        upload_id = parse_upload_id(stream.upload_id)
        if upload_id is None:
            raise Gone("the upload of this stream is not there")
        await self._database.write(lambda transaction: live_changes.create_stream(transaction, stream, upload_id))

    async def get_stream(self, stream_id: str) -> LiveStream | None:
        """Read the row and the epochs that count."""
        return await self._database.read(lambda connection: _read_stream(connection, stream_id))

    async def find_file(self, stream: LiveStream) -> MediaInfo | None:
        """Find the row by its file."""
        statement = select(media).where(media.c.file_id == stream.file_id, media.c.uploaded_at.is_not(None))
        row = await self._database.read(lambda connection: connection.execute(statement).mappings().first())
        return None if row is None else decode_media_info(row)

    async def find_upload(self, stream: LiveStream, names: Sequence[MediaName]) -> str | None:
        """Read the row of the upload: it keeps its id under any name."""
        key = parse_upload_id(stream.new.upload_id)
        if key is None:
            return None
        statement = (
            select(uploads.c.media_id)
            .join(media, media.c.id == uploads.c.media_id)
            .where(uploads.c.id == key.record_id, media.c.filename.in_([name.filename for name in names]))
        )
        media_id = await self._database.read(lambda connection: connection.execute(statement).scalar())
        if media_id is None:
            return None
        return format_upload_id(media_id, key.record_id, secret_of(stream.new.upload_id))

    async def find_unended(self, name: MediaName) -> Sequence[LiveStream]:
        """Find the rows by the uploads of the name: they are made under it."""
        unended = ("waiting", "live", "interrupted")
        of_name = (
            select(uploads.c.file_id)
            .join(media, media.c.id == uploads.c.media_id)
            .where(media.c.folder == name.folder, media.c.filename == name.filename)
        )
        statement = select(*WITHOUT_PENDING).where(live.c.file_id.in_(of_name), live.c.state.in_(unended))
        return await self._list(statement.order_by(live.c.created_at, live.c.id), MAX_LISTED_STREAMS)

    async def list_streams(
        self,
        states: Sequence[LiveState] = (),
        *,
        owner: str | None = None,
        after: str = "",
        limit: int = MAX_LISTED_STREAMS,
    ) -> Sequence[LiveStream]:
        """Read rows in the order of their ids."""
        statement = select(*WITHOUT_PENDING).where(live.c.id > after).order_by(live.c.id)
        if states:
            statement = statement.where(live.c.state.in_(states))
        if owner is not None:
            statement = statement.where(live.c.owner == owner.encode())
        return await self._list(statement, limit)

    async def _list(self, statement: Select[Any], limit: int) -> Sequence[LiveStream]:
        bounded = statement.limit(max(0, min(limit, MAX_LISTED_STREAMS)))

        def read(connection: Connection) -> list[LiveStream]:
            clock = read_clock(connection)
            return [live_rows.decode_stream(row, clock) for row in connection.execute(bounded).mappings()]

        return await self._database.read(read)

    async def read_segments(self, stream_id: str, first: int, limit: int = MAX_SEGMENTS_READ) -> Sequence[Segment]:
        """Read the rows up to the position's last segment."""
        statement = (
            select(*(segments.c[name] for name in Segment._fields))
            .select_from(segments)
            .join(live, live.c.id == segments.c.stream_id)
            .where(
                segments.c.stream_id == stream_id,
                segments.c.number >= first,
                segments.c.number <= live.c.last_segment,
            )
            .order_by(segments.c.number)
            .limit(max(0, min(limit, MAX_SEGMENTS_READ)))
        )
        rows = await self._database.read(lambda connection: connection.execute(statement).all())
        return [Segment._make(row) for row in rows]

    async def set_publisher(self, stream_id: str, fencing_token: int, publisher: str) -> LiveStream:
        """Raise the stored fencing token."""

        def write(transaction: Transaction) -> LiveStream | None:
            live_changes.set_publisher(transaction, stream_id, fencing_token, publisher)
            return _read_stream(transaction.connection, stream_id)

        stream = await self._database.write(write)
        if stream is None:
            raise RuntimeError("a stream whose row is locked is gone")
        return stream

    async def advance(self, stream_id: str, fencing_token: int, progress: LiveProgress) -> None:
        """Insert epochs and segments and set the position. A call that was given up and is late changes nothing."""
        step = fencing_token << 32 | next(self._steps)
        await self._database.write(
            lambda transaction: live_changes.advance(transaction, stream_id, fencing_token, step, progress)
        )

    async def read_pending(self, stream_id: str) -> bytes:
        """Read one column."""
        statement = select(live.c.pending).where(live.c.id == stream_id)
        found = await self._database.read(lambda connection: connection.execute(statement).scalar())
        return bytes(found or b"")

    async def set_state(
        self, stream_id: str, fencing_token: int, state: LiveState, reason: str = "", revision: int | None = None
    ) -> bool:
        """Change it in one transaction."""
        return await self._database.write(
            lambda transaction: live_changes.set_state(transaction, stream_id, fencing_token, state, reason, revision)
        )

    async def begin_recording(
        self, stream_id: str, fencing_token: int, upload_id: str, recording: NewRecording
    ) -> bool:
        """Change the row in one transaction."""
        return await self._database.write(
            lambda transaction: live_changes.begin_recording(
                transaction, stream_id, fencing_token, upload_id, recording
            )
        )

    async def list_idle(self, states: Sequence[LiveState], seconds: float, limit: int) -> Sequence[LiveStream]:
        """Compare with the lease clock."""
        now = await self._database.read(lambda connection: read_clock(connection).now)
        statement = (
            select(*WITHOUT_PENDING)
            .where(live.c.state.in_(states), live.c.idle_since <= now - milliseconds(seconds))
            .order_by(live.c.idle_since, live.c.id)
        )
        return await self._list(statement, limit)

    async def delete_stream(self, stream_id: str) -> bool:
        """Delete the rows in one transaction."""
        return await self._database.write(lambda transaction: live_changes.delete_stream(transaction, stream_id))

    async def count_streams(self, owner: str) -> int:
        """Count in an index."""
        states: tuple[LiveState, ...] = ("waiting", "live", "interrupted")
        statement = (
            select(func.count()).select_from(live).where(live.c.owner == owner.encode(), live.c.state.in_(states))
        )
        return await self._database.read(lambda connection: int(connection.execute(statement).scalar_one()))


def _read_stream(connection: Connection, stream_id: str) -> LiveStream | None:
    row = connection.execute(select(*WITHOUT_PENDING).where(live.c.id == stream_id)).mappings().first()
    if row is None:
        return None
    of_stream = (epochs.c.stream_id == stream_id, epochs.c.number < row["epoch_count"])
    found = connection.execute(select(epochs).where(*of_stream).order_by(epochs.c.number)).mappings()
    return live_rows.decode_stream(row, read_clock(connection), tuple(map(live_rows.decode_epoch, found)))
