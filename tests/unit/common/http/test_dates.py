"""services.common.http.dates: the three formats that HTTP accepts, and the one that is written."""

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.http.dates import format_http_date, parse_http_date

NOW = datetime(2026, 11, 23, 8, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
        ("Sunday, 06-Nov-94 08:49:37 GMT", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
        ("Sun Nov  6 08:49:37 1994", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
        ("Sunday, 06-Nov-76 08:49:37 GMT", datetime(2076, 11, 6, 8, 49, 37, tzinfo=UTC)),
        ("Sunday, 06-Nov-77 08:49:37 GMT", datetime(1977, 11, 6, 8, 49, 37, tzinfo=UTC)),
        ("Sat, 31 Dec 2016 23:59:60 GMT", datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("Thu, 29 Feb 2024 00:00:00 GMT", datetime(2024, 2, 29, tzinfo=UTC)),
        ("Wed, 29 Feb 2023 00:00:00 GMT", None),
        ("Sun, 06 Nov 1994 08:49:61 GMT", None),
        ("Sun, 06 Nov 1994 24:00:00 GMT", None),
        ("Sun, 06 Nov 0000 00:00:00 GMT", None),
        ("Sun, 6 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 UTC", None),
        ("Sun, 06 Nov 1994 08:49:37 +0000", None),
        ("Sun, 06 nov 1994 08:49:37 GMT", None),
        ("Son, 06 Nov 1994 08:49:37 GMT", None),
        ("Sun, ٠٦ Nov 1994 08:49:37 GMT", None),
        ("1994-11-06T08:49:37Z", None),
        ("0", None),
        ("", None),
    ],
)
def test_dates(text: str, expected: datetime | None) -> None:
    """Case 50: other formats are no date."""
    assert parse_http_date(text, NOW) == expected


@settings(max_examples=300, deadline=None)
@given(st.datetimes(datetime(1900, 1, 1), datetime(9999, 12, 31)))  # noqa: DTZ001
def test_every_second_is_read_as_it_was_written(moment: datetime) -> None:
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    assert parse_http_date(format_datetime(moment, usegmt=True), NOW) == moment


@settings(max_examples=200, deadline=None)
@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)))  # noqa: DTZ001
def test_dates_are_written_as_the_standard_library_does(moment: datetime) -> None:
    assert format_http_date(moment) == moment.strftime("%a, %d %b %Y %H:%M:%S GMT")
