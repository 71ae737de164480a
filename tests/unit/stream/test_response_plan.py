"""services.stream.response_plan: each status with its headers, and several ranges as the standard library's mail parser reads
them.
"""

import hashlib
import re
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import Message
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import PreconditionFailed, RangeNotSatisfiable
from services.common.media import MediaInfo
from services.stream.inline_types import ATTACHMENT_POLICY, INLINE_POLICY
from services.stream.ranges import ByteRange
from services.stream.response_plan import (
    Representation,
    ResponsePlan,
    build_representation,
    content_disposition,
    plan_response,
)

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
DATA = bytes(range(256)) * 2 + b"--x\r\n\r\nrest"
VALIDATOR_HEADERS = {"etag", "last-modified", "cache-control"}
REQUIRED_HEADERS = VALIDATOR_HEADERS | {
    "content-type",
    "content-length",
    "accept-ranges",
    "content-disposition",
    "repr-digest",
    "x-content-type-options",
    "content-security-policy",
}


def make_file_headers(data: bytes, content_type: str = "video/webm") -> Representation:
    uploaded = datetime(2026, 11, 20, 12, 0, 0, 999_000, tzinfo=UTC)
    digest = hashlib.sha256(data).hexdigest()
    return build_representation(MediaInfo("1", "2", "demo", "a.webm", len(data), content_type, digest, uploaded), NOW)


def header_dict(reply: ResponsePlan) -> dict[str, str]:
    every = [*reply.headers, *reply.preencoded_headers.fields]
    found = {name.decode(): value.decode("latin-1") for name, value in every}
    assert len(found) == len(every), "each field once"
    assert not {b"content-length", b"connection"} & dict(reply.preencoded_headers.fields).keys(), (
        "the server looks for these among its own"
    )
    return found


def expected_body(reply: ResponsePlan, data: bytes) -> bytes:
    return b"".join(item if isinstance(item, bytes) else data[item.first : item.last + 1] for item in reply.body_parts)


def plan_get(headers: dict[str, str], data: bytes = DATA, method: str = "GET") -> ResponsePlan:
    return plan_response(method, headers, make_file_headers(data), NOW)


def test_the_whole_file() -> None:
    reply = plan_get({})
    assert reply.status == 200
    assert expected_body(reply, DATA) == DATA
    said = header_dict(reply)
    assert said.keys() == REQUIRED_HEADERS
    assert said["content-length"] == str(len(DATA))
    assert said["content-type"] == "video/webm"
    assert said["etag"] == f'"sha256-{hashlib.sha256(DATA).hexdigest()}"'
    assert said["last-modified"] == "Fri, 20 Nov 2026 12:00:00 GMT"
    assert said["accept-ranges"] == "bytes"
    assert said["x-content-type-options"] == "nosniff"
    assert said["content-security-policy"] == INLINE_POLICY.decode()
    assert said["repr-digest"].startswith("sha-256=:")


def test_one_range() -> None:
    reply = plan_get({"range": "bytes=10-19"})
    assert (reply.status, expected_body(reply, DATA)) == (206, DATA[10:20])
    assert header_dict(reply).keys() == REQUIRED_HEADERS | {"content-range"}
    assert header_dict(reply)["content-range"] == f"bytes 10-19/{len(DATA)}"


def test_shared_headers_are_encoded_once() -> None:
    file = make_file_headers(DATA)
    for ranges in (("", "bytes=0-1", "bytes=2-5"), ("bytes=0-1,9-9", "bytes=1-1,9-9")):
        replies = [plan_response("GET", {"range": stated} if stated else {}, file, NOW) for stated in ranges]
        assert len({id(reply.preencoded_headers) for reply in replies}) == 1


def test_head_is_get_without_range() -> None:
    for header in ("bytes=10-19", "bytes=5-1", "bytes=99999-"):
        reply = plan_get({"range": header}, method="HEAD")
        assert (reply.status, header_dict(reply), reply.body_parts) == (200, header_dict(plan_get({})), ())


def test_preconditions_precede_ranges() -> None:
    """Cases 46 and 47."""
    etag = make_file_headers(DATA).info.etag
    reply = plan_get({"if-none-match": etag, "range": "bytes=0-1"})
    assert (reply.status, reply.body_parts, set(header_dict(reply))) == (304, (), VALIDATOR_HEADERS)
    with pytest.raises(PreconditionFailed):
        plan_get({"if-match": '"other"', "range": "bytes=9999999-"})


def test_a_range_of_another_version_is_the_whole_file() -> None:
    assert plan_get({"range": "bytes=0-1", "if-range": '"other"'}) == plan_get({})
    assert plan_get({"range": "bytes=0-1", "if-range": make_file_headers(DATA).info.etag}).status == 206


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-0", "bytes=5-"])
def test_range_of_an_empty_file_is_unsatisfiable(header: str) -> None:
    """Case 49."""
    with pytest.raises(RangeNotSatisfiable) as refused:
        plan_get({"range": header}, b"")
    assert refused.value.headers == {"content-range": "bytes */0"}


def test_suffix_range_of_an_empty_file_is_the_whole_file() -> None:
    reply = plan_get({"range": "bytes=-5"}, b"")
    assert (reply.status, reply.body_parts, header_dict(reply)["content-length"]) == (200, (), "0")


def test_unsatisfiable_range() -> None:
    with pytest.raises(RangeNotSatisfiable) as refused:
        plan_get({"range": f"bytes={len(DATA)}-"})
    assert refused.value.headers == {"content-range": f"bytes */{len(DATA)}"}


RANGE_LISTS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 8)).map(lambda pair: f"{pair[0] * 9}-{pair[0] * 9 + pair[1]}"),
    min_size=1,
    max_size=16,
)


@settings(max_examples=300, deadline=None)
@given(RANGE_LISTS, st.integers(0, len(DATA)))
def test_several_ranges_are_a_standard_multipart_message(ranges: list[str], length: int) -> None:
    data = DATA[:length]
    try:
        reply = plan_get({"range": "bytes=" + ", ".join(ranges)}, data)
    except RangeNotSatisfiable:
        assert all(int(text.split("-")[0]) >= length for text in ranges)
        return
    assert reply.status == 206
    said = header_dict(reply)
    sent = expected_body(reply, data)
    assert said["content-length"] == str(len(sent)), "the length is known beforehand"
    if not said["content-type"].startswith("multipart/byteranges"):
        assert len(reply.body_parts) == 1
        return
    assert "content-range" not in said, "RFC 9110, 15.3.7.2"
    message = message_from_bytes(b"Content-Type: " + said["content-type"].encode() + b"\r\n\r\n" + sent)
    parts = message.get_payload()
    assert isinstance(parts, list)
    assert len(parts) == sum(isinstance(item, ByteRange) for item in reply.body_parts) > 1
    for part in parts:
        assert isinstance(part, Message)
        assert part["content-type"] == "video/webm"
        place, _, whole = part["content-range"].removeprefix("bytes ").partition("/")
        first, last = map(int, place.split("-"))
        assert whole == str(length)
        head = f"Content-Range: {part['content-range']}\r\n\r\n".encode()
        begin = sent.index(head) + len(head)
        assert sent[begin : begin + last - first + 1] == data[first : last + 1]
        assert sent[begin + last - first + 1 :].startswith(b"\r\n--")


@pytest.mark.parametrize(
    ("content_type", "how"),
    [
        ("video/webm", "inline"),
        ("VIDEO/MP4; codecs=avc1", "inline"),
        ("audio/ogg", "inline"),
        ("image/png", "inline"),
        ("image/jpeg", "inline"),
        ("image/gif", "inline"),
        ("image/webp", "inline"),
        ("image/svg+xml", "attachment"),
        ("text/html", "attachment"),
        ("text/plain; charset=utf-8", "inline"),
        ("audio/mpeg", "inline"),
        ("audio/x-m4a", "inline"),
        ("Audio/MP3", "inline"),
        ("video/x-matroska;codecs=avc1", "inline"),
        ("audio/vnd.wave", "inline"),
        ("audio/x-flac", "inline"),
        ("application/ogg", "inline"),
        ("audio/opus", "inline"),
        ("image/pjpeg", "inline"),
        ("image/vnd.mozilla.apng", "inline"),
        ("image/jpg, text/html", "attachment"),
        ("image/x-svg+xml", "attachment"),
        ("video/x-flv", "attachment"),
        ("application/x-shockwave-flash", "attachment"),
        ("text/x-plain", "attachment"),
        ("video/webm;, text/html", "attachment"),
        ("video/webm, text/html", "attachment"),
        ("video/html", "attachment"),
        ("audio/x-mpegurl", "attachment"),
        ("text/vtt", "attachment"),
        ("application/pdf", "attachment"),
        ("application/xhtml+xml", "attachment"),
        ("text/xml", "attachment"),
        ("application/octet-stream", "attachment"),
        ("", "attachment"),
    ],
)
def test_only_media_types_are_inline(content_type: str, how: str) -> None:
    assert content_disposition("a", content_type) == f'{how}; filename="a"'
    policy = dict(make_file_headers(DATA, content_type).content_headers.fields)[b"content-security-policy"]
    assert policy == (INLINE_POLICY if how == "inline" else ATTACHMENT_POLICY)


def test_policies_allow_no_script_form_or_frame() -> None:
    for policy in (INLINE_POLICY, ATTACHMENT_POLICY):
        directives = dict(([*part.split(), b""])[:2] for part in policy.split(b";"))
        assert directives[b"default-src"] == b"'none'"
        assert not directives.keys() & {b"script-src", b"frame-src", b"object-src", b"connect-src"}
        assert b"allow-scripts" not in policy
        assert b"allow-forms" not in policy


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("a b.webm", 'inline; filename="a b.webm"'),
        ('q"x.webm', "inline; filename=\"q_x.webm\"; filename*=UTF-8''q%22x.webm"),
        ("a;b.webm", "inline; filename=\"a_b.webm\"; filename*=UTF-8''a%3Bb.webm"),
        ("a\r\nb", "inline; filename=\"a__b\"; filename*=UTF-8''a%0D%0Ab"),
        ("50%41.webm", "inline; filename=\"50_41.webm\"; filename*=UTF-8''50%2541.webm"),
        ("it's", "inline; filename=\"it_s\"; filename*=UTF-8''it%27s"),
        ("€.webm", "inline; filename=\"_.webm\"; filename*=UTF-8''%E2%82%AC.webm"),
    ],
)
def test_filenames_in_content_disposition(filename: str, expected: str) -> None:
    """Case 55; RFC 6266 and RFC 8187."""
    assert content_disposition(filename, "video/webm") == expected


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_any_filename_round_trips_through_content_disposition(filename: str) -> None:
    value = content_disposition(filename, "video/webm")
    assert value.isascii()
    assert value.isprintable()
    found = re.fullmatch(r"inline; filename=\"([^\"\\%]*)\"(?:; filename\*=UTF-8''([!#$&+.^_`|~0-9A-Za-z%-]*))?", value)
    assert found
    assert (found[1] if found[2] is None else unquote(found[2], errors="strict")) == filename


def test_last_modified_is_not_in_the_future() -> None:
    """MongoDB's clock is ahead of ours (RFC 9110, 8.8.2.1)."""
    info = make_file_headers(b"x").info
    now = info.uploaded_at - timedelta(seconds=90)
    assert dict(build_representation(info, now).validator_headers.fields)[b"last-modified"] == (
        b"Fri, 20 Nov 2026 11:58:30 GMT"
    )
