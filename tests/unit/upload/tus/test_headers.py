"""services.upload.tus.headers: parsers of the tus header fields."""

import base64
import hashlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import BadRequest, ChecksumMismatch, GridcastError
from services.common.http.tus import parse_number
from services.upload import digests, preconditions
from services.upload.tus import headers

NOW = datetime(2026, 11, 3, 4, 5, 6, tzinfo=UTC)


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("filename YS53ZWJt", {"filename": "a.webm"}),
        ("filename YS53ZWJt,empty", {"filename": "a.webm", "empty": ""}),
        (" filename YS53ZWJt , folder w6Q= ", {"filename": "a.webm", "folder": "ä"}),
    ],
)
def test_valid_metadata(text: str, values: dict[str, str]) -> None:
    assert headers.parse_metadata(text) == values


@pytest.mark.parametrize(
    "text", ["a b c", "a !", "a YQ", "a YQ==,a YQ==", ",", "a YQ==,", "ä YQ==", "a /w==", "x" * 5000]
)
def test_invalid_metadata(text: str) -> None:
    with pytest.raises(BadRequest):
        headers.parse_metadata(text)


@given(st.text(max_size=200))
def test_arbitrary_header_text_raises_only_bad_request(text: str) -> None:
    for read in (
        headers.parse_metadata,
        headers.parse_checksum,
        headers.parse_concat,
        lambda text: parse_number("x", text),
        lambda text: preconditions.parse_preconditions(text, None, None, NOW),
        lambda text: preconditions.parse_preconditions(None, text, text, NOW),
        lambda text: digests.parse_digest_field("x", [text]),
    ):
        try:
            read(text)
        except GridcastError as error:
            assert error.status == 400  # noqa: PT017  # either is fine, nothing else is


@pytest.mark.parametrize("text", ["", "-1", "+1", "1_0", " 1", "1 ", "²", "\u0661", "1" * 19, "0x1", "1.0"])
def test_invalid_numbers(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_number("Upload-Offset", text)


def test_valid_numbers() -> None:
    assert parse_number("x", "0") == 0
    assert parse_number("x", "9" * 18) == 10**18 - 1 < 2**63
    assert headers.parse_upload_length("5", None) == 5
    assert headers.parse_upload_length(None, "1") is None


def test_checksums() -> None:
    assert headers.parse_checksum(None) == []
    for algorithm in ("sha1", "sha256"):
        (check,) = headers.parse_checksum(f"{algorithm} {base64_text(hashlib.new(algorithm, b'ab').digest())}")
        check.update(b"a")
        with pytest.raises(ChecksumMismatch):
            check.verify()
        check.update(b"b")
        check.verify()
    for wrong in (
        "md5 AAAA",
        "sha1",
        "sha1 AAAA",
        "sha1  ",
        f"sha256 {base64_text(b'x' * 20)}",
        "SHA1 " + base64_text(b"x" * 20),
    ):
        with pytest.raises(BadRequest):
            headers.parse_checksum(wrong)


def test_concatenation() -> None:
    assert headers.parse_concat(None) is None
    assert headers.parse_concat("partial") == headers.UploadConcat()
    named = headers.parse_concat("final;/file/tus/a-1 http://x/file/tus/b-2")
    assert named == headers.UploadConcat(("a-1", "b-2"))
    for wrong in (
        "",
        "final",
        "final;",
        "final; /x/$",
        "other;/a",
        "final;/a /a",
        "final;" + " ".join(f"/{n}" for n in range(300)),
    ):
        with pytest.raises(BadRequest):
            headers.parse_concat(wrong)
