"""Streams as values: what of a progress is new, and what both stores write and read back."""

from datetime import UTC, datetime
from typing import Any

import pytest
from bson import ObjectId, decode, encode
from hypothesis import given
from hypothesis import strategies as st

from services.common.live.segments import Epoch, Segment
from services.common.media import MediaName
from services.common.store.files import live_rows
from services.common.store.files.clock import StoreClock
from services.common.store.gridfs import live_documents
from services.common.store.live_store import (
    MAX_PENDING_BYTES,
    LivePosition,
    LiveProgress,
    NewStream,
    Recording,
    new_progress,
)
from tests.support.live_streams import epoch, progress, segment

COUNTS = st.integers(0, (1 << 63) - 1)
TIMES = st.floats(0, 1e11)
SEGMENTS = st.builds(Segment, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, TIMES, st.booleans())
EPOCHS = st.builds(Epoch, st.integers(0, 10**6), st.binary(max_size=64), COUNTS, COUNTS, COUNTS, TIMES)
POSITIONS = st.builds(
    LivePosition, COUNTS, COUNTS, st.integers(-1, 10**9), st.none() | SEGMENTS, COUNTS, COUNTS, COUNTS, COUNTS
)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
STREAMS = st.builds(
    NewStream,
    TEXTS,
    TEXTS,
    st.builds(MediaName, TEXTS, TEXTS),
    TEXTS,
    TEXTS,
    st.integers(1, 100),
    TIMES,
    st.booleans(),
    st.none() | st.integers(1, 10**6),
    TEXTS,
    st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
        lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    ),
    TEXTS,
)


@given(st.integers(-1, 20), st.integers(0, 20), st.integers(0, 5))
def test_only_what_is_behind_the_stored_last_segment_is_new(stored: int, repeated: int, more: int) -> None:
    first, last = max(0, stored + 1 - repeated), stored + more
    new = new_progress(stored, 0, progress(first, last))
    assert list(new.segments) == [segment(number) for number in range(stored + 1, last + 1)]
    assert new.position == progress(first, last).position


@given(st.integers(0, 10), st.integers(0, 5), st.integers(0, 5))
def test_only_epochs_that_are_not_stored_are_new(stored: int, repeated: int, more: int) -> None:
    given_epochs = tuple(map(epoch, range(max(0, stored - repeated), stored + more)))
    new = new_progress(-1, stored, progress(0, -1, epochs=given_epochs))
    assert new.epochs == tuple(map(epoch, range(stored, stored + more)))


@given(st.integers(-1, 20), st.lists(st.integers(0, 25), max_size=5), st.integers(-1, 25))
def test_segments_are_accepted_where_they_lead_from_the_stored_to_the_last(
    stored: int, numbers: list[int], last: int
) -> None:
    added = LiveProgress(LivePosition(0, last_segment=last), (), list(map(segment, numbers)))
    fits = [number for number in numbers if number > stored] == list(range(stored + 1, last + 1)) and last >= stored
    if fits:
        assert [each.number for each in new_progress(stored, 0, added).segments] == list(range(stored + 1, last + 1))
    else:
        with pytest.raises(ValueError, match="segments that do not go on"):
            new_progress(stored, 0, added)


def test_pending_bytes_are_bounded() -> None:
    new_progress(-1, 0, progress(0, -1, pending=bytes(MAX_PENDING_BYTES)))
    with pytest.raises(ValueError, match="pending"):
        new_progress(-1, 0, progress(0, -1, pending=bytes(MAX_PENDING_BYTES + 1)))


def bson(document: Any) -> dict[str, Any]:
    """A document as a server returns it."""
    from bson.codec_options import CodecOptions  # noqa: PLC0415

    return decode(encode(document), CodecOptions(tz_aware=True))


@given(SEGMENTS, EPOCHS)
def test_segments_and_epochs_come_back(one: Segment, other: Epoch) -> None:
    added = LiveProgress(LivePosition(0), [other], [one])
    documents = [bson({**query, **update["$set"]}) for query, update in live_documents.parts_of("s", 1, added)]
    assert live_documents.decode_epoch(documents[0]) == other
    assert live_documents.decode_segment(documents[1]) == one
    assert live_rows.decode_epoch(live_rows.encode_epoch("s", other)) == other
    row = live_rows.encode_segment("s", one)
    assert Segment._make(row[name] for name in Segment._fields) == one  # as `read_segments` selects them


@given(POSITIONS)
def test_positions_come_back(position: LivePosition) -> None:
    assert live_rows.decode_position(live_rows.encode_position(position)) == position
    (stage,) = live_documents.advance(1, 1, LiveProgress(position))
    stored = bson(stage["$set"]["position"])["$literal"]
    assert live_documents.decode_position(stored) == position


@given(STREAMS, POSITIONS)
def test_streams_come_back(stream: NewStream, position: LivePosition) -> None:
    text = live_rows.encode_definition(stream)
    assert text.isascii()
    row = {
        **dict.fromkeys(("started_at", "advanced_at", "ended_at", "revision")),
        "definition": text,
        "owner": stream.owner.encode(),
        "state": "live",
        "file_id": "f",
        "reason": '""',
        "publisher": '""',
        "fencing_token": 1,
        "created_at": 0,
        "position": live_rows.encode_position(position),
        "recordings": None,
    }
    found = live_rows.decode_stream(row, StoreClock(0, 0, 0))
    assert (found.new, found.position, found.recordings, found.first_fence) == (stream, position, (), 0)
    recordings = (Recording("u", "f", 1, 2, 3, 4, 5, 0.1), Recording("v", "g", 2, 3, 4, 5, 6, 0.2))
    row["recordings"] = live_rows.encode_recordings(recordings, 1 << 40)
    found = live_rows.decode_stream(row, StoreClock(0, 0, 0))
    assert (found.recordings, found.first_fence) == (recordings, 1 << 40)

    first, _ = live_documents.new_stream(stream, ObjectId(), ObjectId())
    fields = {name: value["$literal"] for name, value in first["$set"].items()}
    document = bson({"_id": stream.id, **fields, "created_at": datetime.now(UTC)})
    assert live_documents.decode_stream(document).new == stream
