"""Formats and parses HTTP dates (RFC 9110, 5.6.7), independently of the locale."""

import re
from datetime import UTC, datetime

_DAY_NAMES = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# The preferred form, RFC 850's and asctime's. The day of the week must be a valid name, not the right one.
_IMF_FIXDATE = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT\Z"
)
_RFC850 = re.compile(
    r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, ([0-9]{2})-([A-Z][a-z]{2})-([0-9]{2}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT\Z"
)
_ASCTIME = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) ([A-Z][a-z]{2}) ([ 0-9][0-9]) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([0-9]{4})\Z"
)


def format_http_date(value: datetime) -> str:
    """Return the IMF-fixdate of a time in UTC."""
    day, month = _DAY_NAMES[value.weekday()], _MONTH_NAMES[value.month - 1]
    return f"{day}, {value.day:02} {month} {value.year:04} {value:%H:%M:%S} GMT"


def parse_http_date(text: str, now: datetime) -> datetime | None:
    """Parse a date in any of HTTP's three forms; None for anything else. `now` decides the century of a two-digit year."""
    text = text.strip(" \t")
    if match := _IMF_FIXDATE.match(text):
        day, month, year, *clock = match.groups()
    elif match := _RFC850.match(text):
        day, month, year, *clock = match.groups()
        year = str(_expand_two_digit_year(int(year), now.year))
    elif match := _ASCTIME.match(text):
        month, day, *clock, year = match.groups()
    else:
        return None
    if month not in _MONTH_NAMES:
        return None
    hour, minute, second = (int(part) for part in clock)
    try:  # a leap second becomes the second before it: datetime has no 60
        return datetime(
            int(year), _MONTH_NAMES.index(month) + 1, int(day), hour, minute, second - second // 60, tzinfo=UTC
        )
    except ValueError:
        return None


def _expand_two_digit_year(two_digit_year: int, current_year: int) -> int:
    """A year that appears to be more than 50 years in the future is in the past (RFC 9110, 5.6.7)."""
    year = current_year - current_year % 100 + two_digit_year
    return year - 100 if year > current_year + 50 else year
