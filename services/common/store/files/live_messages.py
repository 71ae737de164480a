"""Keeps the messages of live streams in the table `live_messages`; each is added by one transaction."""

from collections.abc import Sequence

from sqlalchemy import Connection, and_, insert, or_, select

from services.common.errors import Gone, NotFound
from services.common.store.files import live_rows, schema
from services.common.store.files.database import Transaction
from services.common.store.files.files_database import FilesDatabase
from services.common.store.files.rows import Row
from services.common.store.live_messages import (
    MAX_MESSAGE_DATA_IN_ALL,
    MAX_MESSAGES_READ,
    EpochRange,
    MessagePlace,
    NewMessage,
    NotLive,
    StoredMessage,
    TooManyMessages,
    date_of,
    file_at,
    first_place,
    place_of,
)
from services.common.store.live_store import Recording

live, epochs, messages = schema.live, schema.live_epochs, schema.live_messages


class FilesLiveMessages:
    """`LiveMessages` beside the streams."""

    def __init__(self, files: FilesDatabase) -> None:
        self._database = files.database

    async def add_message(self, stream_id: str, message: NewMessage, limit: int) -> tuple[StoredMessage, bool]:
        """Insert a row behind the last one of the stream."""
        return await self._database.write(lambda transaction: _add(transaction, stream_id, message, limit))

    async def read_messages(
        self,
        stream_id: str,
        first: int,
        end: int | None = None,
        after: MessagePlace | None = None,
        limit: int = MAX_MESSAGES_READ,
    ) -> Sequence[StoredMessage]:
        """Read an index from a place on."""
        start = first_place(first, after)
        time, number = messages.c.milliseconds, messages.c.number
        statement = (
            select(messages)
            .where(
                messages.c.stream_id == stream_id,
                time >= start.milliseconds,
                or_(time > start.milliseconds, number > start.number),
                *(() if end is None else (time < end,)),
            )
            .order_by(time, number)
            .limit(max(0, min(limit, MAX_MESSAGES_READ)))
        )
        rows = await self._database.read(lambda connection: connection.execute(statement).mappings().all())
        return [_decode(row) for row in rows]


def _add(transaction: Transaction, stream_id: str, message: NewMessage, limit: int) -> tuple[StoredMessage, bool]:
    connection = transaction.connection
    of_stream = messages.c.stream_id == stream_id
    # Its row is locked: the limits hold for all processes.
    names = ("state", "position", "definition", "owner", "advanced_at", "epoch_count", "recordings")
    columns = select(*(live.c[name] for name in names))
    stream = connection.execute(columns.where(live.c.id == stream_id).with_for_update()).mappings().first()
    known = (
        connection.execute(select(messages).where(of_stream, messages.c.message_id == message.id)).mappings().first()
    )
    if known is not None:
        return _decode(known), False
    if stream is None:
        raise NotFound("there is no such stream")
    if stream["state"] == "waiting":
        raise NotLive
    if stream["state"] == "ended":
        raise Gone("this stream has ended")
    statement = select(messages.c.number, messages.c.size_in_all).where(of_stream).order_by(messages.c.number.desc())
    last = connection.execute(statement.limit(1)).first()
    number, size_in_all = (1, 0) if last is None else (last.number + 1, last.size_in_all)
    size_in_all += len(message.data_json)
    if number > limit or size_in_all > MAX_MESSAGE_DATA_IN_ALL:
        raise TooManyMessages
    recordings, _ = live_rows.decode_recordings(stream["recordings"])
    place = _place(transaction, stream, recordings, message)
    file = file_at(recordings, stream["epoch_count"], place)
    epoch = _find_epoch(connection, stream_id, file, place)
    row = {
        "stream_id": stream_id,
        "number": number,
        "message_id": message.id,
        "milliseconds": place,
        "type": message.type,
        "data": message.data_json,
        "size_in_all": size_in_all,
        "epoch": epoch["number"],
        "date": date_of(place - file.milliseconds, epoch["date"], epoch["file_time"], epoch["timescale"]),
    }
    connection.execute(insert(messages).values(row))
    return _decode(row), True


def _place(transaction: Transaction, stream: Row, recordings: Sequence[Recording], message: NewMessage) -> int:
    position = live_rows.decode_position(stream["position"])
    target = live_rows.decode_definition(stream["definition"], stream).target
    silent = transaction.now - (stream["advanced_at"] or transaction.now)
    begin = recordings[-1].milliseconds if recordings else 0
    return place_of(message.milliseconds, position.file_end, position.timescale, stream["state"], silent, target, begin)


def _find_epoch(connection: Connection, stream_id: str, file: EpochRange, place: int) -> Row:
    """The last epoch of a file that begins before a place."""
    columns = (epochs.c.number, epochs.c.timescale, epochs.c.file_time, epochs.c.date)
    begins_before = epochs.c.file_time * 1000 <= epochs.c.timescale * (place - file.milliseconds)
    of_file = and_(epochs.c.number >= file.first, epochs.c.number < file.end)
    statement = (
        select(*columns)
        .where(and_(epochs.c.stream_id == stream_id, of_file, begins_before))
        .order_by(epochs.c.number.desc())
        .limit(1)
    )
    epoch = connection.execute(statement).mappings().first()
    if epoch is None:
        raise NotLive
    return epoch


def _decode(row: Row) -> StoredMessage:
    place = MessagePlace(row["milliseconds"], row["number"])
    return StoredMessage(row["message_id"], row["type"], row["data"], place, row["epoch"], row["date"])
