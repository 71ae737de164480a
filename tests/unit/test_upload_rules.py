"""The pure rooms of the upload service: tus fields, preconditions, digests, and whether bytes fit."""

import base64
import hashlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import BadRequest, ChecksumMismatch, Conflict, Gone, GridcastError, TooLarge
from services.common.media import MediaName
from services.common.store.port import Ended, Expected, Open
from services.upload import conditions, digests, tus_rules
from services.upload.patches import Patch, lost

ONE = hashlib.sha256(b"1").hexdigest()
TWO = hashlib.sha256(b"2").hexdigest()
NOW = datetime(2026, 11, 3, 4, 5, 6, tzinfo=UTC)


def b64(data: bytes) -> str:
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
    assert tus_rules.metadata(text) == values


@pytest.mark.parametrize(
    "text", ["a b c", "a !", "a YQ", "a YQ==,a YQ==", ",", "a YQ==,", "ä YQ==", "a /w==", "x" * 5000]
)
def test_metadata_that_is_none(text: str) -> None:
    with pytest.raises(BadRequest):
        tus_rules.metadata(text)


@given(st.text(max_size=200))
def test_no_text_breaks_a_field(text: str) -> None:
    for read in (
        tus_rules.metadata,
        tus_rules.checksum,
        tus_rules.concat,
        lambda text: tus_rules.number("x", text),
        lambda text: conditions.expected(text, None, None, NOW),
        lambda text: conditions.expected(None, text, text, NOW),
        lambda text: digests.checks("x", [text]),
    ):
        try:
            read(text)
        except GridcastError as error:
            assert error.status == 400  # noqa: PT017  # either is fine, nothing else is


@pytest.mark.parametrize("text", ["", "-1", "+1", "1_0", " 1", "1 ", "²", "\u0661", "1" * 19, "0x1", "1.0"])
def test_numbers_that_are_none(text: str) -> None:
    with pytest.raises(BadRequest):
        tus_rules.number("Upload-Offset", text)


def test_numbers() -> None:
    assert tus_rules.number("x", "0") == 0
    assert tus_rules.number("x", "9" * 18) == 10**18 - 1 < 2**63
    assert tus_rules.length_of("5", None) == 5
    assert tus_rules.length_of(None, "1") is None


def test_checksums() -> None:
    assert tus_rules.checksum(None) == []
    for algorithm in ("sha1", "sha256"):
        (check,) = tus_rules.checksum(f"{algorithm} {b64(hashlib.new(algorithm, b'ab').digest())}")
        check.update(b"a")
        with pytest.raises(ChecksumMismatch):
            check.verify()
        check.update(b"b")
        check.verify()
    for wrong in ("md5 AAAA", "sha1", "sha1 AAAA", "sha1  ", f"sha256 {b64(b'x' * 20)}", "SHA1 " + b64(b"x" * 20)):
        with pytest.raises(BadRequest):
            tus_rules.checksum(wrong)


def test_concatenation() -> None:
    assert tus_rules.concat(None) is None
    assert tus_rules.concat("partial") == tus_rules.Concat()
    named = tus_rules.concat("final;/file/tus/a-1 http://x/file/tus/b-2")
    assert named == tus_rules.Concat(("a-1", "b-2"))
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
            tus_rules.concat(wrong)


# Preconditions.


@pytest.mark.parametrize(
    ("if_match", "if_none_match", "expected"),
    [
        (None, None, Expected()),
        ("*", None, Expected(present=True)),
        (None, "*", Expected(absent=True)),
        (f'"sha256-{ONE}"', None, Expected(one_of=frozenset({ONE}))),
        (f'"x" , "sha256-{ONE}", W/"sha256-{TWO}"', None, Expected(one_of=frozenset({ONE}))),
        ('"x"', None, Expected(one_of=frozenset())),
        (f',, "x", ,"sha256-{ONE}", ,', None, Expected(one_of=frozenset({ONE}))),
        (None, f'W/"sha256-{ONE}","sha256-{TWO}"', Expected(none_of=frozenset({ONE, TWO}))),
        ("*", f'"sha256-{ONE}"', Expected(present=True, none_of=frozenset({ONE}))),
    ],
)
def test_preconditions(if_match: str | None, if_none_match: str | None, expected: Expected) -> None:
    assert conditions.expected(if_match, if_none_match, None, NOW) == expected


def test_the_date_counts_beside_no_if_match() -> None:
    """RFC 9110, 13.1.4."""
    date = "Tue, 03 Nov 2026 04:05:06 GMT"
    assert conditions.expected(None, None, date, NOW) == Expected(unmodified_since=NOW)
    assert conditions.expected(None, "*", date, NOW) == Expected(absent=True, unmodified_since=NOW)
    assert conditions.expected("*", None, date, NOW) == Expected(present=True)
    assert conditions.expected(None, None, "yesterday", NOW) == Expected()


@pytest.mark.parametrize("text", ["x", '"x', 'W/x"', '"a" "b"', '*, "a"', '"a",x'])
def test_a_malformed_precondition_is_not_ignored(text: str) -> None:
    for pair in ((text, None), (None, text)):
        with pytest.raises(BadRequest):
            conditions.expected(*pair, None, NOW)


# Digests.


def test_digest_fields() -> None:
    good = f"sha-256=:{b64(hashlib.sha256(b'ab').digest())}:"
    long = f"sha-512=:{b64(hashlib.sha512(b'ab').digest())}:;p=1"
    for field in ([good], [long], [good, long], [f"{good} , {long}"], [f"md5=:AAAA:, {good}, unixsum=:AA==:"]):
        for check in digests.checks("Content-Digest", field):
            check.update(b"ab")
            check.verify()
    (check,) = digests.checks("Content-Digest", [good])
    with pytest.raises(BadRequest, match="Content-Digest"):
        check.verify()
    assert digests.checks("Content-Digest", ["md5=:AAAA:", "sha=:AAAA:"]) == []
    # RFC 8941, 3.2: of several members of one name the last one counts; and each is a hash over every byte.
    bad = good.replace(good[9], "B" if good[9] == "A" else "A", 1)
    (last,) = digests.checks("Content-Digest", [", ".join([bad] * 300), good])
    assert last.expected == check.expected
    assert digests.repr_digest(hashlib.sha256(b"ab").hexdigest()) == good


@pytest.mark.parametrize(
    "text", ["sha-256", "sha-256=x", "sha-256=:AAAA:", "sha-256=:!:", "SHA-256=:AAAA:", "sha-256=:AAAA: x"]
)
def test_a_malformed_digest_is_not_ignored(text: str) -> None:
    with pytest.raises(BadRequest):
        digests.checks("Repr-Digest", [text])


# Whether bytes fit.


def opened(offset: int, length: int | None) -> Open:
    return Open("m", MediaName("", "n"), "f", offset, b"", length, {}, NOW, writing=False)


@pytest.mark.parametrize(
    ("state", "patch", "error"),
    [
        (opened(5, 10), Patch(5, None, 5, ()), None),
        (opened(5, 10), Patch(5, None, None, ()), None),
        (opened(5, 10), Patch(5, 10, 5, ()), None),
        (opened(5, None), Patch(5, 10, 5, ()), None),
        (opened(5, None), Patch(5, None, 95, ()), None),
        (opened(5, 10), Patch(4, None, 1, ()), Conflict),
        (opened(5, 10), Patch(5, None, 6, ()), TooLarge),
        (opened(5, None), Patch(5, None, 96, ()), TooLarge),
        (opened(5, None), Patch(5, 101, 1, ()), TooLarge),
        (opened(5, None), Patch(5, 7, 3, ()), TooLarge),
        (opened(5, 10), Patch(5, 11, 1, ()), BadRequest),
        (opened(5, None), Patch(5, 4, 0, ()), BadRequest),
    ],
)
def test_bytes_that_fit(state: Open, patch: Patch, error: type[GridcastError] | None) -> None:
    if error is None:
        patch.check(state, 100)
        return
    with pytest.raises(error) as raised:
        patch.check(state, 100)
    if error is Conflict:
        assert raised.value.headers["upload-offset"] == "5"


def test_the_answer_to_a_request_that_comes_again() -> None:
    end = Ended("stored", MediaName("", "n"), 10, ONE, {}, NOW)
    assert Patch(10, None, 0, ()).again(end).sha256 == ONE
    for patch in (Patch(9, None, 1, ()), Patch(10, None, 1, ())):
        with pytest.raises(Conflict) as raised:
            patch.again(end)
        assert raised.value.headers["upload-offset"] == "10"
    gone = lost(Ended("lost", MediaName("", "n"), 10, "", {}, NOW))
    assert isinstance(gone, Gone)
    assert gone.detail.startswith("Not Unique: ")
