"""Requests for messages of a live stream, and the JSON of a page."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import BadRequest
from services.common.store.live_messages import MessagePlace, StoredMessage, date_of, place_of
from services.stream.live.messages import MessageRequest, message_headers, parse_message_request, render_messages


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", MessageRequest()),
        (b"from=1.5&to=3&limit=7", MessageRequest(1500, 3000, None, 7)),
        (b"after=1500-3&unknown=1", MessageRequest(after=MessagePlace(1500, 3))),
        (b"after=", MessageRequest()),
        (b"from=0.0004", MessageRequest()),
    ],
)
def test_a_request(query: bytes, expected: MessageRequest) -> None:
    assert parse_message_request(query) == expected


@given(st.dictionaries(st.sampled_from(["from", "to", "after", "limit", "x"]), st.text(max_size=12)))
def test_any_query_is_read_or_refused(fields: dict[str, str]) -> None:
    query = "&".join(f"{name}={value}" for name, value in fields.items()).encode()
    try:
        request = parse_message_request(query)
    except BadRequest:
        return
    assert request.first >= 0
    assert 1 <= request.limit <= 200


def a_message(name: str, milliseconds: int, number: int, data: object = None) -> StoredMessage:
    return StoredMessage(name, "t", json.dumps(data), MessagePlace(milliseconds, number), 2, 1_700_000_000.25)


def test_a_page() -> None:
    page = [a_message('"', 1234, 1, {"a": "\u00e9"}), a_message("b", 2000, 2)]
    date = datetime.fromtimestamp(1_700_000_000.25, UTC).isoformat(timespec="milliseconds")
    first = {"message": '"', "type": "t", "time": 1.234, "epoch": 2, "date": date, "data": {"a": "\u00e9"}}
    decoded = json.loads(render_messages(page, 2))
    assert (decoded["messages"][0], decoded["next"]) == (first, "2000-2")
    assert json.loads(render_messages(page, 3))["next"] is None
    assert render_messages([], 1) == b'{"messages":[],"next":null}'


def test_what_may_be_kept() -> None:
    assert dict(message_headers(2, "private", ended=False))[b"cache-control"] == b"no-store"
    assert dict(message_headers(2, "private", ended=True))[b"cache-control"] == b"private, max-age=60"


@pytest.mark.parametrize(
    ("wanted", "state", "silent", "expected"),
    [
        (None, "live", 0.0, 10_000),
        (None, "live", 1500.0, 11_500),
        (None, "live", 60_000.0, 12_000),
        (None, "live", -5.0, 10_000),
        (None, "interrupted", 1500.0, 10_000),
        (3, "live", 1500.0, 3),
        (10_500, "live", 1500.0, 10_000),
    ],
)
def test_the_place_of_a_message(wanted: int | None, state: str, silent: float, expected: int) -> None:
    assert place_of(wanted, 900_000, 90_000, state, silent, 2) == expected  # type: ignore[arg-type]


def test_the_date_of_a_place() -> None:
    assert date_of(25_000, 1000.0, 20 * 90_000, 90_000) == 1005.0
