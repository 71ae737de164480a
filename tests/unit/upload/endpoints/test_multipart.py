"""services.upload.endpoints.multipart: the same events however the body is split, and no body that breaks the parser."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import BadRequest, ContentTooLarge, GridcastError, UnsupportedMediaType
from services.upload.endpoints.multipart import (
    MAX_FORM_OVERHEAD_BYTES,
    FileData,
    FileEnd,
    FileStart,
    FormEnd,
    FormEvent,
    FormField,
    FormParser,
    parse_boundary,
)
from tests.support.upload_client import BOUNDARY, form_body, form_part

BODY = form_body(
    form_part("folder", b"x/y"),
    form_part("file", b"line\r\n--0123456789abcde\r\n", "a.txt", "text/plain"),
    form_part("sid", b"S"),
)


def parse_events(body: bytes, split_at: list[int]) -> list[FormEvent]:
    """The events of a body that is split there; adjacent data is joined."""
    reader = FormParser(BOUNDARY)
    found: list[FormEvent] = []
    edges = [0, *sorted(split_at), len(body)]
    for start, end in itertools.pairwise(edges):
        for event in reader.feed(body[start:end]):
            if isinstance(event, FileData) and found and isinstance(found[-1], FileData):
                found[-1] = FileData(found[-1].data + event.data)
            else:
                found.append(event)
    reader.close()
    return found


def test_simple_form() -> None:
    assert parse_events(BODY, []) == [
        FormField("folder", "x/y"),
        FileStart("file", "a.txt", "text/plain"),
        FileData(b"line\r\n--0123456789abcde\r\n"),
        FileEnd(),
        FormField("sid", "S"),
        FormEnd(),
    ]


@given(st.lists(st.integers(0, len(BODY)), max_size=12))
def test_form_split_at_any_byte(cuts: list[int]) -> None:
    assert parse_events(BODY, cuts) == parse_events(BODY, [])


@pytest.mark.parametrize("end", range(len(BODY) - 2))
def test_truncated_body_is_never_complete(end: int) -> None:
    """The parser itself reports nothing (case 3)."""
    reader = FormParser(BOUNDARY)
    reader.feed(BODY[:end])
    with pytest.raises(BadRequest, match="closing boundary"):
        reader.close()


@settings(max_examples=300)
@given(st.binary(max_size=300), st.integers(0, len(BODY)), st.integers(0, len(BODY)))
def test_arbitrary_bytes_raise_only_bad_request(noise: bytes, start: int, end: int) -> None:
    for body in (noise, BODY[:start] + noise + BODY[end:]):
        reader = FormParser(BOUNDARY)
        try:
            reader.feed(body)
            reader.close()
        except GridcastError as error:
            assert 400 <= error.status < 500  # noqa: PT017  # either is fine, nothing else is


def test_filename_star_is_ignored() -> None:
    """Case 22: RFC 7578, 4.2 forbids it in a form; the value of `filename` counts."""
    head = b'Content-Disposition: form-data; name="file"; filename="a.txt"; filename*=UTF-8\'\'..%2fevil\r\n\r\n'
    found = parse_events(b"--" + BOUNDARY + b"\r\n" + head + b"x\r\n--" + BOUNDARY + b"--\r\n", [])
    assert found[0] == FileStart("file", "a.txt", "")


@pytest.mark.parametrize(
    ("content_type", "error"),
    [
        (b"", UnsupportedMediaType),
        (b"text/plain", UnsupportedMediaType),
        (b"multipart/mixed; boundary=x", UnsupportedMediaType),
        (b"multipart/form-data", BadRequest),
        (b"multipart/form-data; boundary=", BadRequest),
        (b"multipart/form-data; boundary=" + b"x" * 71, BadRequest),
    ],
)
def test_invalid_boundaries(content_type: bytes, error: type[GridcastError]) -> None:
    with pytest.raises(error):
        parse_boundary(content_type)


def test_oversized_field_is_rejected_before_it_is_complete() -> None:
    """Case 8: the bytes kept of a text field are bounded."""
    reader = FormParser(BOUNDARY)
    reader.feed(form_part("folder", b"")[:-2])
    reader.feed(b"x" * 16 * 1024)
    with pytest.raises(ContentTooLarge):
        reader.feed(b"x" * 1024)


def test_epilogue_is_bounded() -> None:
    reader = FormParser(BOUNDARY)
    reader.feed(BODY)
    for _ in range(MAX_FORM_OVERHEAD_BYTES // 60_000):
        reader.feed(b"x" * 60_000)
    with pytest.raises(ContentTooLarge, match="beside its file"):
        reader.feed(b"x" * 60_000)


def test_file_content_does_not_count_towards_the_form_overhead() -> None:
    reader = FormParser(BOUNDARY)
    reader.feed(form_body(form_part("file", b"", "a"))[: -len(form_body()) - 2])
    for _ in range(3 * MAX_FORM_OVERHEAD_BYTES // 60_000):
        reader.feed(b"x" * 60_000)
    reader.feed(b"\r\n" + form_body())
    reader.close()
