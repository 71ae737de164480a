"""Conditional requests (RFC 9110, 13). Pure: header texts and the file's validators in, a verdict out."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum

_ETAG = re.compile(r'[ \t]*(W/)?("[\x21\x23-\x7e\x80-\xff]*")[ \t]*(?:,|\Z)')
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# RFC 9110, 5.6.7: the preferred form, RFC 850's and asctime's.
_FIXDATE = re.compile(r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT\Z", re.ASCII)
_RFC850 = re.compile(r"[A-Z][a-z]{5,8}, (\d\d)-([A-Z][a-z]{2})-(\d\d) (\d\d):(\d\d):(\d\d) GMT\Z", re.ASCII)
_ASCTIME = re.compile(r"[A-Z][a-z]{2} ([A-Z][a-z]{2}) ([ \d]\d) (\d\d):(\d\d):(\d\d) (\d{4})\Z", re.ASCII)


class Verdict(Enum):
    """What the preconditions say."""

    PROCEED = 200
    NOT_MODIFIED = 304
    FAILED = 412


def evaluate(headers: Mapping[str, str], etag: str, modified: datetime) -> Verdict:
    """The preconditions of a GET or HEAD in the order of RFC 9110, 13.2.2. `etag` strong, `modified` in whole seconds of UTC."""
    if (wanted := headers.get("if-match")) is not None:
        if not _matches(wanted, etag, weak=False):
            return Verdict.FAILED
    elif (since := http_date(headers.get("if-unmodified-since", ""))) is not None and modified > since:
        return Verdict.FAILED
    if (known := headers.get("if-none-match")) is not None:
        return Verdict.NOT_MODIFIED if _matches(known, etag, weak=True) else Verdict.PROCEED
    if (since := http_date(headers.get("if-modified-since", ""))) is not None and modified <= since:
        return Verdict.NOT_MODIFIED
    return Verdict.PROCEED


def range_applies(headers: Mapping[str, str], etag: str, modified: datetime, now: datetime) -> bool:
    """Whether If-Range lets the Range count (RFC 9110, 13.1.5): only by a strong validator that is exactly the current one."""
    if (validator := headers.get("if-range")) is None:
        return True
    validator = validator.strip(" \t")
    if validator.startswith(('"', "W/")):
        return validator == etag
    # 8.8.2.2: a date is strong once a second has passed in which the file could have changed again.
    return http_date(validator) == modified and now - modified >= timedelta(seconds=1)


def http_date(text: str, century: datetime | None = None) -> datetime | None:
    """A date in any of HTTP's three forms, None for anything else. `century` is the present for two-digit years."""
    text = text.strip(" \t")
    if match := _FIXDATE.match(text):
        day, month, year, *clock = match.groups()
    elif match := _RFC850.match(text):
        day, month, year, *clock = match.groups()
        # More than 50 years ahead means the past (RFC 9110, 5.6.7). Files of ours are not older than 2000.
        pivot = (century.year if century else 2026) % 100 + 50
        year = f"{'20' if int(year) <= pivot else '19'}{year}"
    elif match := _ASCTIME.match(text):
        month, day, *clock, year = match.groups()
    else:
        return None
    if month.lower() not in _MONTHS:
        return None
    try:
        hour, minute, second = (int(part) for part in clock)
        return datetime(
            int(year), _MONTHS.index(month.lower()) + 1, int(day), hour, minute, min(second, 59), tzinfo=UTC
        )
    except ValueError:
        return None


def _matches(header: str, etag: str, *, weak: bool) -> bool:
    """Whether a list of entity tags (or `*`) holds ours. What follows a malformed element does not count."""
    if header.strip(" \t") == "*":
        return True
    position = 0
    while position < len(header):
        match = _ETAG.match(header, position)
        if match is None:
            return False
        if match[2] == etag and (weak or not match[1]):
            return True
        position = match.end()
    return False
