"""The answers of the upload hook."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import BadGateway, Forbidden, UnsupportedMediaType
from services.common.media import NO_METADATA, MediaName
from services.common.uploads.policy import UploadPolicy
from services.common.webhooks.hook_protocol import ALLOWED, HookAnswer, StoredHookAnswer, parse_answer

NAME = MediaName("f", "n.webm")


def answer(**members: Any) -> HookAnswer:
    return parse_answer(json.dumps({"allow": True, **members}).encode())


def test_what_an_answer_changes() -> None:
    found = answer(
        folder="g/h", filename="m.webm", metadata={"b": "hook", "c": "\u00e4"}, max_bytes=9, content_types=["video/*"]
    )
    assert found.place(NAME) == MediaName("g/h", "m.webm")
    assert answer(folder="").place(NAME) == MediaName("", "n.webm")
    assert json.loads(found.join_metadata('{"a":"1","b":"2"}')) == {"a": "1", "b": "hook", "c": "\u00e4"}
    assert json.loads(found.join_metadata(NO_METADATA)) == {"b": "hook", "c": "\u00e4"}
    assert (found.limit(UploadPolicy(10)).max_size, found.limit(UploadPolicy(5)).max_size) == (9, 5)
    found.check_media_type("Video/webm; codecs=vp9")
    with pytest.raises(UnsupportedMediaType):
        found.check_media_type("text/plain")
    kept = StoredHookAnswer.of({"x": "y", **found.to_upload_metadata()})
    assert (kept.moved, kept.limit(100), kept.limit(5)) == (True, 9, 5)
    assert kept.join_metadata('{"a":"1"}') == found.join_metadata('{"a":"1"}')


def test_an_answer_that_changes_nothing() -> None:
    found = answer(detail="unused", folder=None)
    assert found == ALLOWED
    assert (found.place(NAME), found.join_metadata('{"a":"1"}'), found.to_upload_metadata()) == (NAME, '{"a":"1"}', {})
    assert StoredHookAnswer.of({}) == StoredHookAnswer()


@pytest.mark.parametrize(
    ("detail", "shown"),
    [
        ("no room for you", "no room for you"),
        (None, "the upload was refused"),
        ("a\x00b\r\nc\u202ed", "a b  c d"),
        ("x" * 600, "x" * 500),
    ],
)
def test_denials_show_their_text(detail: str | None, shown: str) -> None:
    with pytest.raises(Forbidden) as denied:
        parse_answer(json.dumps({"allow": False, "detail": detail, "filename": 5}).encode())
    assert denied.value.detail == shown


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"yes"', b"true", b"\xff", b"[" * 99_999, b"NaN"])
def test_no_answer_at_all(body: bytes) -> None:
    with pytest.raises(ValueError, match="not"):
        parse_answer(body)


@pytest.mark.parametrize(
    "members",
    [
        {"allow": 1}, {"allow": "true"}, {"allow": None}, {"allowed": True}, {"folder": 5}, {"folder": "../x"}, {"folder": "a\x00"},
        {"filename": []}, {"metadata": []}, {"metadata": {"a": 1}}, {"metadata": {"a": "x" * 20_000}}, {"max_bytes": "9"},
        {"max_bytes": -1}, {"max_bytes": True}, {"max_bytes": 1.5}, {"content_types": "video/*"}, {"content_types": [1]},
        {"content_types": [""]}, {"content_types": ["a/b"] * 65}, {"detail": 1}, {"max_byte": 5},
    ],
    ids=str,
)  # fmt: skip
def test_faults_of_the_hook_are_named(members: dict[str, Any]) -> None:
    with pytest.raises(BadGateway, match="the upload hook has answered with a fault"):
        answer(**members)


@pytest.mark.parametrize("filename", ["../x", "", ".", "..", "a/b", "a\x00b", "x" * 300])
def test_invalid_names_are_faults_of_the_hook(filename: str) -> None:
    with pytest.raises(BadGateway, match="name"):
        answer(filename=filename).place(NAME)


@given(
    st.recursive(st.none() | st.booleans() | st.text() | st.integers(), lambda value: st.dictionaries(st.text(), value))
)
def test_any_json_is_an_answer_or_a_named_fault(value: Any) -> None:
    for body in (value, {"allow": True, "metadata": value}, {"allow": True, "folder": value, "max_bytes": value}):
        with suppress(ValueError, Forbidden, BadGateway):
            assert isinstance(parse_answer(json.dumps(body).encode()), HookAnswer)
