"""Effects: what a flow asks its shell to do. A flow is a generator, so one flow serves blocking and asynchronous shells."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar

T = TypeVar("T")
DEFAULT_BODY_LIMIT_BYTES = 4 * 1024 * 1024
JSON_HEADERS = {"content-type": "application/json"}
SOURCE_BLOCK_BYTES = 256 * 1024
"""What is read at once from a source that is sent as one body."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request. `target` is path and query, encoded; `timeout` in seconds without a byte, None for the client's own.

    With `source` the body is read from there, `length` bytes of it.
    """

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    source: "ByteSource | None" = None
    length: int | None = None
    timeout: float | None = None
    body_limit: int = DEFAULT_BODY_LIMIT_BYTES


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """One response; the names of `headers` are lower case. `body` is empty where it is streamed."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


class TransportFault(Exception):
    """No complete response came: no connection, a lost one, a timeout, or bytes that are not HTTP. The text has no address.

    `is_sent` is False where no byte of the request can have reached the server.
    """

    def __init__(self, reason: str, *, is_sent: bool = True) -> None:
        super().__init__(reason)
        self.is_sent = is_sent


class ByteSource(Protocol):
    """Where the bytes of an upload come from."""

    size: int | None
    """Bytes from the first position to the end; None if that is not known."""
    can_rewind: bool
    """Whether `seek` works."""
    fingerprint: str
    """Changes when the file changes; empty where that cannot be noticed."""

    def seek(self, offset: int) -> None:
        """Continue at that byte."""

    def check_unchanged(self) -> None:
        """Raise SourceChanged where the file is another one than at the beginning."""

    def finish_digest(self) -> str:
        """Return the SHA-256 of all bytes in hex, once the last one was read."""

    def close(self) -> None:
        """Release what this object has opened itself."""


class DownloadTarget(Protocol):
    """Where the bytes of a download go."""

    def begin(self, etag: str, length: int) -> int:
        """Prepare for this version; return how many of its bytes are here from earlier. Raises FileChanged if it cannot restart."""

    def write(self, data: bytes) -> None:
        """Append."""

    def finish(self, sha256: str | None) -> None:
        """Compare the digest and put the file into its place. Raises DigestMismatch."""

    def close(self) -> None:
        """Release files; what came is kept for the next attempt."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request and return the HttpResponse with its body. Raises TransportFault."""

    request: HttpRequest


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Send a request and return the HttpResponse: its body is streamed if the status is 200 or 206. Raises TransportFault."""

    request: HttpRequest


@dataclass(frozen=True, slots=True)
class ReadStream:
    """Return the next bytes of the open stream; b"" at its end. Raises TransportFault."""


@dataclass(frozen=True, slots=True)
class CloseStream:
    """Close the open stream, if there is one."""


@dataclass(frozen=True, slots=True)
class ReadSource:
    """Return exactly `size` bytes of a source, and fewer only at its end."""

    source: ByteSource
    size: int


@dataclass(frozen=True, slots=True)
class Local:
    """Call a function that may block on local files, and return its result."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class GetToken:
    """Return the token, or None. `renew` asks the callback again: the server has refused the last one."""

    renew: bool = False


Effect: TypeAlias = Send | OpenStream | ReadStream | CloseStream | ReadSource | Local | Sleep | GetToken
Flow: TypeAlias = Generator[Effect, Any, T]


def call(function: Callable[[], T]) -> Flow[T]:
    """Yield Local, with the type of its result."""
    result: T = yield Local(function)
    return result
