"""services.upload.preconditions: If-Match, If-None-Match and If-Unmodified-Since (RFC 9110, 13.1)."""

import hashlib
from datetime import UTC, datetime

import pytest

from services.common.errors import BadRequest
from services.common.store.preconditions import Preconditions
from services.upload import preconditions

FIRST_ETAG, SECOND_ETAG = (f'"sha256-{hashlib.sha256(data).hexdigest()}"' for data in (b"1", b"2"))
NOW = datetime(2026, 11, 3, 4, 5, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("if_match", "if_none_match", "expected"),
    [
        (None, None, Preconditions()),
        ("*", None, Preconditions(must_exist=True)),
        (None, "*", Preconditions(must_not_exist=True)),
        (FIRST_ETAG, None, Preconditions(etag_in=frozenset({FIRST_ETAG}))),
        (f'"x" , {FIRST_ETAG}, W/{SECOND_ETAG}', None, Preconditions(etag_in=frozenset({'"x"', FIRST_ETAG}))),
        ('"x"', None, Preconditions(etag_in=frozenset({'"x"'}))),
        (f"W/{FIRST_ETAG}", None, Preconditions(etag_in=frozenset())),
        (f',, "x", ,{FIRST_ETAG}, ,', None, Preconditions(etag_in=frozenset({'"x"', FIRST_ETAG}))),
        (None, f"W/{FIRST_ETAG},{SECOND_ETAG}", Preconditions(etag_not_in=frozenset({FIRST_ETAG, SECOND_ETAG}))),
        ("*", FIRST_ETAG, Preconditions(must_exist=True, etag_not_in=frozenset({FIRST_ETAG}))),
    ],
)
def test_preconditions(if_match: str | None, if_none_match: str | None, expected: Preconditions) -> None:
    assert preconditions.parse_preconditions(if_match, if_none_match, None, NOW) == expected


def test_if_unmodified_since_applies_without_if_match() -> None:
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
    for if_match, if_none_match in ((text, None), (None, text)):
        with pytest.raises(BadRequest):
            preconditions.parse_preconditions(if_match, if_none_match, None, NOW)
