"""Resumable uploads at the HTTP edge: tus 1.0.0. It translates header fields and statuses, and knows neither store nor bytes."""

import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from services.common.dates import format_date
from services.common.errors import (
    BadRequest,
    GridcastError,
    MethodNotAllowed,
    PreconditionFailed,
    UnsupportedMediaType,
)
from services.common.media import media_name
from services.common.store.port import Ended, Open, Plan
from services.common.web import problems
from services.upload import tus_rules as rules
from services.upload.concatenate import concatenate
from services.upload.content_types import content_type
from services.upload.digests import repr_digest
from services.upload.edge import Services, body_of, declared_length, digest_checks, services, validators
from services.upload.patches import Patch, Received

router = APIRouter(tags=["tus"])

Text = Annotated[str | None, Header()]
_VERSION = {"tus-resumable": rules.VERSION}
_HEAD: dict[str, Any] = {
    "parameters": [
        {
            "name": "Tus-Resumable",
            "in": "header",
            "required": True,
            "schema": {"type": "string", "const": rules.VERSION},
        }
    ]
}
_BODY: dict[str, Any] = {
    **_HEAD,
    "requestBody": {"content": {rules.CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}}},
}


@contextmanager
def _speaking_tus(request: Request) -> Iterator[None]:
    """Check the version, and put it on every refusal."""
    try:
        if request.headers.get("tus-resumable") != rules.VERSION:
            raise PreconditionFailed(f"Tus-Resumable: {rules.VERSION} is needed", {"tus-version": rules.VERSION})
        yield
    except GridcastError as error:
        error.headers.update(_VERSION)
        raise


def _answer(status: int, headers: dict[str, str]) -> Response:
    return Response(status_code=status, headers={**_VERSION, "cache-control": "no-store", **headers})


@router.options("/file/tus", status_code=204, response_class=Response)
@router.options("/file/tus/{upload}", status_code=204, response_class=Response, include_in_schema=False)
async def tus_options(request: Request) -> Response:
    """What this server can do."""
    headers = {
        "tus-version": rules.VERSION,
        "tus-extension": rules.EXTENSIONS,
        "tus-checksum-algorithm": rules.CHECKSUMS,
        "tus-max-size": str(services(request).limits.max_length),
    }
    return _answer(204, headers)


@router.post(
    "/file/tus",
    status_code=201,
    response_class=Response,
    response_description="the upload began; `Location` names it",
    responses=problems(400, 408, 409, 412, 413, 415, 429, 460, 503, 507),
    openapi_extra=_BODY,
    max_body_size=sys.maxsize,
)
async def tus_create(
    request: Request,
    upload_length: Text = None,
    upload_defer_length: Text = None,
    upload_metadata: Text = None,
    upload_concat: Text = None,
    upload_checksum: Text = None,
) -> Response:
    """Begin an upload: metadata `filename`, optional `filetype`, `folder` and `sid`. It may carry the first bytes."""
    with _speaking_tus(request), body_of(request, "tus") as body:
        own = services(request)
        concat = rules.concat(upload_concat)
        metadata = rules.metadata(upload_metadata or "")
        facts = {"metadata": upload_metadata or ""}
        facts |= {key: metadata[key] for key in ("filetype", "sid") if key in metadata}
        if concat is not None:
            facts["concat"] = (upload_concat or "").strip()
        if concat is not None and concat.parts:
            if upload_length is not None or declared_length(request) != 0:
                raise BadRequest("a final upload has neither Upload-Length nor a body of its own")
            return await _final(own, concat, metadata, facts)
        name = None
        if concat is None:
            name = media_name(metadata.get("folder", ""), metadata.get("filename", ""))
            own.limits.check_type(content_type(metadata.get("filetype", ""), name.filename))
        length = rules.length_of(upload_length, upload_defer_length)
        content = declared_length(request)
        if content != 0:
            _check_content_type(request)
        patch = Patch(0, None, content, [*rules.checksum(upload_checksum), *digest_checks(request)])
        if length is not None and content is not None and content > length:
            raise BadRequest("the body is longer than Upload-Length")
        address, received = await own.resumer.create(name, length, facts, body, patch)
    return await _received(own, received, 201, {"location": f"{rules.PATH}{address}"})


async def _final(own: Services, concat: rules.Concat, metadata: dict[str, str], facts: dict[str, str]) -> Response:
    name = media_name(metadata.get("folder", ""), metadata.get("filename", ""))
    kind = own.limits.check_type(content_type(metadata.get("filetype", ""), name.filename))
    plan = Plan(None, own.settings.upload_expiry, facts)
    progress = own.watch(metadata.get("sid"), name.filename, None)
    address, stored = await concatenate(own.store, own.limits, concat.parts, (name, kind, plan), progress)
    await own.announcer.announce(stored)
    return _answer(201, {"location": f"{rules.PATH}{address}", **validators(stored.info)})


@router.head("/file/tus/{upload}", response_class=Response, responses=problems(404, 410, 412, 503), openapi_extra=_HEAD)
async def tus_look(request: Request, upload: str) -> Response:
    """The durable offset."""
    with _speaking_tus(request):
        found = await services(request).resumer.look(upload)
    headers = {"upload-offset": str(found.offset if isinstance(found, Open) else found.length)}
    length = found.length
    headers |= {"upload-defer-length": "1"} if length is None else {"upload-length": str(length)}
    headers |= {name: found.facts[key] for key, name in _TOLD.items() if found.facts.get(key)}
    if isinstance(found, Ended):
        headers |= {"etag": f'"sha256-{found.sha256}"', "repr-digest": repr_digest(found.sha256)}
    return _answer(200, {**headers, "upload-expires": format_date(found.expires_at)})


_TOLD = {"metadata": "upload-metadata", "concat": "upload-concat"}


@router.patch(
    "/file/tus/{upload}",
    status_code=204,
    response_class=Response,
    response_description="the bytes are durable; with the last of them the file is stored",
    responses=problems(400, 403, 404, 408, 409, 410, 412, 413, 415, 429, 460, 503, 507),
    openapi_extra=_BODY,
    max_body_size=sys.maxsize,
)
async def tus_patch(
    request: Request,
    upload: str,
    upload_offset: Text = None,
    upload_length: Text = None,
    upload_checksum: Text = None,
) -> Response:
    """Send bytes from the offset on. A newer request takes over from an older one, which is cut."""
    with _speaking_tus(request), body_of(request, "tus") as body:
        own = services(request)
        _check_content_type(request)
        if upload_offset is None:
            raise BadRequest("Upload-Offset is missing")
        patch = Patch(
            rules.number("Upload-Offset", upload_offset),
            None if upload_length is None else rules.number("Upload-Length", upload_length),
            declared_length(request),
            [*rules.checksum(upload_checksum), *digest_checks(request)],
        )
        received = await own.resumer.patch(upload, body, patch)
    return await _received(own, received, 204, {})


@router.delete(
    "/file/tus/{upload}",
    status_code=204,
    response_class=Response,
    responses=problems(404, 410, 412, 503),
    openapi_extra=_HEAD,
)
async def tus_end(request: Request, upload: str) -> Response:
    """Give an unfinished upload up."""
    with _speaking_tus(request):
        await services(request).resumer.end(upload)
    return _answer(204, {})


@router.post("/file/tus/{upload}", include_in_schema=False, max_body_size=sys.maxsize)
async def tus_override(request: Request, upload: str) -> Response:
    """X-HTTP-Method-Override, for clients in surroundings that know GET and POST alone."""
    fields = {key: request.headers.get(key) for key in ("upload-offset", "upload-length", "upload-checksum")}
    wanted: dict[str, Callable[[], Awaitable[Response]]] = {
        "PATCH": lambda: tus_patch(request, upload, *fields.values()),
        "DELETE": lambda: tus_end(request, upload),
        "HEAD": lambda: tus_look(request, upload),
    }
    chosen = wanted.get(request.headers.get("x-http-method-override", "").upper())
    if chosen is None:
        raise MethodNotAllowed(
            "this resource does not know that method", {**_VERSION, "allow": "DELETE, HEAD, OPTIONS, PATCH"}
        )
    return await chosen()


def _check_content_type(request: Request) -> None:
    if request.headers.get("content-type", "").strip().lower() != rules.CONTENT_TYPE:
        raise UnsupportedMediaType(f"the bytes are sent as {rules.CONTENT_TYPE}")


async def _received(own: Services, received: Received, status: int, headers: dict[str, str]) -> Response:
    headers = {**headers, "upload-offset": str(received.offset)}
    if received.expires_at is not None:
        headers["upload-expires"] = format_date(received.expires_at)
    if received.stored is not None:
        await own.announcer.announce(received.stored)
    if received.sha256 is not None:
        headers |= {"etag": f'"sha256-{received.sha256}"', "repr-digest": repr_digest(received.sha256)}
    return _answer(status, headers)
