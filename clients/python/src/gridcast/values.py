"""What the client returns: descriptions of files, progress, receipts, events. Plain values; nothing of an HTTP library."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

TransferState = Literal["transferring", "verifying", "done"]
ReceiptStatus = Literal["sent", "queued", "delivered"]


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One stored file.

    `path` is folder and filename; `length` is in bytes; `sha256` is lower-case hex, None where the store has none; `etag` is the
    strong entity tag with its quotes. `revision` counts the changes of the name: of two descriptions the one with the greater
    revision is the newer. `metadata` is what its uploader said of it, `owner` the subject of their token, None without one.
    """

    id: str
    folder: str
    filename: str
    length: int
    content_type: str
    sha256: str | None
    etag: str
    uploaded_at: datetime
    revision: int
    metadata: Mapping[str, Any] = field(default_factory=dict)
    owner: str | None = None

    @property
    def path(self) -> str:
        """Folder and filename, as every method takes them."""
        return f"{self.folder}/{self.filename}" if self.folder else self.filename


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """How far a transfer is, in bytes.

    `transferred` are those sent or received, `durable` those that an interruption cannot lose, `total` is None where the length is
    not known. `verifying`: the SHA-256 of both sides is compared.
    """

    state: TransferState
    transferred: int
    durable: int
    total: int | None


ProgressCallback = Callable[[TransferProgress], None]


@dataclass(frozen=True, slots=True)
class PushReceipt:
    """What is known after a push.

    `sent`: published to the replicas that have subscribers. `queued`: the client is away, and gets the event when it resumes.
    `delivered`, only with `wait`: the client has acknowledged the event. `duplicate`: this id was pushed before, nothing was now.
    """

    status: ReceiptStatus
    id: str
    sequence: str | None
    duplicate: bool


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """One event. `sequence` is its position in the stream, `topic` is None where it did not come by one."""

    type: str
    source: str
    id: str
    data: Any
    sequence: str
    topic: str | None
    time: str | None


@dataclass(frozen=True, slots=True)
class EventGap:
    """Events before the next one may be missing: read the state again over HTTP. `reason` says why."""

    reason: str


@dataclass(frozen=True, slots=True)
class ServerVersion:
    """The name and version that a server states of itself."""

    service: str
    version: str
