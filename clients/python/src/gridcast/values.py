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


@dataclass(frozen=True, slots=True)
class SignedLink:
    """A signed link: its holder may read one file (`get`) or upload one (`put`) until `expires_at`, a Unix time in seconds.

    `url` is the address with the link: of the file, or of the endpoint of tus. `link` is the credential alone, and `id` prolongs or
    revokes it, without being one.
    """

    id: str
    kind: Literal["get", "put"]
    path: str
    expires_at: float
    link: str = field(repr=False)
    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RevocationReceipt:
    """A revocation of a token or of a subject. Unix times: tokens issued after `before` are good, after `until` all have ended."""

    subject: str | None
    token_id: str | None
    before: float
    until: float


@dataclass(frozen=True, slots=True)
class EndpointInfo:
    """An endpoint of webhooks and its queue.

    `ended`: it has answered 410 and gets nothing more. `waiting` and `dead` count deliveries, `oldest_seconds` is the age of the
    oldest that waits. `secret` is there only where it was just added.
    """

    id: str
    url: str
    events: tuple[str, ...]
    folders: tuple[str, ...]
    ordered: bool
    source: Literal["settings", "api"]
    ended: bool
    waiting: int
    oldest_seconds: float
    dead: int
    secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class DeliveryInfo:
    """One delivery of an event to an endpoint. `status` is that of the last answer, `error` why the last try failed."""

    id: str
    event_id: str
    endpoint: str
    type: str
    file_id: str
    revision: int
    state: Literal["waiting", "done", "dead"]
    failures: int
    status: int | None
    error: str
    created_at: datetime
    next_at: datetime


@dataclass(frozen=True, slots=True)
class NewLive:
    """A live stream that was made: what its publisher needs.

    `publish_token` is the credential of the publisher, shown this once. `playlist` is for viewers; `media` takes one endless body
    of fragmented MP4, `objects` the objects of a muxer (the token is in it), `tus` bytes that can be resumed. `limits` are what
    the server allows.
    """

    id: str
    path: str
    publish_token: str = field(repr=False)
    playlist: str
    media: str
    objects: str = field(repr=False)
    tus: str
    limits: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LiveInfo:
    """A live stream. `duration` in seconds and `bytes` of what is stored; `reason` is why it has ended.

    `viewers` is how many watch, None where that is not known: in lists, and once it has ended.
    """

    id: str
    state: Literal["waiting", "live", "interrupted", "ended"]
    title: str
    path: str
    owner: str | None
    duration: float
    bytes: int
    segments: int
    playlist: str
    reason: str | None
    viewers: int | None = None


@dataclass(frozen=True, slots=True)
class LiveMessage:
    """A time-coded message of a live stream. `time` is its media time in seconds of the file, in an `epoch` of its sender.

    `date` (RFC 3339) is when the media of that time was captured. `data` is None in the answer of a push, where `duplicate` says
    whether the id was there before.
    """

    id: str
    type: str
    time: float
    epoch: int
    date: str
    data: Any = None
    duplicate: bool = False
