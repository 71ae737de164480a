"""gridcast._bus.events: CloudEvents round-trip, and invalid ones are rejected."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridcast._bus import events
from gridcast.errors import EventTooLarge, InvalidEvent

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
PLAIN_TEXT = st.text().filter(lambda text: not any(0xD800 <= ord(char) <= 0xDFFF for char in text))


def make_event(data: Any, topic: str | None = None) -> events.CloudEvent:
    return events.CloudEvent("1", "/upload", "file.created", "2026-11-23T08:00:00.000Z", data, topic)


@given(JSON_VALUES)
def test_encoded_events_decode_unchanged(data: Any) -> None:
    try:
        text = events.encode_event(make_event(data, "a"))
    except InvalidEvent:
        assert any(0xD800 <= ord(char) <= 0xDFFF for char in json.dumps(data, ensure_ascii=False))
        return
    frame = events.with_sequence(text.encode(), b"6f-7")
    assert events.decode_event(frame.decode()) == events.CloudEvent(
        "1", "/upload", "file.created", "2026-11-23T08:00:00.000Z", data, "a", "6f-7"
    )


def test_frame_is_one_line_of_cloudevents_json() -> None:
    frame = json.loads(events.with_sequence(events.encode_event(make_event({"a": "\n"})).encode(), b"6f-7"))
    assert frame == {
        "sequence": "6f-7",
        "specversion": "1.0",
        "id": "1",
        "source": "/upload",
        "type": "file.created",
        "time": "2026-11-23T08:00:00.000Z",
        "data": {"a": "\n"},
    }
    assert "\n" not in events.encode_event(make_event({"a": "\n"}))


@pytest.mark.parametrize("data", [float("nan"), float("inf"), object(), {1: {2: {3}}}, "\ud800"])
def test_unserializable_data_is_a_bad_request(data: Any) -> None:
    with pytest.raises(InvalidEvent):
        events.encode_event(make_event(data))


def test_unbounded_nesting_is_a_bad_request() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidEvent):
        events.encode_event(make_event(deep))


@pytest.mark.parametrize(
    "container", [lambda inner: [inner], lambda inner: {"a": inner}, lambda inner: ({"a": [1, inner]},)]
)
def test_nesting_is_limited(container: Callable[[Any], Any]) -> None:
    """To what every reader can parse: Python's own limit depends on the stack of the caller. Brackets side by side are no depth."""
    data: Any = [[], {}] * 1000
    levels = json.dumps(container(None)).count("[") + json.dumps(container(None)).count("{")
    for _ in range((events.MAX_EVENT_DEPTH - 3) // levels):
        data = container(data)
    assert events.decode_event(events.encode_event(make_event(data))).data == json.loads(json.dumps(data))
    for _ in range(3):
        data = container(data)
    with pytest.raises(InvalidEvent, match="nested"):
        events.encode_event(make_event(data))


@pytest.mark.parametrize(
    "encoded",
    [
        b' {"specversion":"1.0","id":"1","source":"/a","type":"b"}',
        b'{"specversion":"1.0","id":"1","source":"/a","type":"b","sequence":"6f-1"}',
        b'{"specversion":"1.0","id":"1","source":"/a","type":"b","data":NaN}',
        b'{"specversion":"1.0","id":"1","source":"/a","type":"b","data":[-Infinity]}',
        b'{"specversion":"1.0","id":"1","source":"/a","type":"b","data":"\xff"}',
        b'{"specversion":"1.0","id":"1","source":"/a","type":"b","data":' + b"[" * 2000 + b"]" * 2000 + b"}",
        b'{"specversion":"1.0","id":"1","source":"/a","type":"b","data":"' + b"x" * 65536 + b'"}',
    ],
)
def test_event_that_breaks_a_rule_is_not_decoded(encoded: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        events.decode_published_event(encoded)


def test_event_size_is_limited() -> None:
    events.encode_event(make_event("x" * (events.MAX_EVENT_BYTES - 200)))
    with pytest.raises(EventTooLarge):
        events.encode_event(make_event("x" * events.MAX_EVENT_BYTES))
    with pytest.raises(EventTooLarge):
        events.encode_event(make_event("é" * (events.MAX_EVENT_BYTES // 2)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"specversion":"0.3","id":"1","source":"/a","type":"b"}',
        '{"specversion":"1.0","id":"1","source":"/a"}',
        '{"specversion":"1.0","id":"","source":"/a","type":"b"}',
        '{"specversion":"1.0","id":1,"source":"/a","type":"b"}',
        "[" * 100_000,
    ],
)
def test_invalid_event_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        events.decode_event(text)


@pytest.mark.parametrize("topic", ["a", "files:demo/2024", "%C3%A9", "a.b-c_d~e@f+g=h", "x" * 200])
def test_valid_topics(topic: str) -> None:
    assert events.validate_topic(topic) == topic


@pytest.mark.parametrize(
    "topic", ["", "x" * 201, "a b", "a,b", "*", "a.*", "a?", "é", "a\n", "a\t", "a\x00", '"', "\\", "#"]
)
def test_invalid_topics(topic: str) -> None:
    with pytest.raises(InvalidEvent):
        events.validate_topic(topic)


@pytest.mark.parametrize("name", ["file.created", "a", "A-1_b.c"])
def test_valid_types(name: str) -> None:
    assert events.validate_event_type(name) == name


@pytest.mark.parametrize("name", ["", ".a", "a b", "a\n", "é", "a" * 129, "a\t"])
def test_invalid_types(name: str) -> None:
    with pytest.raises(InvalidEvent):
        events.validate_event_type(name)


@pytest.mark.parametrize("name", ["", " ", "a b", "a\n", "é", "a" * 129])
def test_invalid_ids(name: str) -> None:
    with pytest.raises(InvalidEvent):
        events.validate_event_id(name)


@pytest.mark.parametrize("source", ["", "upload", "/up load", "/é", "/", "/a\n"])
def test_source_is_set_by_the_caller(source: str) -> None:
    with pytest.raises(ValueError, match="not an event source"):
        events.validate_source(source)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("6f-7", events.StreamPosition("6f", 7)),
        ("6b0402de5457d-0", events.StreamPosition("6b0402de5457d", 0)),
        ("", None),
        ("6f", None),
        ("6f-", None),
        ("6F-1", None),
        ("6f--1", None),
        ("6f-01", None),
        ("6f-1 ", None),
        ("6f-1\n", None),
        ("6f-²", None),
        ("6f-1_0", None),
        ("6f-" + "9" * 17, None),
    ],
)
def test_stream_positions(text: str, place: events.StreamPosition | None) -> None:
    assert events.StreamPosition.try_parse(text) == place
    if place is None:
        with pytest.raises(ValueError, match="not a stream position"):
            events.StreamPosition.from_string(text)
    else:
        assert str(place) == text


def test_valid_sids() -> None:
    assert events.is_valid_sid("A" * 51 + "Q")
    for text in ("", "A" * 51, "A" * 53, "a" * 52, "A" * 51 + "1", "A" * 51 + "\n", "A" * 52 + "\n"):
        assert not events.is_valid_sid(text)


@given(PLAIN_TEXT)
def test_reserved_types(text: str) -> None:
    assert events.is_reserved_type(f"file.{text}")
    assert events.is_reserved_type(f"socket.{text}")
    assert not events.is_reserved_type(f"chat.{text}")
