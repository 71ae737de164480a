"""services.stream.page_tokens: tokens round-trip, and nothing else is accepted."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import BadRequest
from services.common.store.media_reader import PageKey
from services.stream.page_tokens import (
    MAX_PAGE_TOKEN_LENGTH,
    decode_file_token,
    decode_folder_token,
    encode_file_token,
    encode_folder_token,
)


@settings(max_examples=300, deadline=None)
@given(st.datetimes(datetime(1970, 1, 1), datetime(2400, 1, 1)), st.binary(min_size=12, max_size=12))  # noqa: DTZ001
def test_page_key_token_round_trips(moment: datetime, identifier: bytes) -> None:
    moment = moment.replace(tzinfo=UTC, microsecond=moment.microsecond // 1000 * 1000)
    place = PageKey(moment, identifier.hex())
    cursor = encode_file_token(place)
    assert cursor.isascii()
    assert "=" not in cursor
    assert decode_file_token(cursor) == place


@pytest.mark.parametrize("value", ["a", "\U0001f600" * 63, '["', 0, 2**63 - 1])
def test_tokens_of_other_orders_round_trip(value: str | int) -> None:
    place = PageKey(value, "0" * 24)
    token = encode_file_token(place)
    assert len(token) <= MAX_PAGE_TOKEN_LENGTH
    assert decode_file_token(token) == place


@pytest.mark.parametrize("folder", ["", "demo", "a/b", "日本/ä", "🎬" * 63, "/".join(["é" * 120] * 4)])
def test_folder_token_round_trips(folder: str) -> None:
    cursor = encode_folder_token(folder)
    assert len(cursor) <= MAX_PAGE_TOKEN_LENGTH
    assert decode_folder_token(cursor) == folder


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(
        st.text(max_size=50), st.binary(max_size=50).map(lambda data: encode_folder_token(data.decode("latin-1")))
    )
)
def test_arbitrary_token_raises_only_bad_request(text: str) -> None:
    for decode in (decode_file_token, decode_folder_token):
        with contextlib.suppress(BadRequest):
            decode(text)


@pytest.mark.parametrize(
    "place",
    [
        PageKey(datetime(1970, 1, 1, tzinfo=UTC) - timedelta(milliseconds=1), "0" * 24),
        PageKey(-1, "0" * 24),
        PageKey(2**63, "0" * 24),
        PageKey(True, "0" * 24),
        PageKey("a\0", "0" * 24),
        PageKey("\ud800", "0" * 24),
    ],
)
def test_invalid_page_key_is_rejected(place: PageKey) -> None:
    with pytest.raises(BadRequest):
        decode_file_token(encode_file_token(place))
