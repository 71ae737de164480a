"""Preconditions of a change (RFC 9110, 13) as what must stand under the name. Pure."""

import re
from datetime import datetime

from services.common.dates import http_date
from services.common.errors import BadRequest
from services.common.store.port import Expected

_TAGS = re.compile(r'[ \t,]*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*(?:,|\Z)')
_OURS = re.compile(r"sha256-([0-9a-f]{64})\Z")


def expected(
    if_match: str | None, if_none_match: str | None, if_unmodified_since: str | None, now: datetime
) -> Expected:
    """What the fields together ask for. Raises BadRequest for a malformed list of tags: ignoring it would overwrite a file.

    If-Unmodified-Since counts where there is no If-Match, and what is no date does not (13.1.4).
    """
    return Expected(
        absent=_any(if_none_match),
        present=_any(if_match),
        # A weak tag never matches in If-Match, whose comparison is strong (13.1.1); in If-None-Match it does (13.1.2).
        one_of=None if if_match is None or _any(if_match) else _hashes("If-Match", if_match, weak=False),
        none_of=frozenset()
        if if_none_match is None or _any(if_none_match)
        else _hashes("If-None-Match", if_none_match, weak=True),
        unmodified_since=None
        if if_unmodified_since is None or if_match is not None
        else http_date(if_unmodified_since, now),
    )


def _any(field: str | None) -> bool:
    return field is not None and field.strip(" \t") == "*"


def _hashes(name: str, field: str, *, weak: bool) -> frozenset[str]:
    """The hashes in a list of entity tags; tags that were never ours match nothing."""
    found: set[str] = set()
    position = 0
    field = field.rstrip(" \t,")  # empty elements mean nothing (5.6.1.2); those before a tag are in the pattern
    while position < len(field):
        match = _TAGS.match(field, position)
        if match is None:
            raise BadRequest(f"{name} is not a list of entity tags")
        position = match.end()
        ours = _OURS.match(match[2])
        if ours and (weak or not match[1]):
            found.add(ours[1])
    return frozenset(found)
