"""Preconditions of a change: what must hold of the current version of a name. Values that name no driver."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Preconditions:
    """What must be true of the name's current file for a change to happen (RFC 9110, 13.1). The default accepts everything.

    `must_not_exist` and `must_exist` ask whether there is a current file. Entity tags are compared with `MediaInfo.etag`, quotes
    included; where there is no file, `etag_in` fails and `etag_not_in` holds. `unmodified_since` in whole seconds, as clients
    know it.
    """

    must_not_exist: bool = False
    must_exist: bool = False
    etag_in: frozenset[str] | None = None
    etag_not_in: frozenset[str] = frozenset()
    unmodified_since: datetime | None = None


NO_PRECONDITIONS = Preconditions()
MUST_NOT_EXIST = Preconditions(must_not_exist=True)
