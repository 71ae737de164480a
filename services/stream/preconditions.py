"""Evaluates conditional requests (RFC 9110, 13) and If-Range."""

import re
from collections.abc import Mapping
from datetime import datetime
from enum import Enum

from services.common.http.dates import parse_http_date
from services.common.http.etags import is_wildcard, iter_etags

_CACHE_BYPASS = re.compile(r"(?:\A|,)[ \t]*(?:no-cache|no-store|max-age=0+)[ \t]*(?:,|\Z)", re.ASCII | re.IGNORECASE)


class PreconditionResult(Enum):
    """The status that the preconditions lead to."""

    PROCEED = 200
    NOT_MODIFIED = 304
    FAILED = 412


def evaluate_preconditions(
    headers: Mapping[str, str], etag: str, last_modified: datetime, now: datetime
) -> PreconditionResult:
    """Evaluate the preconditions of a GET or HEAD in the order of RFC 9110, 13.2.2.

    Args:
        headers: the request's headers, names in lower case.
        etag: the strong entity tag of the file.
        last_modified: in whole seconds of UTC.
        now: the time, for dates with two-digit years.

    """
    if (wanted := headers.get("if-match")) is not None:
        if not _etag_list_matches(wanted, etag, weak=False):
            return PreconditionResult.FAILED
    elif (text := headers.get("if-unmodified-since")) is not None:
        since = parse_http_date(text, now)
        if since is not None and last_modified > since:
            return PreconditionResult.FAILED
    if (known := headers.get("if-none-match")) is not None:
        return (
            PreconditionResult.NOT_MODIFIED
            if _etag_list_matches(known, etag, weak=True)
            else PreconditionResult.PROCEED
        )
    if (text := headers.get("if-modified-since")) is not None:
        since = parse_http_date(text, now)
        if since is not None and last_modified <= since:
            return PreconditionResult.NOT_MODIFIED
    return PreconditionResult.PROCEED


def if_range_matches(headers: Mapping[str, str], etag: str) -> bool:
    """Return whether Range applies in spite of If-Range (RFC 9110, 13.1.5): only with the current strong entity tag.

    A date never matches: two versions may have been stored within its second (8.8.2.2). A conforming client sends no date, because
    every response has an entity tag.
    """
    validator = headers.get("if-range")
    return validator is None or validator.strip(" \t") == etag


def bypasses_cache(cache_control: str) -> bool:
    """Return whether a request's Cache-Control (RFC 9111, 5.2.1) excludes a cached response."""
    return bool(cache_control) and _CACHE_BYPASS.search(cache_control) is not None


def _etag_list_matches(header: str, etag: str, *, weak: bool) -> bool:
    """Return whether a list of entity tags, or `*`, matches. What follows a malformed element is ignored."""
    if is_wildcard(header):
        return True
    try:
        return any(tag.opaque_tag == etag and (weak or not tag.weak) for tag in iter_etags(header))
    except ValueError:
        return False
