"""What every way in shares at the HTTP edge: the services a request uses, its body, what is answered. It decides nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote

from fastapi import Request

from services.common.errors import BadRequest, GridcastError
from services.common.media import MediaInfo
from services.common.store.upload_store import Preconditions, UploadStore
from services.common.telemetry import metrics
from services.upload import preconditions
from services.upload.body import UploadBody
from services.upload.digests import DigestVerifier, format_repr_digest, parse_digest_field
from services.upload.limits import UploadLimiter
from services.upload.outbox import OutboxPublisher
from services.upload.progress import StartProgress
from services.upload.settings import UploadSettings
from services.upload.tus.resumable_uploads import ResumableUploads


@dataclass(frozen=True, slots=True)
class UploadContext:
    """What the lifespan has opened."""

    settings: UploadSettings
    store: UploadStore
    limiter: UploadLimiter
    outbox: OutboxPublisher
    start_progress: StartProgress
    resumable_uploads: ResumableUploads


def upload_context(request: Request) -> UploadContext:
    """The services of the application that the request came to.

    Raises BadRequest for a query that the framework would mend: bytes that are not UTF-8, one of two values of the same name.
    """
    try:
        pairs = parse_qsl(request.scope["query_string"].decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise BadRequest("the query string is not percent-encoded UTF-8") from error
    if len(dict(pairs)) != len(pairs):
        raise BadRequest("duplicate query parameter")
    found: UploadContext = request.app.state.services
    return found


@contextmanager
def request_body(request: Request, protocol: str) -> Iterator[UploadBody]:
    """The body, while it is received. A refusal before its end closes the connection: the rest is not worth reading.

    What becomes of it is counted by its `way` in.
    """
    own = upload_context(request)
    body = UploadBody(request.receive, own.settings.min_upload_rate, own.settings.upload_rate_window)
    body.at_eof = parse_content_length(request) == 0
    outcome = "aborted"
    try:
        with own.limiter.acquire_slot(body):
            yield body
        outcome = "completed"
    except GridcastError as error:
        outcome = "rejected" if error.status < 500 else "failed"
        if not body.at_eof:
            error.headers["connection"] = "close"
        raise
    finally:
        metrics.UPLOAD_REQUESTS.labels(protocol, outcome).inc()


def parse_content_length(request: Request) -> int | None:
    """Content-Length in bytes, None for a chunked body. The HTTP parser has refused what is not a number."""
    stated = request.headers.get("content-length")
    if stated is None:
        return None if "transfer-encoding" in request.headers else 0
    if not (stated.isascii() and stated.isdigit()):
        raise BadRequest("Content-Length is not a number")
    return int(stated)


def request_preconditions(request: Request) -> Preconditions:
    """What the request's preconditions ask for."""
    match, none_match = combined_header(request, "if-match"), combined_header(request, "if-none-match")
    return preconditions.parse_preconditions(
        match, none_match, combined_header(request, "if-unmodified-since"), datetime.now(UTC)
    )


def combined_header(request: Request, name: str) -> str | None:
    """A field whose lines are one list (RFC 9110, 5.3), None where there is none."""
    lines = request.headers.getlist(name)
    return ", ".join(lines) if lines else None


def digest_verifiers(request: Request) -> list[DigestVerifier]:
    """Content-Digest and Repr-Digest. They are the same here: no content coding is taken (RFC 9530, 3)."""
    fields = (("Content-Digest", "content-digest"), ("Repr-Digest", "repr-digest"))
    return [check for name, key in fields for check in parse_digest_field(name, request.headers.getlist(key))]


def stream_location(info: MediaInfo) -> str:
    """Where the file can be read: relative, so that it is right behind any proxy."""
    return f"/file/stream?filename={quote(info.filename, safe='')}&folder={quote(info.folder, safe='')}"


def validator_headers(info: MediaInfo) -> dict[str, str]:
    """What every way in says of the stored file."""
    return {"etag": info.etag, "repr-digest": format_repr_digest(info.sha256)}
