"""services.stream.cursor: what goes out comes back, and nothing else gets in."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import BadRequest
from services.common.store.reading import Place
from services.stream.cursor import MAX_CURSOR, decode_folder, decode_place, encode_folder, encode_place


@settings(max_examples=300, deadline=None)
@given(st.datetimes(datetime(1970, 1, 1), datetime(2400, 1, 1)), st.binary(min_size=12, max_size=12))  # noqa: DTZ001
def test_a_place_comes_back(moment: datetime, identifier: bytes) -> None:
    moment = moment.replace(tzinfo=UTC, microsecond=moment.microsecond // 1000 * 1000)
    place = Place(moment, identifier.hex())
    cursor = encode_place(place)
    assert cursor.isascii()
    assert "=" not in cursor
    assert decode_place(cursor) == place


@pytest.mark.parametrize("folder", ["", "demo", "a/b", "日本/ä", "🎬" * 63, "/".join(["é" * 120] * 4)])
def test_a_folder_comes_back(folder: str) -> None:
    cursor = encode_folder(folder)
    assert len(cursor) <= MAX_CURSOR
    assert decode_folder(cursor) == folder


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.text(max_size=50), st.binary(max_size=50).map(lambda data: encode_folder(data.decode("latin-1")))))
def test_no_text_is_an_error_of_ours(text: str) -> None:
    for decode in (decode_place, decode_folder):
        with contextlib.suppress(BadRequest):
            decode(text)


@pytest.mark.parametrize(
    "place",
    [
        Place(datetime(1970, 1, 1, tzinfo=UTC) - timedelta(milliseconds=1), "0" * 24),
        Place(datetime(2026, 1, 1, tzinfo=UTC), "0" * 23),
        Place(datetime(2026, 1, 1, tzinfo=UTC), "$" * 24),
        Place(datetime(2026, 1, 1, tzinfo=UTC), "\u0660" * 24),
    ],
)
def test_a_place_that_cannot_be_is_refused(place: Place) -> None:
    with pytest.raises(BadRequest):
        decode_place(encode_place(place))
