"""The errors of all services, each with its HTTP status and a text that is safe to show.

    GridcastError
     +- BadRequest             400  the request is invalid
     +- Unauthorized           401  + WWW-Authenticate
     |   +- InvalidToken            the token is not valid
     +- Forbidden              403
     |   +- InsufficientScope       the token lacks a right
     |   +- InvalidLink             the signed link is not valid
     +- NotFound               404
     +- MethodNotAllowed       405
     +- RequestTimeout         408
     +- Conflict               409
     |   +- AlreadyExists           the name is taken
     +- Gone                   410
     +- PreconditionFailed     412
     +- ContentTooLarge        413
     +- URITooLong             414
     +- UnsupportedMediaType   415
     +- RangeNotSatisfiable    416
     +- ExpectationFailed      417
     +- MisdirectedRequest     421  Host names another server
     +- UpgradeRequired        426
     +- TooManyRequests        429
     +- HeadersTooLarge        431
     +- ChecksumMismatch       460  (tus)
     +- InternalServerError    500  our fault
     +- BadGateway             502
     +- ServiceUnavailable     503  + Retry-After
     +- GatewayTimeout         504
     +- InsufficientStorage    507

Adapters of stores and drivers raise these; `services.common.http.problem` encodes them as responses.
"""

from collections.abc import Mapping
from typing import ClassVar


class GridcastError(Exception):
    """An error with an HTTP status. The client sees `detail` unchanged, so it must contain no secret and no address."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal Server Error"
    detail: str

    def __init__(self, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers: dict[str, str] = dict(headers or {})


class BadRequest(GridcastError):
    """400. The detail begins with "Validation Error: ", as in the tutorial."""

    status = 400
    title = "Bad Request"

    def __init__(self, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"Validation Error: {reason}", headers)


class Unauthorized(GridcastError):
    """401 with the challenge of RFC 6750, 3: without a credential it names no error."""

    status = 401
    title = "Unauthorized"

    def __init__(self, detail: str, challenge: str = "") -> None:
        """`challenge`: the parameters after the realm."""
        parameters = f'Bearer realm="gridcast"{", " if challenge else ""}{challenge}'
        super().__init__(detail, {"www-authenticate": parameters})


class InvalidToken(Unauthorized):
    """401 for a token that is malformed, expired, revoked or not signed by a known key (RFC 6750, 3.1)."""

    def __init__(self, reason: str) -> None:
        """`reason` is text without quotation marks and backslashes."""
        super().__init__(f"the token is not valid: {reason}", f'error="invalid_token", error_description="{reason}"')


class Forbidden(GridcastError):
    """403."""

    status = 403
    title = "Forbidden"


class InsufficientScope(Forbidden):
    """403 for a valid token that lacks a right (RFC 6750, 3.1)."""

    def __init__(self, scope: str) -> None:
        """`scope`: the word that would grant the right, percent-encoded."""
        challenge = f'Bearer realm="gridcast", error="insufficient_scope", scope="{scope}"'
        super().__init__(f"insufficient_scope: this needs the right {scope}", {"www-authenticate": challenge})


class InvalidLink(Forbidden):
    """403 for a signed link that is malformed, late, revoked, not signed by a known key, or for something else."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the link is not valid: {reason}")


class NotFound(GridcastError):
    """404."""

    status = 404
    title = "Not Found"


class MethodNotAllowed(GridcastError):
    """405, always with `Allow` (RFC 9110, 15.5.6)."""

    status = 405
    title = "Method Not Allowed"


class RequestTimeout(GridcastError):
    """408. The client sent too few bytes for too long."""

    status = 408
    title = "Request Timeout"


class Conflict(GridcastError):
    """409."""

    status = 409
    title = "Conflict"


class AlreadyExists(Conflict):
    """409 for a (folder, filename) that is taken."""

    def __init__(self, folder: str, filename: str) -> None:
        super().__init__(f"Not Unique: {filename!r} already exists in folder {folder!r}")


class Gone(GridcastError):
    """410."""

    status = 410
    title = "Gone"


class PreconditionFailed(GridcastError):
    """412 (RFC 9110, 13.1)."""

    status = 412
    title = "Precondition Failed"


class ContentTooLarge(GridcastError):
    """413."""

    status = 413
    title = "Content Too Large"


class URITooLong(GridcastError):
    """414."""

    status = 414
    title = "URI Too Long"


class UnsupportedMediaType(GridcastError):
    """415."""

    status = 415
    title = "Unsupported Media Type"


class RangeNotSatisfiable(GridcastError):
    """416 with `Content-Range: bytes */length` (RFC 9110, 15.5.17). `length` in bytes."""

    status = 416
    title = "Range Not Satisfiable"

    def __init__(self, length: int) -> None:
        super().__init__(
            f"no requested range overlaps the {length} bytes of the file", {"content-range": f"bytes */{length}"}
        )


class ExpectationFailed(GridcastError):
    """417 (RFC 9110, 15.5.18)."""

    status = 417
    title = "Expectation Failed"


class ChecksumMismatch(GridcastError):
    """460, tus's own status (tus 1.0.0, checksum extension)."""

    status = 460
    title = "Checksum Mismatch"


class MisdirectedRequest(GridcastError):
    """421 (RFC 9110, 15.5.20): the Host is not one that this server answers to."""

    status = 421
    title = "Misdirected Request"


class UpgradeRequired(GridcastError):
    """426 for a handshake with a version of the WebSocket protocol that is not supported (RFC 6455, 4.2.2 and 4.4)."""

    status = 426
    title = "Upgrade Required"

    def __init__(self, version: str) -> None:
        """`version`: the supported one."""
        super().__init__(
            f"unsupported WebSocket version: only {version} is supported",
            {"upgrade": "websocket", "connection": "upgrade, close", "sec-websocket-version": version},
        )


class TooManyRequests(GridcastError):
    """429."""

    status = 429
    title = "Too Many Requests"


class HeadersTooLarge(GridcastError):
    """431 (RFC 6585, 5)."""

    status = 431
    title = "Request Header Fields Too Large"


class InternalServerError(GridcastError):
    """500. The log has the cause; the response does not show it."""

    def __init__(self) -> None:
        super().__init__("internal server error")


class BadGateway(GridcastError):
    """502."""

    status = 502
    title = "Bad Gateway"


class ServiceUnavailable(GridcastError):
    """503 with `Retry-After` in seconds."""

    status = 503
    title = "Service Unavailable"

    def __init__(self, detail: str, retry_after: int = 2) -> None:
        super().__init__(detail, {"retry-after": str(retry_after)})


class GatewayTimeout(GridcastError):
    """504."""

    status = 504
    title = "Gateway Timeout"


class InsufficientStorage(GridcastError):
    """507 (RFC 4918, 11.5)."""

    status = 507
    title = "Insufficient Storage"


def drop_tracebacks(error: BaseException) -> None:
    """Drop the traceback of an error that is answered or kept, and those of the errors that led to it.

    A traceback has the frames of all functions that the error went through. Where one of them refers to the error, the two are a
    cycle that keeps everything the request had in memory until the garbage collector comes, which waits for 50,000 objects.
    """
    found: list[BaseException] = [error]
    for one in found:
        one.__traceback__ = None
        found += [other for other in (one.__cause__, one.__context__) if other is not None and other not in found]
