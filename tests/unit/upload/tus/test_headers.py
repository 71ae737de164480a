"""The pure rooms of the upload service: tus fields, preconditions, digests, and whether bytes fit."""

import base64
import hashlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import BadRequest, ChecksumMismatch, Conflict, ContentTooLarge, Gone, GridcastError
from services.common.media import MediaName
from services.common.store.upload_store import FinishedUpload, InProgressUpload, Preconditions
from services.upload import digests, preconditions
from services.upload.tus import headers
from services.upload.tus.patch import PatchRequest, lost_upload_error

FIRST_SHA256 = hashlib.sha256(b"1").hexdigest()
SECOND_SHA256 = hashlib.sha256(b"2").hexdigest()
FIRST_ETAG, SECOND_ETAG = (f'"sha256-{sha256}"' for sha256 in (FIRST_SHA256, SECOND_SHA256))
NOW = datetime(2026, 11, 3, 4, 5, 6, tzinfo=UTC)


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


# tus fields.


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("filename YS53ZWJt", {"filename": "a.webm"}),
        ("filename YS53ZWJt,empty", {"filename": "a.webm", "empty": ""}),
        (" filename YS53ZWJt , folder w6Q= ", {"filename": "a.webm", "folder": "ä"}),
    ],
)
def test_metadata(text: str, values: dict[str, str]) -> None:
    assert headers.parse_metadata(text) == values


@pytest.mark.parametrize(
    "text", ["a b c", "a !", "a YQ", "a YQ==,a YQ==", ",", "a YQ==,", "ä YQ==", "a /w==", "x" * 5000]
)
def test_metadata_that_is_none(text: str) -> None:
    with pytest.raises(BadRequest):
        headers.parse_metadata(text)


@given(st.text(max_size=200))
def test_no_text_breaks_a_field(text: str) -> None:
    for read in (
        headers.parse_metadata,
        headers.parse_checksum,
        headers.parse_concat,
        lambda text: headers.parse_number("x", text),
        lambda text: preconditions.parse_preconditions(text, None, None, NOW),
        lambda text: preconditions.parse_preconditions(None, text, text, NOW),
        lambda text: digests.parse_digest_field("x", [text]),
    ):
        try:
            read(text)
        except GridcastError as error:
            assert error.status == 400  # noqa: PT017  # either is fine, nothing else is


@pytest.mark.parametrize("text", ["", "-1", "+1", "1_0", " 1", "1 ", "²", "\u0661", "1" * 19, "0x1", "1.0"])
def test_numbers_that_are_none(text: str) -> None:
    with pytest.raises(BadRequest):
        headers.parse_number("Upload-Offset", text)


def test_numbers() -> None:
    assert headers.parse_number("x", "0") == 0
    assert headers.parse_number("x", "9" * 18) == 10**18 - 1 < 2**63
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


# Preconditions.


@pytest.mark.parametrize(
    ("if_match", "if_none_match", "expected"),
    [
        (None, None, Preconditions()),
        ("*", None, Preconditions(must_exist=True)),
        (None, "*", Preconditions(must_not_exist=True)),
        (f'"sha256-{FIRST_SHA256}"', None, Preconditions(etag_in=frozenset({FIRST_ETAG}))),
        (
            f'"x" , "sha256-{FIRST_SHA256}", W/"sha256-{SECOND_SHA256}"',
            None,
            Preconditions(etag_in=frozenset({'"x"', FIRST_ETAG})),
        ),
        ('"x"', None, Preconditions(etag_in=frozenset({'"x"'}))),
        (f',, "x", ,"sha256-{FIRST_SHA256}", ,', None, Preconditions(etag_in=frozenset({'"x"', FIRST_ETAG}))),
        (
            None,
            f'W/"sha256-{FIRST_SHA256}","sha256-{SECOND_SHA256}"',
            Preconditions(etag_not_in=frozenset({FIRST_ETAG, SECOND_ETAG})),
        ),
        ("*", f'"sha256-{FIRST_SHA256}"', Preconditions(must_exist=True, etag_not_in=frozenset({FIRST_ETAG}))),
    ],
)
def test_preconditions(if_match: str | None, if_none_match: str | None, expected: Preconditions) -> None:
    assert preconditions.parse_preconditions(if_match, if_none_match, None, NOW) == expected


def test_the_date_counts_beside_no_if_match() -> None:
    """RFC 9110, 13.1.4."""
    date = "Tue, 03 Nov 2026 04:05:06 GMT"
    assert preconditions.parse_preconditions(None, None, date, NOW) == Preconditions(unmodified_since=NOW)
    assert preconditions.parse_preconditions(None, "*", date, NOW) == Preconditions(
        must_not_exist=True, unmodified_since=NOW
    )
    assert preconditions.parse_preconditions("*", None, date, NOW) == Preconditions(must_exist=True)
    assert preconditions.parse_preconditions(None, None, "yesterday", NOW) == Preconditions()


@pytest.mark.parametrize("text", ["x", '"x', 'W/x"', '"a" "b"', '*, "a"', '"a",x'])
def test_a_malformed_precondition_is_not_ignored(text: str) -> None:
    for pair in ((text, None), (None, text)):
        with pytest.raises(BadRequest):
            preconditions.parse_preconditions(*pair, None, NOW)


# Digests.


def test_digest_fields() -> None:
    good = f"sha-256=:{base64_text(hashlib.sha256(b'ab').digest())}:"
    long = f"sha-512=:{base64_text(hashlib.sha512(b'ab').digest())}:;p=1"
    for field in ([good], [long], [good, long], [f"{good} , {long}"], [f"md5=:AAAA:, {good}, unixsum=:AA==:"]):
        for check in digests.parse_digest_field("Content-Digest", field):
            check.update(b"ab")
            check.verify()
    (check,) = digests.parse_digest_field("Content-Digest", [good])
    with pytest.raises(BadRequest, match="Content-Digest"):
        check.verify()
    assert digests.parse_digest_field("Content-Digest", ["md5=:AAAA:", "sha=:AAAA:"]) == []
    # RFC 8941, 3.2: of several members of one name the last one counts; and each is a hash over every byte.
    bad = good.replace(good[9], "B" if good[9] == "A" else "A", 1)
    (last,) = digests.parse_digest_field("Content-Digest", [", ".join([bad] * 300), good])
    assert last.expected == check.expected
    assert digests.format_repr_digest(hashlib.sha256(b"ab").hexdigest()) == good


@pytest.mark.parametrize(
    "text", ["sha-256", "sha-256=x", "sha-256=:AAAA:", "sha-256=:!:", "SHA-256=:AAAA:", "sha-256=:AAAA: x"]
)
def test_a_malformed_digest_is_not_ignored(text: str) -> None:
    with pytest.raises(BadRequest):
        digests.parse_digest_field("Repr-Digest", [text])


# Whether bytes fit.


def make_upload(offset: int, length: int | None) -> InProgressUpload:
    return InProgressUpload(MediaName("", "n"), offset, b"", length, {}, NOW, write_in_progress=False)


@pytest.mark.parametrize(
    ("state", "patch", "error"),
    [
        (make_upload(5, 10), PatchRequest(5, None, 5, ()), None),
        (make_upload(5, 10), PatchRequest(5, None, None, ()), None),
        (make_upload(5, 10), PatchRequest(5, 10, 5, ()), None),
        (make_upload(5, None), PatchRequest(5, 10, 5, ()), None),
        (make_upload(5, None), PatchRequest(5, None, 95, ()), None),
        (make_upload(5, 10), PatchRequest(4, None, 1, ()), Conflict),
        (make_upload(5, 10), PatchRequest(5, None, 6, ()), ContentTooLarge),
        (make_upload(5, None), PatchRequest(5, None, 96, ()), ContentTooLarge),
        (make_upload(5, None), PatchRequest(5, 101, 1, ()), ContentTooLarge),
        (make_upload(5, None), PatchRequest(5, 7, 3, ()), ContentTooLarge),
        (make_upload(5, 10), PatchRequest(5, 11, 1, ()), BadRequest),
        (make_upload(5, None), PatchRequest(5, 4, 0, ()), BadRequest),
    ],
)
def test_bytes_that_fit(state: InProgressUpload, patch: PatchRequest, error: type[GridcastError] | None) -> None:
    if error is None:
        patch.validate(state, 100)
        return
    with pytest.raises(error) as raised:
        patch.validate(state, 100)
    if error is Conflict:
        assert raised.value.headers["upload-offset"] == "5"


def test_the_answer_to_a_request_that_comes_again() -> None:
    end = FinishedUpload("stored", MediaName("", "n"), 10, FIRST_ETAG, FIRST_SHA256, {}, NOW)
    replayed = PatchRequest(10, None, 0, ()).replay_result(end)
    assert (replayed.etag, replayed.sha256) == (FIRST_ETAG, FIRST_SHA256)
    for patch in (PatchRequest(9, None, 1, ()), PatchRequest(10, None, 1, ())):
        with pytest.raises(Conflict) as raised:
            patch.replay_result(end)
        assert raised.value.headers["upload-offset"] == "10"
    gone = lost_upload_error(MediaName("", "n"))
    assert isinstance(gone, Gone)
    assert gone.detail.startswith("Not Unique: ")
