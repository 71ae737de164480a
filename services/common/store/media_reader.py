"""What a store must offer to the service that reads. The service that writes sees none of this.

The guarantees stand here; each implementation is proven against them by the same tests.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.common.media import MediaInfo, MediaName


@dataclass(frozen=True, slots=True)
class PageKey:
    """A file's place among all files: the newest is first, and the id decides within a millisecond."""

    uploaded_at: datetime
    id: str


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Which files a list shows: those of one folder (None: of all), whose filename contains `text` in any case, behind `after`."""

    folder: str | None = None
    filename_contains: str = ""
    after: PageKey | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class MediaPage:
    """Files, and the place to go on from, None at the end. A page may hold fewer than wanted, even none, and not be the last."""

    files: list[MediaInfo]
    next_key: PageKey | None


class MediaReader(Protocol):
    """Reads what was committed, never anything else. Every call may raise Unavailable."""

    block_size: int

    async def find(self, name: MediaName) -> MediaInfo | None:
        """The current file of that name."""

    async def read_blocks(self, info: MediaInfo, first_block: int, last_block: int) -> list[bytes]:
        """Blocks `first` to `last` of one file, each whole, in order; fewer where a later one is not to be had.

        Raises BrokenFile where `first` is missing or misshapen.
        """

    async def list_files(self, list_query: ListQuery) -> MediaPage:
        """Files, newest first. Every call looks at a bounded number of names, however few of them match."""

    async def list_folders(self, after: str | None, limit: int) -> list[str]:
        """Folders that hold a file, in the order of their UTF-8, behind `after`; the empty one is the first."""

    async def check_health(self) -> None:
        """Whether the store answers. Raises GridcastError."""


class CorruptFile(Exception):
    """Stored bytes are not what their description says."""
