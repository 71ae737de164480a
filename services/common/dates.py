"""HTTP's dates (RFC 9110, 5.6.7), in English on every machine. Pure; it knows no field and asks no clock."""

import re
from datetime import UTC, datetime

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# The preferred form, RFC 850's and asctime's. The day of the week must be one, not the right one.
_FIXDATE = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT\Z"
)
_RFC850 = re.compile(
    r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, ([0-9]{2})-([A-Z][a-z]{2})-([0-9]{2}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT\Z"
)
_ASCTIME = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) ([A-Z][a-z]{2}) ([ 0-9][0-9]) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([0-9]{4})\Z"
)


def format_date(moment: datetime) -> str:
    """IMF-fixdate of a moment in UTC."""
    day, month = _DAYS[moment.weekday()], _MONTHS[moment.month - 1]
    return f"{day}, {moment.day:02} {month} {moment.year:04} {moment:%H:%M:%S} GMT"


def http_date(text: str, now: datetime) -> datetime | None:
    """A date in any of HTTP's three forms, None for anything else. `now` says which century a year of two digits is in."""
    text = text.strip(" \t")
    if match := _FIXDATE.match(text):
        day, month, year, *clock = match.groups()
    elif match := _RFC850.match(text):
        day, month, year, *clock = match.groups()
        year = str(_full_year(int(year), now.year))
    elif match := _ASCTIME.match(text):
        month, day, *clock, year = match.groups()
    else:
        return None
    if month not in _MONTHS:
        return None
    hour, minute, second = (int(part) for part in clock)
    try:  # a leap second is the last one before it: datetime has no 60
        return datetime(int(year), _MONTHS.index(month) + 1, int(day), hour, minute, second - second // 60, tzinfo=UTC)
    except ValueError:
        return None


def _full_year(short: int, present: int) -> int:
    """More than 50 years ahead is the past."""
    year = present - present % 100 + short
    return year - 100 if year > present + 50 else year
