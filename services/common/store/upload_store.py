"""What a store must offer to the service that writes: `UploadStore`, and `Keeper` for its janitor. Readers: `reading.py`.

The guarantees stand here; each implementation is proven against them by the same tests. Nothing here knows MongoDB or SQL.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from services.common.media import MediaInfo, MediaName


@dataclass(frozen=True, slots=True)
class UploadHandle:
    """A writer's hold on an unfinished upload: opaque to callers, and worthless once its fence has been raised by another."""

    record_id: str
    media_id: str
    file_id: str
    fencing_token: int
    name: MediaName | None

    @property
    def upload_id(self) -> str:
        """What finds the upload again, from any process."""
        return f"{self.media_id}-{self.record_id}"


@dataclass(frozen=True, slots=True)
class NewUpload:
    """What is known of an upload when it begins.

    `seconds` is how long it may lie without a byte before it is litter, None for as long as its writer renews the lease; `facts`
    are the caller's own notes, given back unread.
    """

    length: int | None = None
    ttl: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InProgressUpload:
    """An upload that is not finished. `offset` counts the durable bytes; those behind the last whole block are `tail`.

    `writing` says that somebody holds more bytes than are durable yet.
    """

    media_id: str
    name: MediaName | None
    file_id: str
    offset: int
    tail: bytes
    length: int | None
    metadata: Mapping[str, str]
    expires_at: datetime
    write_in_progress: bool


@dataclass(frozen=True, slots=True)
class FinishedUpload:
    """What became of an upload: `stored`, or `lost` to another file of its name.

    Remembered until `expires_at` where the upload had a lifetime of its own.
    """

    outcome: Literal["stored", "lost"]
    name: MediaName | None
    length: int
    sha256: str
    metadata: Mapping[str, str]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Preconditions:
    """What must stand under the name for a change to happen (RFC 9110, 13.1). The empty one accepts anything."""

    must_not_exist: bool = False
    must_exist: bool = False
    sha256_in: frozenset[str] | None = None
    sha256_not_in: frozenset[str] = frozenset()
    """Both: sha256 in lower-case hex."""
    unmodified_since: datetime | None = None
    """In whole seconds, as clients know it."""


NO_PRECONDITIONS = Preconditions()
MUST_NOT_EXIST = Preconditions(must_not_exist=True)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What was stored, as its writer counted and hashed it. `length` in bytes, `sha256` in lower-case hex."""

    length: int
    content_type: str
    sha256: str


@dataclass(frozen=True, slots=True)
class OutboxEvent:
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
    lease_ttl: float
    """Seconds for which a hold lasts without `renew`."""

    async def ensure_schema(self) -> None:
        """Make what the store needs (indexes, tables). Idempotent. Raises Unavailable, or RuntimeError where it cannot be had."""

    async def check_health(self) -> None:
        """Whether the store answers and is prepared. Raises GridcastError."""

    async def get_free_bytes(self) -> int | None:
        """Bytes that still fit in, None where nobody can say."""

    async def create_upload(
        self, name: MediaName | None, new_upload: NewUpload, preconditions: Preconditions = MUST_NOT_EXIST
    ) -> UploadHandle:
        """Start an upload and hold its lease. Without a name it is invisible under any; `rename` gives it one.

        Raises NotUnique or PreconditionFailed where `expected` does not hold, TooMany beyond 64 unfinished uploads of one name.
        """

    async def assign_name(
        self, upload: UploadHandle, name: MediaName, preconditions: Preconditions = MUST_NOT_EXIST
    ) -> UploadHandle:
        """Give a nameless upload its name. Raises as `begin`."""

    def upload_age(self, upload_id: str) -> float | None:
        """Seconds since that upload began, None where the address can be nobody's."""

    async def get_info(self, upload_id: str) -> InProgressUpload | FinishedUpload | None:
        """What is said of an upload just now. It may be ahead of what is durable."""

    async def get_durable_info(self, upload_id: str) -> InProgressUpload | FinishedUpload | None:
        """What is durable of an upload: what this has shown once stays true after every crash."""

    async def acquire(self, upload_id: str) -> tuple[UploadHandle, InProgressUpload] | FinishedUpload | None:
        """Take an upload over from whoever writes it. From here on the older hold is worth nothing."""

    async def write_blocks(self, upload: UploadHandle, first_block: int, blocks: Sequence[bytes]) -> None:
        """Store blocks number `first` and up, durably; what stood there is gone. Only the last one of a file may be short."""

    async def truncate_blocks(self, upload: UploadHandle, first_block: int) -> None:
        """Remove blocks number `first` and up."""

    async def set_offset(
        self,
        upload: UploadHandle,
        offset: int,
        tail: bytes,
        length: int | None,
        *,
        keep_lease: bool,
        extend_expiry: bool = True,
    ) -> datetime:
        """Make `offset` what `look` and `take` show; `moved` where bytes came. Returns when the upload expires.

        While `writing`, a crash may take the last moves back, unless `look` or `take` has shown them.
        Raises TooMany where the tails of all uploads of this name are more than the store can hold.
        """

    async def renew_lease(self, upload: UploadHandle) -> None:
        """Prolong the lease."""

    def iter_blocks(self, upload: UploadHandle, block_count: int) -> AsyncGenerator[bytes, None]:
        """The first `blocks` blocks, as they are stored. Raises BrokenFile where one is missing or misshapen."""

    async def commit(
        self, upload: UploadHandle, stored_file: StoredFile, preconditions: Preconditions = MUST_NOT_EXIST
    ) -> OutboxEvent:
        """Make the file visible in one step. An unknown outcome is read back before this returns or raises.

        Raises NotUnique or PreconditionFailed where `expected` does not hold, Unavailable where the outcome cannot be learnt.
        """

    async def abort(self, upload: UploadHandle, *, name_taken: bool = False, second_purge: bool = False) -> None:
        """Remove an unfinished upload and its blocks. Not to be called while an `append` of it is under way. Idempotent.

        `lost` remembers that another file took the name. `late` says that the outcome of a write is unknown: the blocks are removed
        once more when no write can come any more.
        """

    async def delete(self, name: MediaName, preconditions: Preconditions = NO_PRECONDITIONS) -> OutboxEvent | None:
        """Make the file of that name invisible; None where there is none. Raises PreconditionFailed."""

    async def ack_event(self, event: OutboxEvent) -> None:
        """Forget an event that has been pushed. Idempotent."""


class GarbageCollector(Protocol):
    """Takes away what nobody wants any more. Any number of them may work at once, and each may be killed anywhere."""

    def list_due(self) -> AsyncGenerator[str, None]:
        """What needs attention, by an opaque name."""

    async def collect(self, media_id: str) -> int:
        """Reap uploads that have expired, delete versions whose time has come, forget what is past.

        How many versions and rests of uploads were deleted.
        """

    async def list_unpublished(self, media_id: str) -> Sequence[OutboxEvent]:
        """Events that were noted a while ago and not pushed yet."""

    async def delete_orphans(self) -> int:
        """Delete a day-old part of what belongs to nothing; how many files that were. It looks at a part of the store each time."""
