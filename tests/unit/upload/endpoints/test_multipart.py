"""services.upload.endpoints.multipart: the same events however the body is split, and no body that breaks the parser."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import BadRequest, ContentTooLarge, GridcastError, UnsupportedMediaType
from services.upload.endpoints.multipart import (
    MAX_FORM_OVERHEAD_BYTES,
    EmptyFileInput,
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


PART = b'Content-Disposition: form-data; name="file"; filename="v.txt"'


def form(text: bytes) -> bytes:
    """A body in which B is the boundary."""
    return text.replace(b"--B", b"--" + BOUNDARY)


@pytest.mark.parametrize(
    "body",
    [
        b"--B\r\n" + PART + b"\r\n\r\nhello\r\n--B--",
        b"\r\n\r\n--B\r\n" + PART + b"\r\n\r\nhello\r\n--B--\r\n",
        b"This is a multi-part message.\r\n--0123\r\nx--B\r\n\r\n--B\r\n"
        + PART
        + b"\r\n\r\nhello\r\n--B--\r\nbye\r\n--B\r\n",
        b"--B  \t\r\n" + PART + b"\r\n\r\nhello\r\n--B-- \r\n",
        b"--B\r\n" + PART.replace(b"; filename", b";\r\n\t filename") + b"\r\n\r\nhello\r\n--B--\r\n",
        b"--B\r\n" + PART.replace(b": form-data;", b":\r\n form-data\r\n ;") + b"\r\n\r\nhello\r\n--B--\r\n",
        b"--B\r\n" + PART + b"\r\nContent-Transfer-Encoding: base64\r\n\r\naGVs\r\nbG8=\r\n--B--\r\n",
        b"--B\r\n" + PART + b"\r\ncontent-transfer-encoding:quoted-printable\r\n\r\nhel=\r\n=6Co\r\n--B--\r\n",
    ],
)
def test_forms_of_mime_libraries(body: bytes) -> None:
    """RFC 2046, 5.1.1: preamble, epilogue, white space behind a boundary; RFC 5322, 2.2.3: folded fields; RFC 2045, 6."""
    expected = [FileStart("file", "v.txt", ""), FileData(b"hello"), FileEnd(), FormEnd()]
    assert parse_events(form(body), []) == expected
    assert parse_events(form(body), list(range(len(form(body))))) == expected


@pytest.mark.parametrize(
    "headers",
    [
        b'Content-Disposition: form-data; name="file"; filename="a.txt"; filename*=UTF-8\'\'..%2fevil',
        b'Content-Disposition: form-data; name="file"; filename*0="../"; filename*1="evil"',
    ],
)
def test_the_extended_filename_counts_and_is_checked_as_every_name(headers: bytes) -> None:
    """Case 22. RFC 7578, 4.2 forbids it in a form; .NET sends a name that is none beside it."""
    body = form(b"--B\r\n" + headers + b"\r\n\r\nx\r\n--B--\r\n")
    assert parse_events(body, [])[0] == FileStart("file", "../evil", "")


@pytest.mark.parametrize(
    ("boundary", "headers", "name"),
    [
        (b"0" * 32, b"Content-Type: video/mp4\r\nContent-Disposition: %b", "a b.mp4"),
        (b"0" * 32, b"Content-Disposition: %b\r\nContent-Type: video/mp4", "a%20b.mp4"),
        (b"B" * 32, b"Content-Type: video/mp4\r\nContent-Disposition: %b", "a%20b.mp4"),
    ],
)
def test_a_form_of_aiohttp_is_known_by_its_writer(boundary: bytes, headers: bytes, name: str) -> None:
    disposition = b'form-data; name="file"; filename="a%20b.mp4"'
    parser = FormParser(boundary)
    body = b"--" + boundary + b"\r\n" + headers % disposition + b"\r\n\r\nx\r\n--" + boundary + b"--\r\n"
    assert parser.feed(body)[0] == FileStart("file", name, "video/mp4")
    named = FormParser(boundary, percent_encoded_filenames=True)
    assert named.feed(body)[0] == FileStart("file", "a b.mp4", "video/mp4")


EMPTY_INPUT = b'--B\r\nContent-Disposition: form-data; name="poster"; filename=""\r\nContent-Type: application/octet-stream\r\n\r\n'


def test_a_file_input_in_which_nothing_was_chosen() -> None:
    assert parse_events(form(EMPTY_INPUT + b"\r\n--B--\r\n"), []) == [EmptyFileInput("poster"), FormEnd()]
    with pytest.raises(BadRequest, match="filename is empty"):
        parse_events(form(EMPTY_INPUT + b"x\r\n--B--\r\n"), [])


@pytest.mark.parametrize(
    ("kind", "content", "value"),
    [
        (b"", "é".encode(), "é"),
        (b"text/plain; charset=utf-8", "é".encode(), "é"),
        (b'text/plain;charset="ISO-8859-1"', b"\xe9", "é"),
        (b"application/json", b'{"a": 1}', '{"a": 1}'),
    ],
)
def test_charset_of_a_text_field(kind: bytes, content: bytes, value: str) -> None:
    head = b'--B\r\nContent-Disposition: form-data; name="t"\r\nContent-Type: ' + kind + b"\r\n\r\n"
    assert parse_events(form(head + content + b"\r\n--B--\r\n"), [])[0] == FormField("t", value)


def test_a_part_without_content_may_end_at_its_empty_line() -> None:
    """RFC 2046, 5.1.1: the line end before a boundary belongs to it."""
    body = form(b'--B\r\nContent-Disposition: form-data; name="t"\r\n\r\n--B\r\n' + PART + b"\r\n\r\n\r\n--B--\r\n")
    expected = [FormField("t", ""), FileStart("file", "v.txt", ""), FileEnd(), FormEnd()]
    assert parse_events(body, []) == parse_events(body, list(range(len(body)))) == expected


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"--Bx\r\n" + PART + b"\r\n\r\nhello\r\n--B--", "white space"),
        (b"--B\r\n" + PART + b"\r\n\r\nhello\r\n--Bx\r\n--B--", "white space"),
        (b"--B\r\n" + PART + b"\r\n\r\nhello\r\n--B-x\r\n--B--", "white space"),
        (b"--B\n" + PART + b"\r\n\r\nhello\r\n--B--", "white space"),
        (b"--B" + b" " * 1100, "white space"),
        (b"--B\r\n\r\nhello\r\n--B--", "no Content-Disposition"),
        (b'--B\r\nContent-Disposition: form-data; name=""\r\n\r\nx\r\n--B--', "no Content-Disposition"),
        (b"--B\r\n folded: at once\r\n" + PART + b"\r\n\r\nx\r\n--B--", "no header field"),
        (b"--B\r\nContent-Disposition : form-data; name=t\r\n\r\nx\r\n--B--", "no header field"),
        (b"--B\r\nno colon\r\n" + PART + b"\r\n\r\nx\r\n--B--", "no header field"),
        (b"--B\r\nX: a\nY: b\r\n" + PART + b"\r\n\r\nx\r\n--B--", "no header field"),
        (b"--B\r\nX: a\x00\r\n" + PART + b"\r\n\r\nx\r\n--B--", "no header field"),
        (b"--B\r\n" + PART + b"\r\n" + PART + b"\r\n\r\nx\r\n--B--", "two content-disposition"),
        (b"--B\r\n" + PART + b"\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!!\r\n--B--\r\n", "base64"),
        (
            b'--B\r\nContent-Disposition: form-data; name="t"\r\nContent-Type: a/b; charset=utf-7\r\n\r\nx\r\n--B--',
            "utf-7",
        ),
    ],
)
def test_malformed_forms(body: bytes, word: str) -> None:
    with pytest.raises(BadRequest, match=word):
        parse_events(form(body), [])


@pytest.mark.parametrize(
    ("content_type", "error"),
    [
        (b"", UnsupportedMediaType),
        (b"text/plain", UnsupportedMediaType),
        (b"multipart/mixed; boundary=x", UnsupportedMediaType),
        (b"multipart/form-data", BadRequest),
        (b"multipart/form-data; boundary=", BadRequest),
        (b"multipart/form-data; boundary=" + b"x" * 71, BadRequest),
        (b"multipart/form-data; boundary=a; boundary=b", BadRequest),
        (b'multipart/form-data; boundary="a', BadRequest),
    ],
)
def test_invalid_boundaries(content_type: bytes, error: type[GridcastError]) -> None:
    with pytest.raises(error):
        parse_boundary(content_type)


@pytest.mark.parametrize(
    "parameter", [b"boundary=a'b(c)", b'boundary="a\'b(c)"', b"charset=utf-8; Boundary = a'b(c) ; x=y"]
)
def test_valid_boundaries(parameter: bytes) -> None:
    assert parse_boundary(b"Multipart/Form-Data ; " + parameter) == b"a'b(c)"


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
