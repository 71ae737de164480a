"""What a store must offer to the service that writes: `UploadStore`, and `Keeper` for its janitor. Readers: `reading.py`.

The guarantees stand here; each implementation is proven against them by the same tests. Nothing here knows MongoDB or SQL.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from services.common.media import MediaInfo, MediaName


@dataclass(frozen=True, slots=True)
class Upload:
    """A writer's hold on an unfinished upload: opaque to callers, and worthless once its fence has been raised by another."""

    id: str
    media: str
    file: str
    fence: int
    name: MediaName | None

    @property
    def address(self) -> str:
        """What finds the upload again, from any process."""
        return f"{self.media}-{self.id}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known of an upload when it begins.

    `seconds` is how long it may lie without a byte before it is litter, None for as long as its writer renews the lease; `facts`
    are the caller's own notes, given back unread.
    """

    length: int | None = None
    seconds: float | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Open:
    """An upload that is not finished. `offset` counts the durable bytes; those behind the last whole block are `tail`.

    `writing` says that somebody holds more bytes than are durable yet.
    """

    media: str
    name: MediaName | None
    file: str
    offset: int
    tail: bytes
    length: int | None
    facts: Mapping[str, str]
    expires_at: datetime
    writing: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of an upload: `stored`, or `lost` to another file of its name.

    Remembered until `expires_at` where the upload had a lifetime of its own.
    """

    outcome: Literal["stored", "lost"]
    name: MediaName | None
    length: int
    sha256: str
    facts: Mapping[str, str]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Expected:
    """What must stand under the name for a change to happen (RFC 9110, 13.1). The empty one accepts anything."""

    absent: bool = False
    present: bool = False
    one_of: frozenset[str] | None = None
    none_of: frozenset[str] = frozenset()
    """Both: sha256 in lower-case hex."""
    unmodified_since: datetime | None = None
    """In whole seconds, as clients know it."""


ANYTHING = Expected()
ABSENT = Expected(absent=True)


@dataclass(frozen=True, slots=True)
class Written:
    """What was stored, as its writer counted and hashed it. `length` in bytes, `sha256` in lower-case hex."""

    length: int
    content_type: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Announcement:
    """An event that must still be pushed: noted in the same update as the change itself, so that a crash cannot lose it.

    `info` is the file that was made current, or the one that was deleted.
    """

    id: str
    type: str
    info: MediaInfo


class UploadStore(Protocol):
    """Writes. A file is visible after `commit` returned and never before; every call may raise Unavailable.

    Whoever calls with a hold whose fence another has raised gets Conflict and has changed nothing.
    """

    block_size: int
    """Bytes of every block but the last."""
    lease: float
    """Seconds for which a hold lasts without `renew`."""

    async def prepare(self) -> None:
        """Make what the store needs (indexes, tables). Idempotent. Raises Unavailable, or RuntimeError where it cannot be had."""

    async def check(self) -> None:
        """Whether the store answers and is prepared. Raises GridcastError."""

    async def free(self) -> int | None:
        """Bytes that still fit in, None where nobody can say."""

    async def begin(self, name: MediaName | None, plan: Plan, expected: Expected = ABSENT) -> Upload:
        """Start an upload and hold its lease. Without a name it is invisible under any; `rename` gives it one.

        Raises NotUnique or PreconditionFailed where `expected` does not hold, TooMany beyond 64 unfinished uploads of one name.
        """

    async def rename(self, upload: Upload, name: MediaName, expected: Expected = ABSENT) -> Upload:
        """Give a nameless upload its name. Raises as `begin`."""

    def age(self, address: str) -> float | None:
        """Seconds since that upload began, None where the address can be nobody's."""

    async def peek(self, address: str) -> Open | Ended | None:
        """What is said of an upload just now. It may be ahead of what is durable."""

    async def look(self, address: str) -> Open | Ended | None:
        """What is durable of an upload: what this has shown once stays true after every crash."""

    async def take(self, address: str) -> tuple[Upload, Open] | Ended | None:
        """Take an upload over from whoever writes it. From here on the older hold is worth nothing."""

    async def append(self, upload: Upload, first: int, blocks: Sequence[bytes]) -> None:
        """Store blocks number `first` and up, durably; what stood there is gone. Only the last one of a file may be short."""

    async def truncate(self, upload: Upload, first: int) -> None:
        """Remove blocks number `first` and up."""

    async def move(
        self, upload: Upload, offset: int, tail: bytes, length: int | None, *, writing: bool, moved: bool = True
    ) -> datetime:
        """Make `offset` what `look` and `take` show; `moved` where bytes came. Returns when the upload expires.

        While `writing`, a crash may take the last moves back, unless `look` or `take` has shown them.
        Raises TooMany where the tails of all uploads of this name are more than the store can hold.
        """

    async def renew(self, upload: Upload) -> None:
        """Prolong the lease."""

    def read_back(self, upload: Upload, blocks: int) -> AsyncGenerator[bytes, None]:
        """The first `blocks` blocks, as they are stored. Raises BrokenFile where one is missing or misshapen."""

    async def commit(self, upload: Upload, written: Written, expected: Expected = ABSENT) -> Announcement:
        """Make the file visible in one step. An unknown outcome is read back before this returns or raises.

        Raises NotUnique or PreconditionFailed where `expected` does not hold, Unavailable where the outcome cannot be learnt.
        """

    async def abort(self, upload: Upload, *, lost: bool = False, late: bool = False) -> None:
        """Remove an unfinished upload and its blocks. Not to be called while an `append` of it is under way. Idempotent.

        `lost` remembers that another file took the name. `late` says that the outcome of a write is unknown: the blocks are removed
        once more when no write can come any more.
        """

    async def delete(self, name: MediaName, expected: Expected = ANYTHING) -> Announcement | None:
        """Make the file of that name invisible; None where there is none. Raises PreconditionFailed."""

    async def announced(self, announcement: Announcement) -> None:
        """Forget an event that has been pushed. Idempotent."""


class Keeper(Protocol):
    """Takes away what nobody wants any more. Any number of them may work at once, and each may be killed anywhere."""

    def due(self) -> AsyncGenerator[str, None]:
        """What needs attention, by an opaque name."""

    async def keep(self, media: str) -> int:
        """Reap uploads that have expired, delete versions whose time has come, forget what is past.

        How many versions and rests of uploads were deleted.
        """

    async def unannounced(self, media: str) -> Sequence[Announcement]:
        """Events that were noted a while ago and not pushed yet."""

    async def strays(self) -> int:
        """Delete a day-old part of what belongs to nothing; how many files that were. It looks at a part of the store each time."""
