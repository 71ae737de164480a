"""The rows of live streams as values of the port. Pure.

What the caller made of a stream is JSON in one column: texts with any character in them are stored by every database like that.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from services.common.live.segments import Epoch, Segment
from services.common.media import MediaName
from services.common.store.files.clock import StoreClock
from services.common.store.files.rows import Row, decode_owner
from services.common.store.live_store import LivePosition, LiveStream, NewStream, Recording


def encode_definition(stream: NewStream) -> str:
    """What a stream is made of."""
    fields = asdict(stream) | {"token_expires_at": stream.token_expires_at.isoformat()}
    del fields["owner"]
    return json.dumps(fields, separators=(",", ":"))


def decode_definition(text: str, row: Row) -> NewStream:
    """What a stream is made of, out of its row."""
    fields: dict[str, Any] = json.loads(text)
    fields["name"] = MediaName(**fields["name"])
    fields["token_expires_at"] = datetime.fromisoformat(fields["token_expires_at"])
    return NewStream(**fields | {"owner": decode_owner(row["owner"])})


def encode_position(position: LivePosition) -> str:
    """How far a stream is."""
    return json.dumps(asdict(position), separators=(",", ":"))


def decode_position(text: str) -> LivePosition:
    """How far a stream is."""
    fields: dict[str, Any] = json.loads(text)
    opened = fields["open_segment"]
    return LivePosition(**fields | {"open_segment": None if opened is None else Segment(*opened)})


def encode_recordings(recordings: Sequence[Recording], first_fence: int) -> str:
    """The files before the last one, and what is to be added to the fencing tokens of that one."""
    files = [asdict(recording) for recording in recordings]
    return json.dumps({"first_fence": first_fence, "files": files}, separators=(",", ":"))


def decode_recordings(text: str | None) -> tuple[tuple[Recording, ...], int]:
    """What `encode_recordings` has made; None for a stream with one file."""
    if text is None:
        return (), 0
    fields: dict[str, Any] = json.loads(text)
    return tuple(Recording(**file) for file in fields["files"]), fields["first_fence"]


def encode_segment(stream_id: str, segment: Segment) -> dict[str, Any]:
    """A row of `live_segments`."""
    return {"stream_id": stream_id, **segment._asdict()}


def encode_epoch(stream_id: str, epoch: Epoch) -> dict[str, Any]:
    """A row of `live_epochs`."""
    return {"stream_id": stream_id, **asdict(epoch)}


def decode_epoch(row: Row) -> Epoch:
    """A row of `live_epochs`."""
    init = bytes(row["init"])
    return Epoch(row["number"], init, row["timescale"], row["base_time"], row["file_time"], row["date"])


def decode_stream(row: Row, clock: StoreClock, epochs: tuple[Epoch, ...] = ()) -> LiveStream:
    """A row of `live`."""
    started_at, advanced_at, ended_at = (
        None if row[name] is None else clock.to_datetime(row[name])
        for name in ("started_at", "advanced_at", "ended_at")
    )
    recordings, first_fence = decode_recordings(row["recordings"])
    return LiveStream(
        new=decode_definition(row["definition"], row),
        state=row["state"],
        reason=json.loads(row["reason"]),
        fencing_token=row["fencing_token"],
        publisher=json.loads(row["publisher"]),
        position=decode_position(row["position"]),
        epochs=epochs,
        created_at=clock.to_datetime(row["created_at"]),
        started_at=started_at,
        advanced_at=advanced_at,
        ended_at=ended_at,
        revision=row["revision"],
        file_id=row["file_id"],
        recordings=recordings,
        first_fence=first_fence,
    )
