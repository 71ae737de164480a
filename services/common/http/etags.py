"""Parses lists of entity tags, as If-Match and If-None-Match have them (RFC 9110, 8.8.3 and 13.1)."""

import re
from collections.abc import Iterator
from typing import NamedTuple

# Empty list elements are skipped (RFC 9110, 5.6.1.2); a comma inside the quotes belongs to the tag.
_LIST_ITEM = re.compile(r'[ \t,]*(W/)?("[\x21\x23-\x7e\x80-\xff]*")[ \t]*(?:,|\Z)')


class ETag(NamedTuple):
    """An entity tag: `opaque_tag` with its quotes, and whether it is weak."""

    opaque_tag: str
    weak: bool


def is_wildcard(header: str) -> bool:
    """Return whether the value is `*`, which matches every current file."""
    return header.strip(" \t") == "*"


def iter_etags(header: str) -> Iterator[ETag]:
    """Yield the entity tags of a list. Raises ValueError at the first malformed element, after the tags before it."""
    header = header.rstrip(" \t,")
    position = 0
    while position < len(header):
        match = _LIST_ITEM.match(header, position)
        if match is None:
            raise ValueError("not a list of entity tags")
        position = match.end()
        yield ETag(match[2], bool(match[1]))
