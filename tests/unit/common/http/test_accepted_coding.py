"""Accept-Encoding (RFC 9110, 12.5.3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.http.accepted_coding import accepts_gzip


@pytest.mark.parametrize(
    ("field", "accepted"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("br, gzip;q=0.5", True),
        ("x-gzip", True),
        ("*", True),
        ("gzip ; q=1.000 , br", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("gzip;q=x", False),
        ("gzip;q=nan", False),
        ("gzipped", False),
    ],
)
def test_gzip(field: str, accepted: bool) -> None:  # a table
    assert accepts_gzip(field) is accepted


@given(st.text(max_size=60))
def test_any_text_has_an_answer(field: str) -> None:
    assert accepts_gzip(field) in {True, False}
