"""The documents of `live` and `live_segments`, and their updates. Pure. Times are MongoDB's `$$NOW`.

live            one document for each stream
    _id             the stream's id
    upload, file    the id of its upload, and that of its bytes
    identity        that of its file, by which it is found once it has moved
    folder, filename, owner, title, target, grace, takeover, window, token, token_until, limits   as it was created
    state           waiting, live, interrupted, ended; deleted: its segments are being deleted
    reason, publisher, revision
    fence           the fencing token of the writer that advanced it last
    step            orders the calls of writers: a late one with a lower step matches nothing
    position        offset, sender, last, open (a segment), end, timescale, source, dropped
    epochs          how many epochs count
    pending         bytes of the sender behind its last complete fragment
    created_at, started_at, advanced_at, ended_at
    idle_since      advanced_at, else created_at
    messages, message_bytes   how many messages were counted, and the bytes of their data (`live_messages`)
    messages_lost, counted_at   how many of them were never written, as far as is known; when the last one was counted
    recordings, first_fence   of a stream that has gone on in another file: upload, file, identity, revision, epochs, last, bytes,
                    ms and date of each file before the last one; what is to be added to the fencing tokens of the last one
    keep_until      from when the garbage collector asks for its upload; missing where it has become a file
live_segments   one document for each segment and for each epoch; one that a position does not reach does not count
    l, n            the stream's id, and the number of a segment; -1 and downwards are the epochs 0 and upwards
    f               the fencing token of its writer
    e, o, s, t, d, ts, at, k      of a segment: epoch, offset, size, start, duration, timescale, date, is_key
    init, ts, base, file, at      of an epoch
"""

from datetime import timedelta
from operator import itemgetter
from typing import Any

from bson import Binary, ObjectId

from services.common.live.segments import Epoch, Segment
from services.common.media import MediaName
from services.common.store.gridfs.documents import Document
from services.common.store.limits import BLOCK_SIZE, MIN_ORPHAN_AGE
from services.common.store.live_store import (
    LivePosition,
    LiveProgress,
    LiveState,
    LiveStream,
    NewRecording,
    NewStream,
    Recording,
)

STATES: tuple[LiveState, ...] = ("waiting", "live", "interrupted", "ended")
STREAM_FIELDS: Document = {"pending": 0}
"""The projection that `decode_stream` reads."""
_KEEP = MIN_ORPHAN_AGE // timedelta(milliseconds=1)


def new_stream(stream: NewStream, file_id: ObjectId, identity: ObjectId) -> list[Document]:
    """An upsert of a stream that is not there."""
    fields: Document = {
        "upload": stream.upload_id,
        "file": file_id,
        "identity": identity,
        "folder": stream.name.folder,
        "filename": stream.name.filename,
        "owner": stream.owner,
        "title": stream.title,
        "target": stream.target,
        "grace": stream.grace,
        "takeover": stream.takeover,
        "window": stream.window,
        "token": stream.token_sha256,
        "token_until": stream.token_expires_at,
        "limits": stream.limits_json,
        "state": "waiting",
        "reason": "",
        "publisher": "",
        "revision": None,
        "fence": 0,
        "step": -1,
        "position": _encode_position(LivePosition(BLOCK_SIZE)),
        "epochs": 0,
        "pending": b"",
        "started_at": None,
        "advanced_at": None,
        "ended_at": None,
    }
    times = {"created_at": "$$NOW", "idle_since": "$$NOW", "keep_until": _later()}
    return [{"$set": {name: {"$literal": value} for name, value in fields.items()}}, {"$set": times}]


def advance(fencing_token: int, step: int, progress: LiveProgress) -> list[Document]:
    """The update that makes the stored segments and epochs count."""
    fields: Document = {
        "fence": fencing_token,
        "step": step,
        "position": {"$literal": _encode_position(progress.position)},
        "pending": Binary(progress.pending),
        "advanced_at": "$$NOW",
        "idle_since": "$$NOW",
        "keep_until": _later(),
    }
    if progress.epochs:
        fields["epochs"] = {"$max": ["$epochs", progress.epochs[-1].number + 1]}
    if progress.position.last_segment >= 0:
        fields |= _begin("live")
    return [{"$set": fields}]


def set_state(
    fencing_token: int, state: LiveState, reason: str, revision: int | None, file_before: Document | None = None
) -> list[Document]:
    """The update that changes the state. `file_before`: `end_at`, for a stream whose last file has nothing."""
    fields: Document = {"fence": fencing_token, "reason": {"$literal": reason}, **_begin(state)}
    if state == "ended":
        fields |= {"ended_at": "$$NOW", "pending": Binary(b""), "revision": revision, "keep_until": _later()}
        if revision is not None or file_before:
            fields["keep_until"] = "$$REMOVE"
        fields |= file_before or {}
    return [{"$set": fields}]


def begin_recording(
    fencing_token: int, recordings: list[Document], position: LivePosition, new: NewRecording, last_file: Document
) -> Document:
    """The update that goes on in another file. A call of an older writer that is late matches nothing then."""
    return {
        "$set": {
            "upload": new.upload_id,
            "fence": fencing_token + 1,
            "first_fence": fencing_token + 1,
            "recordings": recordings,
            "position": _encode_position(position),
            "pending": Binary(new.pending),
            "publisher": new.publisher,
            **last_file,
        }
    }


def end_at(recordings: list[Document], position: LivePosition) -> Document:
    """What is stored where a stream ends with the last of these files."""
    last = recordings[-1]
    fields = {
        "upload": last["upload"],
        "file": last["file"],
        "identity": last["identity"],
        "revision": last["revision"],
    }
    fields |= {"recordings": recordings[:-1], "position": _encode_position(position), "epochs": last["epochs"]}
    return {name: {"$literal": value} for name, value in fields.items()}


def encode_recording(recording: Recording, file_id: ObjectId, identity: ObjectId) -> Document:
    """A file before the last one."""
    return {
        "upload": recording.upload_id,
        "file": file_id,
        "identity": identity,
        "revision": recording.revision,
        "epochs": recording.epochs,
        "last": recording.last_segment,
        "bytes": recording.bytes,
        "ms": recording.milliseconds,
        "date": recording.end_date,
    }


def decode_recordings(document: Document) -> tuple[Recording, ...]:
    """The files before the last one."""
    return tuple(
        Recording(
            stored["upload"],
            str(stored["file"]),
            stored["revision"],
            stored["epochs"],
            stored["last"],
            stored["bytes"],
            stored["ms"],
            stored["date"],
        )
        for stored in document.get("recordings", ())
    )


def _begin(state: LiveState) -> Document:
    started = {"started_at": {"$ifNull": ["$started_at", "$$NOW"]}} if state == "live" else {}
    return {"state": state, **started}


def _later() -> Document:
    return {"$add": ["$$NOW", _KEEP]}


def parts_of(stream_id: str, fencing_token: int, progress: LiveProgress) -> list[tuple[Document, Document]]:
    """Filters and updates of upserts: each writes an epoch or a segment in place of one of an older writer, and of no other."""
    parts = [(-1 - epoch.number, _encode_epoch(epoch)) for epoch in progress.epochs]
    parts += [(segment.number, _encode_segment(segment)) for segment in progress.segments]
    return [
        ({"l": stream_id, "n": number, "f": {"$lte": fencing_token}}, {"$set": {**fields, "f": fencing_token}})
        for number, fields in parts
    ]


def _encode_position(position: LivePosition) -> Document:
    opened = position.open_segment
    return {
        "offset": position.offset,
        "sender": position.sender_offset,
        "last": position.last_segment,
        "open": None if opened is None else {"n": opened.number, **_encode_segment(opened)},
        "end": position.file_end,
        "timescale": position.timescale,
        "source": position.source,
        "dropped": position.dropped,
    }


def decode_position(stored: Document) -> LivePosition:
    """A position, out of its field."""
    opened = stored["open"]
    return LivePosition(
        offset=stored["offset"],
        sender_offset=stored["sender"],
        last_segment=stored["last"],
        open_segment=None if opened is None else decode_segment(opened),
        file_end=stored["end"],
        timescale=stored["timescale"],
        source=stored["source"],
        dropped=stored["dropped"],
    )


def _encode_segment(segment: Segment) -> Document:
    return {
        "e": segment.epoch,
        "o": segment.offset,
        "s": segment.size,
        "t": segment.start,
        "d": segment.duration,
        "ts": segment.timescale,
        "at": segment.date,
        "k": segment.is_key,
    }


_segment_values = itemgetter("n", "e", "o", "s", "t", "d", "ts", "at", "k")


def decode_segment(stored: Document) -> Segment:
    """A segment, out of its document."""
    return Segment._make(_segment_values(stored))


def _encode_epoch(epoch: Epoch) -> Document:
    return {
        "init": Binary(epoch.init),
        "ts": epoch.timescale,
        "base": epoch.base_time,
        "file": epoch.file_time,
        "at": epoch.date,
    }


def decode_epoch(stored: Document) -> Epoch:
    """An epoch, out of its document."""
    init = bytes(stored["init"])
    return Epoch(-1 - stored["n"], init, stored["ts"], stored["base"], stored["file"], stored["at"])


def decode_stream(document: Document, epochs: tuple[Epoch, ...] = ()) -> LiveStream:
    """A stream, out of its document."""
    values: dict[str, Any] = {
        name: document[name] for name in ("owner", "title", "target", "grace", "takeover", "window")
    }
    new = NewStream(
        id=document["_id"],
        upload_id=document["upload"],
        name=MediaName(document["folder"], document["filename"]),
        token_sha256=document["token"],
        token_expires_at=document["token_until"],
        limits_json=document["limits"],
        **values,
    )
    return LiveStream(
        new=new,
        state=document["state"],
        reason=document["reason"],
        fencing_token=document["fence"],
        publisher=document["publisher"],
        position=decode_position(document["position"]),
        epochs=epochs,
        created_at=document["created_at"],
        started_at=document["started_at"],
        advanced_at=document["advanced_at"],
        ended_at=document["ended_at"],
        revision=document["revision"],
        file_id=str(document["file"]),
        recordings=decode_recordings(document),
        first_fence=document.get("first_fence", 0),
    )
