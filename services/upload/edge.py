"""What every way in shares at the HTTP edge: the services a request uses, its body, what is answered. It decides nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote

from fastapi import Request

from services.common import metrics
from services.common.errors import BadRequest, GridcastError
from services.common.media import MediaInfo
from services.common.store.port import Expected, UploadStore
from services.upload import conditions
from services.upload.announce import Announcer
from services.upload.body import Body
from services.upload.digests import Check, checks, repr_digest
from services.upload.limits import Limits
from services.upload.progress import Watch
from services.upload.resume import Resumer
from services.upload.settings import UploadSettings


@dataclass(frozen=True, slots=True)
class Services:
    """What the lifespan has opened."""

    settings: UploadSettings
    store: UploadStore
    limits: Limits
    announcer: Announcer
    watch: Watch
    resumer: Resumer


def services(request: Request) -> Services:
    """The services of the application that the request came to.

    Raises BadRequest for a query that the framework would mend: bytes that are not UTF-8, one of two values of the same name.
    """
    try:
        pairs = parse_qsl(request.scope["query_string"].decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise BadRequest("the query string is not UTF-8 in percent-encoding") from error
    if len(dict(pairs)) != len(pairs):
        raise BadRequest("a query parameter is given twice")
    found: Services = request.app.state.services
    return found


@contextmanager
def body_of(request: Request, way: str) -> Iterator[Body]:
    """The body, while it is received. A refusal before its end closes the connection: the rest is not worth reading.

    What becomes of it is counted by its `way` in.
    """
    own = services(request)
    body = Body(request.receive, own.settings.min_rate, own.settings.rate_window)
    body.ended = declared_length(request) == 0
    outcome = "cut"
    try:
        with own.limits.entered(body):
            yield body
        outcome = "taken"
    except GridcastError as error:
        outcome = "refused" if error.status < 500 else "failed"
        if not body.ended:
            error.headers["connection"] = "close"
        raise
    finally:
        metrics.UPLOADS.labels(way, outcome).inc()


def declared_length(request: Request) -> int | None:
    """Content-Length in bytes, None for a chunked body. The HTTP parser has refused what is not a number."""
    stated = request.headers.get("content-length")
    if stated is None:
        return None if "transfer-encoding" in request.headers else 0
    if not (stated.isascii() and stated.isdigit()):
        raise BadRequest("Content-Length is not a number")
    return int(stated)


def expected(request: Request) -> Expected:
    """What the request's preconditions ask for."""
    match, none_match = listed(request, "if-match"), listed(request, "if-none-match")
    return conditions.expected(match, none_match, listed(request, "if-unmodified-since"), datetime.now(UTC))


def listed(request: Request, name: str) -> str | None:
    """A field whose lines are one list (RFC 9110, 5.3), None where there is none."""
    lines = request.headers.getlist(name)
    return ", ".join(lines) if lines else None


def digest_checks(request: Request) -> list[Check]:
    """Content-Digest and Repr-Digest. They are the same here: no content coding is taken (RFC 9530, 3)."""
    fields = (("Content-Digest", "content-digest"), ("Repr-Digest", "repr-digest"))
    return [check for name, key in fields for check in checks(name, request.headers.getlist(key))]


def stream_location(info: MediaInfo) -> str:
    """Where the file can be read: relative, so that it is right behind any proxy."""
    return f"/file/stream?filename={quote(info.filename, safe='')}&folder={quote(info.folder, safe='')}"


def validators(info: MediaInfo) -> dict[str, str]:
    """What every way in says of the stored file."""
    return {"etag": info.etag, "repr-digest": repr_digest(info.sha256)}
