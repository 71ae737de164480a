"""The reading side of the store's port: find, read and list committed files.

The guarantees are written here; every implementation is tested against them by the same contract tests. A consumer asks for the
smallest protocol that serves it; `MediaReader` is all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from services.common.media import FolderFilter, MediaInfo, MediaName, Poster

Sort = Literal["time", "name", "size"]
"""What a list is sorted by: when a version was uploaded (milliseconds), the bytes of the filename in UTF-8, or the length."""


@dataclass(frozen=True, slots=True)
class PageKey:
    """The position of a file in a list: by what it is sorted by, and by `id` among files that are equal in that.

    `id` is text of the store's own making. The store parses it, because it comes back from clients.
    """

    value: datetime | str | int
    id: str

    @property
    def sort(self) -> Sort:
        """The list that it is a position of."""
        if isinstance(self.value, datetime):
            return "time"
        return "name" if isinstance(self.value, str) else "size"


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Filters and bounds of a list.

    `folder` is one folder, or None for all. `readable` are the folders that the list may show, None for all: they are part of the
    query, so that a page is full and `next_key` names no file that the caller may not see. `filename_contains` is compared without
    regard to case. The page begins after `after`, in the order of `sort`; `descending` from the newest, last or largest on.
    """

    folder: str | None = None
    filename_contains: str = ""
    after: PageKey | None = None
    limit: int = 50
    readable: FolderFilter | None = None
    sort: Sort = "time"
    descending: bool = True


@dataclass(frozen=True, slots=True)
class FolderTotals:
    """How many files a folder has, not counting those below it, and their bytes."""

    folder: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class MediaPage:
    """One page of files, and the key to continue with, None at the end.

    A page may hold fewer files than the limit, or none at all, and still not be the last one.
    """

    files: list[MediaInfo]
    next_key: PageKey | None


class MediaFinder(Protocol):
    """Finds files by name. Raises ServiceUnavailable."""

    async def find(self, name: MediaName) -> MediaInfo | None:
        """Return the current file of that name. Only committed files are found."""


class BlockReader(Protocol):
    """Reads the bytes of files. Raises ServiceUnavailable."""

    block_size: int
    """Bytes of every block but the last one of a file."""

    async def read_blocks(self, info: MediaInfo, first_block: int, last_block: int) -> list[bytes]:
        """Return blocks `first_block` to `last_block` of one file, each whole, in order.

        Fewer are returned where a later block is missing or has a wrong length. Raises CorruptFile where that is `first_block`.
        """


class MediaLister(Protocol):
    """Lists files and folders. Raises ServiceUnavailable."""

    async def list_files(self, list_query: ListQuery) -> MediaPage:
        """Return a page of committed files.

        One call examines a bounded number of names, however few of them match. Raises BadRequest where `after` is no key that this
        store has made, or one of another order.
        """

    async def list_folders(self, after: str | None, limit: int, readable: FolderFilter | None = None) -> list[str]:
        """Return folders that hold a file, ordered by their UTF-8 bytes, beginning after `after`. The empty folder is the first.

        Of `readable` alone, where it is given.
        """

    async def sum_folders(self, folders: Sequence[str]) -> list[FolderTotals]:
        """Return the totals of these folders, in their order."""


class PosterReader(Protocol):
    """Reads posters. Raises ServiceUnavailable."""

    async def read_poster(self, info: MediaInfo) -> Poster | None:
        """Return the poster that a description names; None where it has none, or has another one by now."""


class MediaReader(MediaFinder, BlockReader, MediaLister, PosterReader, Protocol):
    """All that the service that reads needs."""

    async def check_health(self) -> None:
        """Check that the store responds. Raises GridcastError."""
