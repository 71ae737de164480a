"""The writing side of the store's port: create an upload, write its blocks, commit it or terminate it.

The guarantees are written here; every implementation is tested against them by the same contract tests. A consumer asks for the
smallest protocol that serves it; `UploadStore` is all of them. `media_reader` and `garbage_collector` are the other sides.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from services.common.media import NO_METADATA, MediaInfo, MediaName, Poster, sha256_etag
from services.common.store.preconditions import MUST_NOT_EXIST, NO_PRECONDITIONS, Preconditions
from services.common.store.store_state import FreeSpaceReader, SchemaOwner


@dataclass(frozen=True, slots=True)
class UploadHandle:
    """A writer's handle of an unfinished upload, void as soon as another writer has acquired the upload.

    `upload_id` finds the upload again from any process, and cannot be guessed (`upload_ids`). `store_key` is opaque: only the store
    that made it reads it. `owner` is the subject that created the upload, empty where there is none.
    """

    upload_id: str
    name: MediaName | None
    fencing_token: int
    store_key: str
    owner: str = ""


@dataclass(frozen=True, slots=True)
class NewUpload:
    """What is known of an upload when it is created.

    `length` in bytes. `ttl` is how many seconds after its last byte the upload expires, None for as long as its writer renews the
    lease. `metadata` is the caller's own and returned unchanged. `client` is who creates it, as text that is compared and nothing
    else: where a store limits what is unfinished, it does so for each client. `owner` is the subject of its creator, empty for
    none: the file that the upload becomes has the same owner. `reservation` is how many bytes of the owner's quota are reserved,
    by default `length`, and nothing where that is not known.
    """

    length: int | None = None
    ttl: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    client: str = ""
    owner: str = ""
    reservation: int | None = None

    @property
    def reserved_bytes(self) -> int:
        """The bytes to reserve."""
        return (self.length or 0) if self.reservation is None else self.reservation


@dataclass(frozen=True, slots=True)
class InProgressUpload:
    """The state of an unfinished upload.

    `offset` counts the durable bytes, of which those after the last whole block are in `tail` where the upload was acquired.
    `write_in_progress` says that a writer holds more bytes than are durable yet.
    """

    name: MediaName | None
    offset: int
    tail: bytes
    length: int | None
    metadata: Mapping[str, str]
    expires_at: datetime
    write_in_progress: bool
    owner: str = ""


@dataclass(frozen=True, slots=True)
class FinishedUpload:
    """The outcome of an upload: `stored`, or `lost` because another file has taken its name, or `removed` where its file was
    stored and is no longer the current one: it was deleted or replaced.

    Kept until `expires_at` where the upload had a TTL of its own. `etag` and `sha256` are those of the stored file, None where the
    upload was lost; `sha256` also where the store has none. Only a stored upload need have its `metadata`.
    """

    outcome: Literal["stored", "lost", "removed"]
    name: MediaName | None
    length: int
    etag: str | None
    sha256: str | None
    metadata: Mapping[str, str]
    expires_at: datetime
    owner: str = ""


AcquiredUpload = tuple[UploadHandle, InProgressUpload]

UploadState = InProgressUpload | FinishedUpload | None
"""None where no such upload is known or it has expired."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as its writer counted and hashed it: `length` in bytes, `sha256` in lower-case hex.

    A file without a SHA-256 has an entity tag of the writer's choice, with its quotes; otherwise the tag is derived from `sha256`.
    `metadata_json` and `media_facts_json` are kept with this version of the file and returned unchanged; the second may be None.
    `outcome_ttl` is for how many seconds the outcome of an upload is kept that had no TTL of its own: by default not at all.
    """

    length: int
    content_type: str
    sha256: str | None
    own_etag: str | None = None
    metadata_json: str = NO_METADATA
    media_facts_json: str | None = None
    outcome_ttl: float | None = None

    @property
    def etag(self) -> str:
        """The entity tag that is stored with the file. Raises ValueError where there is nothing to make it of."""
        if self.own_etag is not None:
            return self.own_etag
        if self.sha256 is None:
            raise ValueError("a file without a SHA-256 needs an entity tag")
        return sha256_etag(self.sha256)


@dataclass(frozen=True, slots=True)
class PreviousName:
    """The name that a file had before it was moved, and the revision with which it left that name."""

    name: MediaName
    revision: int


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """An event that is still to be published: stored in the same update as the change itself, so that a crash cannot lose it.

    `info` is the file that became current, or the one that was deleted; its `revision` is the one that this change has made.
    `earlier` are the events of older changes of the name that were unpublished at `read_at`, a time of the monotonic clock: they
    are published before this one, in their order. An event of the type `socket.resync` replaces older events that the store has
    no room for; its `info` is that of the last of them. `to_relay` are the events up to this one that have no deliveries yet, where
    the store relays: a change of a name that has too many raises TooManyRequests. `name_key` is the store's key of the name. Where
    a file was moved, `previous` is there. `previous_owner` is the owner of the file that was replaced.
    """

    id: str
    type: str
    info: MediaInfo
    read_at: float
    earlier: tuple["OutboxEvent", ...] = ()
    to_relay: tuple["OutboxEvent", ...] = ()
    name_key: str = ""
    previous: PreviousName | None = None
    previous_owner: str = ""


class UploadCreator(Protocol):
    """Creates uploads. Raises ServiceUnavailable.

    A store may limit how many unfinished uploads and replaced versions of one name it keeps: TooManyRequests. It may also terminate
    an unfinished upload that has no writer to make room for a new one.
    """

    async def create_upload(
        self, name: MediaName | None, new_upload: NewUpload, preconditions: Preconditions = MUST_NOT_EXIST
    ) -> UploadHandle:
        """Create an upload and acquire its lease. Without a name it is not visible under any; `assign_name` gives it one.

        Raises AlreadyExists or PreconditionFailed where the preconditions do not hold; QuotaExceeded and TooManyRequests where the
        owner has too much.
        """

    async def reserve(self, upload: UploadHandle, length: int) -> None:
        """Reserve `length` bytes in all of the owner's quota, for an upload whose length is not known. Raises QuotaExceeded."""

    async def assign_name(
        self,
        upload: UploadHandle,
        name: MediaName,
        preconditions: Preconditions = MUST_NOT_EXIST,
        *,
        outcome_ttl: float | None = None,
        ttl: float | None = None,
    ) -> UploadHandle:
        """Give an upload its name, or another one; the new handle replaces the old one. Raises as `create_upload`, and Conflict.

        Its play address stays good for `outcome_ttl` seconds, where that is given, as `StoredFile.outcome_ttl` says. It
        expires after `ttl` from then on, as `NewUpload.ttl` says.
        """


class UploadStateReader(Protocol):
    """Reads the state of uploads. Raises ServiceUnavailable."""

    async def get_info(self, upload_id: str) -> UploadState:
        """Return the state at this moment. It may be ahead of what is durable."""

    async def get_durable_info(self, upload_id: str) -> UploadState:
        """Return the durable state: what this has returned once stays true after every crash."""

    def upload_age(self, upload_id: str) -> float | None:
        """Seconds since an upload with that id was created, told from the id alone; None where the id is not of this store's form.

        Tells an upload that expired and was deleted (410) from one that never existed (404).
        """


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A durable offset in bytes, and the length of the file where it is known."""

    offset: int
    length: int | None


class LeaseRenewer(Protocol):
    """Renews and releases leases. Raises ServiceUnavailable."""

    lease_ttl: float
    """Seconds that a lease lasts without `renew_lease`."""

    async def renew_lease(self, upload: UploadHandle) -> None:
        """Extend the lease by `lease_ttl` from now on. Raises Conflict where another writer has acquired the upload."""

    async def release_lease(self, upload: UploadHandle) -> None:
        """Release the lease and leave the upload as it is: its writer holds no bytes that will become durable.

        Has no effect where another writer has acquired the upload.
        """


class BlockWriter(LeaseRenewer, Protocol):
    """Writes blocks and offsets of uploads. Raises ServiceUnavailable, and Conflict with a void handle: nothing has changed."""

    block_size: int
    """Bytes of every block but the last one of a file."""

    async def acquire(self, upload_id: str, fencing_token: int | None = None) -> AcquiredUpload | FinishedUpload | None:
        """Take an unfinished upload over: every older handle is void from here on. Raises Gone where its tail is missing.

        With `fencing_token` only where it is still that: of callers that have seen the same one, one acquires the upload, and the
        others get Conflict.
        """

    async def write_blocks(
        self,
        upload: UploadHandle,
        first_block: int,
        blocks: Sequence[bytes],
        hash_blocks: Callable[[], object] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> datetime | None:
        """Store blocks from number `first_block` on, in place of what was stored there.

        They are durable at the latest when a `set_offset` beyond them or the commit has returned. Only the last block of a file may
        be shorter than `block_size`. `hash_blocks` is called once, in a thread, while the disk or the database is waited for. Where
        this call raises, it may not have been called.

        A store for which that costs less sets `checkpoint` in the same step, as `set_offset` with `keep_lease` does, and returns
        when the upload expires. Otherwise the result is None, and the caller sets it.
        """

    async def truncate_blocks(self, upload: UploadHandle, first_block: int) -> None:
        """Delete the blocks from number `first_block` on. The durable tail stays."""

    async def set_offset(
        self,
        upload: UploadHandle,
        offset: int,
        tail: bytes,
        length: int | None,
        *,
        keep_lease: bool,
        extend_expiry: bool = True,
        durable: bool = False,
    ) -> datetime:
        """Set the durable `offset` that others read; `extend_expiry` where bytes were added. Returns when the upload expires.

        With `keep_lease` the writer goes on: a crash may undo the latest such calls, unless they were `durable`, or
        `get_durable_info` or `acquire` has returned their result. Without it the lease is released.
        """

    def iter_blocks(self, upload: UploadHandle, block_count: int) -> AsyncGenerator[bytes, None]:
        """Yield the first `block_count` blocks. Raises CorruptFile where one is missing or has a wrong length."""


class PartJoiner(Protocol):
    """Joins the bytes of unfinished uploads within the store. Raises ServiceUnavailable, InsufficientStorage."""

    async def join_parts(
        self,
        upload: UploadHandle,
        parts: Sequence[tuple[UploadHandle, int]],
        add_content: Callable[[bytes], object],
        on_progress: Callable[[int], object],
    ) -> bool:
        """Make the bytes of an empty upload of the first bytes of each part, in order; each part comes with their number.

        Returns False where this store cannot do it and has changed nothing: then the caller reads the parts and writes them.
        `add_content` is called in a thread with all bytes as they are stored, in order and one piece after another; `on_progress`
        with how many bytes are joined. Raises CorruptFile where a part has fewer bytes, Conflict where the handle is void.
        """


class UploadCommitter(Protocol):
    """Makes uploads visible."""

    async def commit(
        self, upload: UploadHandle, stored_file: StoredFile, preconditions: Preconditions = MUST_NOT_EXIST
    ) -> OutboxEvent:
        """Make the file current in one step, with the next revision; it is visible after this has returned and never before.

        An unknown outcome is resolved before this returns or raises. Raises AlreadyExists or PreconditionFailed where the
        preconditions do not hold, Conflict where the handle is void, Gone where stored bytes are found to be missing,
        ServiceUnavailable where the outcome stays unknown.
        """


class UploadTerminator(Protocol):
    """Terminates unfinished uploads. Raises ServiceUnavailable."""

    async def abort(self, upload: UploadHandle, *, name_taken: bool = False, second_purge: bool = False) -> None:
        """Delete an unfinished upload and its blocks. Idempotent; not to be called while a `write_blocks` of it is in progress.

        `name_taken` keeps the outcome `lost`. `second_purge` says that a write with an unknown outcome may still arrive: a store in
        which that can happen deletes the blocks again later, others ignore it.
        """


class FileDeleter(Protocol):
    """Deletes committed files, and restores deleted ones."""

    async def delete(self, name: MediaName, preconditions: Preconditions = NO_PRECONDITIONS) -> OutboxEvent | None:
        """Make the current file of that name invisible; None where there is none.

        Raises PreconditionFailed, and ServiceUnavailable where the outcome stays unknown.
        """

    async def restore(self, name: MediaName) -> OutboxEvent:
        """Make the file current again that was deleted last under that name, with all that was known of it.

        Raises Gone where its bytes are not kept any more or none was deleted, AlreadyExists where the name has a file,
        ServiceUnavailable where the outcome stays unknown.
        """


class FileMover(Protocol):
    """Gives committed files other names."""

    async def move_file(
        self, name: MediaName, new_name: MediaName, preconditions: Preconditions = NO_PRECONDITIONS
    ) -> tuple[OutboxEvent, ...] | None:
        """Move the current file of `name` to `new_name`; None where there is none.

        Its id, bytes and all that is known of it stay. It is at exactly one of the names at every moment, whatever fails. The
        revision is greater than all that both names have had. Unfinished uploads and finished ones stay with the name that they
        were begun under, and a file that is stored under it later has an id of its own.

        Returns `file.moved`, and behind it `file.deleted` of the old name where the folder is another: those who may read only that
        one learn nothing else. Raises AlreadyExists where the new name has a file, PreconditionFailed, Conflict where others change
        the names again and again, ServiceUnavailable where the outcome stays unknown.
        """


class PosterWriter(Protocol):
    """Keeps a poster with a file. It belongs to the version: with it, it is moved, restored and deleted."""

    async def set_poster(
        self, name: MediaName, poster: Poster | None, preconditions: Preconditions = NO_PRECONDITIONS
    ) -> OutboxEvent | None:
        """Set the poster of the current file of that name, or remove it; None where there is no file.

        The event is `file.described`. Its bytes count for the owner of the file. Raises PreconditionFailed, also where the file is
        changed meanwhile, QuotaExceeded, ServiceUnavailable where the outcome stays unknown.
        """


class EventAcknowledger(Protocol):
    """Removes published events from the outbox. Raises ServiceUnavailable."""

    async def ack_event(self, event: OutboxEvent) -> None:
        """Remove an event once it is relayed too. It and all earlier ones are published, and are not again. Idempotent."""


class UploadStore(
    UploadCreator,
    UploadStateReader,
    BlockWriter,
    PartJoiner,
    UploadCommitter,
    UploadTerminator,
    FileDeleter,
    FileMover,
    PosterWriter,
    EventAcknowledger,
    FreeSpaceReader,
    SchemaOwner,
    Protocol,
):
    """All that the service that writes needs."""
