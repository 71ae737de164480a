"""Compares the version that a signed link is for with the one that a request has found. Pure."""

from collections.abc import Iterator
from contextlib import contextmanager

from services.common.auth.signed_links import Link
from services.common.errors import InvalidLink, NotFound
from services.common.media import MediaInfo


def require_version(link: Link, info: MediaInfo) -> None:
    """Raise InvalidLink where a link is for another version of the file."""
    if link.version and link.version != info.file_id:
        raise InvalidLink("its file was replaced")


@contextmanager
def version_must_exist(link: Link | None) -> Iterator[None]:
    """Make InvalidLink of the NotFound of a look-up where a link is for a version that is gone."""
    try:
        yield
    except NotFound:
        if link is None or not link.version:
            raise
        raise InvalidLink("its file was deleted") from None
