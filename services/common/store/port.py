"""What a store must offer, as two protocols: `UploadStore` for the service that writes, `MediaReader` for the one that reads.

The guarantees stand here; each implementation is proven against them by the same tests. Nothing here knows MongoDB or SQL.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.common.media import MediaInfo, MediaName


@dataclass(frozen=True, slots=True)
class Upload:
    """A writer's hold on an unfinished upload: opaque to callers, and worthless once its fence has been raised by another."""

    id: str
    media: str
    file: str
    fence: int
    name: MediaName | None


@dataclass(frozen=True, slots=True)
class Written:
    """What was stored, as its writer counted and hashed it. `length` in bytes, `sha256` in lower-case hex."""

    length: int
    content_type: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Announcement:
    """An event that must still be pushed: noted in the same update as the change itself, so that a crash cannot lose it."""

    id: str
    type: str
    media: str


class UploadStore(Protocol):
    """Writes. A file is visible after `commit` returned and never before; every call may raise Unavailable."""

    block_size: int
    """Bytes of every block but the last."""

    async def prepare(self) -> None:
        """Make what the store needs (indexes, tables). Idempotent. Raises Unavailable, or RuntimeError where it cannot be had."""

    async def check(self) -> None:
        """Whether the store answers and is prepared. Raises GridcastError."""

    async def begin(self, name: MediaName | None) -> Upload:
        """Start an upload and hold its lease. Without a name it is invisible under any; `rename` gives it one.

        Raises NotUnique where a file of that name exists, TooMany beyond 64 unfinished uploads of one name.
        """

    async def rename(self, upload: Upload, name: MediaName) -> Upload:
        """Give a nameless upload its name. Raises as `begin`, and Conflict where the fence was lost."""

    async def append(self, upload: Upload, first: int, blocks: Sequence[bytes]) -> None:
        """Store blocks number `first` and up, durably. Only the last block of a file may be short."""

    async def renew(self, upload: Upload) -> None:
        """Prolong the lease. Raises Conflict where the fence was lost."""

    async def commit(self, upload: Upload, written: Written) -> tuple[MediaInfo, Announcement]:
        """Make the file visible in one step. An unknown outcome is read back before this returns or raises.

        Raises NotUnique where another file took the name, Conflict where the fence was lost, Unavailable where the outcome cannot
        be learnt.
        """

    async def abort(self, upload: Upload) -> None:
        """Remove an unfinished upload and its blocks. Not to be called while an `append` of it is under way. Idempotent."""

    async def announced(self, announcement: Announcement) -> None:
        """Forget an event that has been pushed. Idempotent."""


class MediaReader(Protocol):
    """Reads what was committed, never anything else."""

    block_size: int

    async def find(self, name: MediaName) -> MediaInfo | None:
        """The current file of that name."""

    def read(self, info: MediaInfo, first: int, last: int) -> AsyncGenerator[bytes, None]:
        """Blocks `first` to `last` of one file, whole and in order. Raises BrokenFile where one is missing or misshapen."""

    async def check(self) -> None:
        """Whether the store answers. Raises GridcastError."""


class BrokenFile(Exception):
    """Stored bytes are not what their description says."""
