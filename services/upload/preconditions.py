"""Parses the preconditions of a change (RFC 9110, 13) into `Preconditions`. Pure."""

from datetime import datetime

from services.common.errors import BadRequest
from services.common.http.dates import parse_http_date
from services.common.http.etags import is_wildcard, iter_etags
from services.common.store.preconditions import Preconditions


def parse_preconditions(
    if_match: str | None, if_none_match: str | None, if_unmodified_since: str | None, now: datetime
) -> Preconditions:
    """Parse the three fields together. Raises BadRequest for a malformed list of tags: ignoring it would overwrite a file.

    If-Unmodified-Since is ignored beside If-Match and where it is not a date (13.1.4).
    """
    match_any = if_match is not None and is_wildcard(if_match)
    none_match_any = if_none_match is not None and is_wildcard(if_none_match)
    # A weak tag never matches in If-Match, whose comparison is strong (13.1.1); in If-None-Match it does (13.1.2).
    etag_in = None if if_match is None or match_any else _parse_etags("If-Match", if_match, weak=False)
    etag_not_in: frozenset[str] = frozenset()
    if if_none_match is not None and not none_match_any:
        etag_not_in = _parse_etags("If-None-Match", if_none_match, weak=True)
    unmodified_since = None
    if if_unmodified_since is not None and if_match is None:
        unmodified_since = parse_http_date(if_unmodified_since, now)
    return Preconditions(none_match_any, match_any, etag_in, etag_not_in, unmodified_since)


def _parse_etags(field_name: str, value: str, *, weak: bool) -> frozenset[str]:
    """Return the opaque tags of a list with their quotes; those of weak tags only with `weak`."""
    try:
        return frozenset(tag.opaque_tag for tag in iter_etags(value) if weak or not tag.weak)
    except ValueError:
        raise BadRequest(f"{field_name} is not a list of entity tags") from None
