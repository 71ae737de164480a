"""The errors that this package raises. Each text names a cause and holds no address, no password and no token.

RequestError                the root of what Client and AsyncClient raise; with `status`, `detail` and `request_id`
+- ServerUnavailable        no response, or 502, 503, 504, after the last attempt
+- AuthenticationRequired   401: no token, or one that is not valid
+- PermissionDenied         403
+- FileMissing              404, 410: no such file, upload or sid
+- NameConflict             409, 412: the name is taken, or the file is not the version that was meant
+- LimitExceeded            413, 429, 507: too large, too many, or no space
+- InvalidRequest           any other 4xx
+- UnexpectedResponse       another 5xx, a redirect, or a response that no Gridcast sends
+- FileChanged              the remote file was replaced while it was read
+- SourceChanged            the local file was changed while it was sent
+- DigestMismatch           what was stored or received has another SHA-256
+- TransferBusy             another process is downloading to the same path
+- SessionEnded             another connection resumed this session, or an operator closed it

PublishError                the root of what gridcast.publish raises
+- InvalidEvent         the event breaks a rule of docs/messages.md (also a ValueError)
|   +- EventTooLarge    the encoded event exceeds 64 KiB
+- RedisUnavailable     Redis refused the connection or the command, or did not respond in time
    +- RedisRefusesWrites   Redis is full, read-only, cannot save its data, or has too few replicas; the text says which
    +- SessionsNotReady     sessions are not registered yet, because Redis has just restarted or has just refused writes
"""


class PublishError(Exception):
    """The root of the tree: no event was published, or it is not known whether one was."""


class InvalidEvent(PublishError, ValueError):
    """A type, topic, id, key or data that the rules do not permit. Nothing was sent to Redis."""


class EventTooLarge(InvalidEvent):
    """The encoded event exceeds the size limit. Nothing was sent to Redis."""


class RedisUnavailable(PublishError):
    """Redis is unavailable. The event may or may not have been published: publish it again with the same `id`."""


class RedisRefusesWrites(RedisUnavailable):
    """Redis responds and takes no writes. The text names the reason. Nothing was published."""


class SessionsNotReady(RedisUnavailable):
    """Redis does not know the sid, and a replica may still register it: Redis has started, or has taken writes again, less than 5 s
    ago. Nothing was published.
    """


class RequestError(Exception):
    """The root of what Client and AsyncClient raise.

    `detail` is one sentence that is safe to show; `status` is the HTTP status, `request_id` the X-Request-ID that finds the request
    in the logs of the server: both None where there was no response.
    """

    def __init__(self, detail: str, *, status: int | None = None, request_id: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.request_id = request_id

    def __str__(self) -> str:
        facts = [
            f"status {self.status}" if self.status else "",
            f"request {self.request_id}" if self.request_id else "",
        ]
        told = ", ".join(filter(None, facts))
        return f"{self.detail} ({told})" if told else self.detail


class ServerUnavailable(RequestError):
    """The server did not respond, or not in time, or responded 502, 503 or 504; the last attempt failed as well."""


class AuthenticationRequired(RequestError):
    """401: the token is missing, not valid, or has expired."""


class PermissionDenied(RequestError):
    """403: the token does not permit this."""


class FileMissing(RequestError):
    """404 or 410: there is no such file, upload or sid."""


class NameConflict(RequestError):
    """409 or 412: the name is taken, or the file is not the version that the caller named."""


class LimitExceeded(RequestError):
    """413, 429 or 507: a body that is too large, too many requests or uploads, or a server without space."""


class InvalidRequest(RequestError, ValueError):
    """A 4xx that names what is wrong with the request, or an argument that cannot be sent."""


class UnexpectedResponse(RequestError):
    """A fault of the server, a redirect, which is never followed, or a response that is not one of a Gridcast."""


class FileChanged(RequestError):
    """The remote file was replaced or deleted while it was read. What was read before is of the old version."""


class SourceChanged(RequestError):
    """The local file was changed while it was sent. Nothing of it stays stored; send it again."""


class DigestMismatch(RequestError):
    """The SHA-256 of both sides differs. Nothing with the wrong content stays stored under the name."""


class TransferBusy(RequestError):
    """Another process is downloading the same version to the same path."""


class SessionEnded(RequestError):
    """The session of a listener is over: another connection has resumed it, or an operator closed it."""
