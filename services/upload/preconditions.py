"""Preconditions of a change (RFC 9110, 13) as what must stand under the name. Pure."""

import re
from datetime import datetime

from services.common.errors import BadRequest
from services.common.http.dates import parse_http_date
from services.common.store.upload_store import Preconditions

_ENTITY_TAG = re.compile(r'[ \t,]*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*(?:,|\Z)')
_SHA256_TAG = re.compile(r"sha256-([0-9a-f]{64})\Z")


def parse_preconditions(
    if_match: str | None, if_none_match: str | None, if_unmodified_since: str | None, now: datetime
) -> Preconditions:
    """What the fields together ask for. Raises BadRequest for a malformed list of tags: ignoring it would overwrite a file.

    If-Unmodified-Since counts where there is no If-Match, and what is no date does not (13.1.4).
    """
    return Preconditions(
        must_not_exist=_is_wildcard(if_none_match),
        must_exist=_is_wildcard(if_match),
        # A weak tag never matches in If-Match, whose comparison is strong (13.1.1); in If-None-Match it does (13.1.2).
        sha256_in=None
        if if_match is None or _is_wildcard(if_match)
        else _parse_tag_hashes("If-Match", if_match, weak=False),
        sha256_not_in=frozenset()
        if if_none_match is None or _is_wildcard(if_none_match)
        else _parse_tag_hashes("If-None-Match", if_none_match, weak=True),
        unmodified_since=None
        if if_unmodified_since is None or if_match is not None
        else parse_http_date(if_unmodified_since, now),
    )


def _is_wildcard(value: str | None) -> bool:
    return value is not None and value.strip(" \t") == "*"


def _parse_tag_hashes(name: str, value: str, *, weak: bool) -> frozenset[str]:
    """The hashes in a list of entity tags; tags that were never ours match nothing."""
    found: set[str] = set()
    position = 0
    value = value.rstrip(" \t,")  # empty elements mean nothing (5.6.1.2); those before a tag are in the pattern
    while position < len(value):
        match = _ENTITY_TAG.match(value, position)
        if match is None:
            raise BadRequest(f"{name} is not a list of entity tags")
        position = match.end()
        ours = _SHA256_TAG.match(match[2])
        if ours and (weak or not match[1]):
            found.add(ours[1])
    return frozenset(found)
