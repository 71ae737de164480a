"""Resumable uploads at the HTTP edge: tus 1.0.0. It translates header fields and statuses, and knows neither store nor bytes."""

import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from services.common.errors import (
    BadRequest,
    GridcastError,
    MethodNotAllowed,
    PreconditionFailed,
    UnsupportedMediaType,
)
from services.common.http.dates import format_http_date
from services.common.media import validate_media_name
from services.common.store.upload_store import FinishedUpload, InProgressUpload, NewUpload
from services.common.web.app_factory import openapi_problems
from services.upload.content_types import resolve_content_type
from services.upload.digests import format_repr_digest
from services.upload.endpoints.dependencies import (
    UploadContext,
    digest_verifiers,
    parse_content_length,
    request_body,
    upload_context,
    validator_headers,
)
from services.upload.tus import headers as rules
from services.upload.tus.concatenation import concatenate
from services.upload.tus.patch import PatchRequest, PatchResult

router = APIRouter(tags=["tus"])

HeaderText = Annotated[str | None, Header()]
_TUS_VERSION_HEADER = {"tus-resumable": rules.TUS_VERSION}
_TUS_OPENAPI: dict[str, Any] = {
    "parameters": [
        {
            "name": "Tus-Resumable",
            "in": "header",
            "required": True,
            "schema": {"type": "string", "const": rules.TUS_VERSION},
        }
    ]
}
_TUS_BODY_OPENAPI: dict[str, Any] = {
    **_TUS_OPENAPI,
    "requestBody": {"content": {rules.TUS_CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}}},
}


@contextmanager
def _require_tus_version(request: Request) -> Iterator[None]:
    """Check the version, and put it on every refusal."""
    try:
        if request.headers.get("tus-resumable") != rules.TUS_VERSION:
            raise PreconditionFailed(
                f"Tus-Resumable: {rules.TUS_VERSION} is needed", {"tus-version": rules.TUS_VERSION}
            )
        yield
    except GridcastError as error:
        error.headers.update(_TUS_VERSION_HEADER)
        raise


def _tus_response(status: int, headers: dict[str, str]) -> Response:
    return Response(status_code=status, headers={**_TUS_VERSION_HEADER, "cache-control": "no-store", **headers})


@router.options("/file/tus", status_code=204, response_class=Response)
@router.options("/file/tus/{upload}", status_code=204, response_class=Response, include_in_schema=False)
async def tus_options(request: Request) -> Response:
    """What this server can do."""
    headers = {
        "tus-version": rules.TUS_VERSION,
        "tus-extension": rules.TUS_EXTENSIONS,
        "tus-checksum-algorithm": rules.CHECKSUM_ALGORITHMS,
        "tus-max-size": str(upload_context(request).limiter.max_size),
    }
    return _tus_response(204, headers)


@router.post(
    "/file/tus",
    status_code=201,
    response_class=Response,
    response_description="the upload began; `Location` names it",
    responses=openapi_problems(400, 408, 409, 412, 413, 415, 429, 460, 503, 507),
    openapi_extra=_TUS_BODY_OPENAPI,
    max_body_size=sys.maxsize,
)
async def tus_create(
    request: Request,
    upload_length: HeaderText = None,
    upload_defer_length: HeaderText = None,
    upload_metadata: HeaderText = None,
    upload_concat: HeaderText = None,
    upload_checksum: HeaderText = None,
) -> Response:
    """Begin an upload: metadata `filename`, optional `filetype`, `folder` and `sid`. It may carry the first bytes."""
    with _require_tus_version(request), request_body(request, "tus") as body:
        own = upload_context(request)
        concat = rules.parse_concat(upload_concat)
        metadata = rules.parse_metadata(upload_metadata or "")
        facts = {"metadata": upload_metadata or ""}
        facts |= {key: metadata[key] for key in ("filetype", "sid") if key in metadata}
        if concat is not None:
            facts["concat"] = (upload_concat or "").strip()
        if concat is not None and concat.part_ids:
            if upload_length is not None or parse_content_length(request) != 0:
                raise BadRequest("a final upload must have neither Upload-Length nor a body")
            return await _create_final(own, concat, metadata, facts)
        name = None
        if concat is None:
            name = validate_media_name(metadata.get("folder", ""), metadata.get("filename", ""))
            own.limiter.check_media_type(resolve_content_type(metadata.get("filetype", ""), name.filename))
        length = rules.parse_upload_length(upload_length, upload_defer_length)
        content = parse_content_length(request)
        if content != 0:
            _check_content_type(request)
        patch = PatchRequest(0, None, content, [*rules.parse_checksum(upload_checksum), *digest_verifiers(request)])
        if length is not None and content is not None and content > length:
            raise BadRequest("the body is longer than Upload-Length")
        address, received = await own.resumable_uploads.create(name, length, facts, body, patch)
    return await _patch_response(own, received, 201, {"location": f"{rules.TUS_PATH}{address}"})


async def _create_final(
    context: UploadContext, concat: rules.UploadConcat, metadata: dict[str, str], stored_metadata: dict[str, str]
) -> Response:
    name = validate_media_name(metadata.get("folder", ""), metadata.get("filename", ""))
    kind = context.limiter.check_media_type(resolve_content_type(metadata.get("filetype", ""), name.filename))
    plan = NewUpload(None, context.settings.unfinished_upload_ttl, stored_metadata)
    progress = context.start_progress(metadata.get("sid"), name.filename, None)
    address, stored = await concatenate(context.store, context.limiter, concat.part_ids, (name, kind, plan), progress)
    await context.outbox.publish(stored)
    return _tus_response(201, {"location": f"{rules.TUS_PATH}{address}", **validator_headers(stored.info)})


@router.head(
    "/file/tus/{upload}",
    response_class=Response,
    responses=openapi_problems(404, 410, 412, 503),
    openapi_extra=_TUS_OPENAPI,
)
async def tus_head(request: Request, upload: str) -> Response:
    """The durable offset."""
    with _require_tus_version(request):
        found = await upload_context(request).resumable_uploads.get_durable_info(upload)
    headers = {"upload-offset": str(found.offset if isinstance(found, InProgressUpload) else found.length)}
    length = found.length
    headers |= {"upload-defer-length": "1"} if length is None else {"upload-length": str(length)}
    headers |= {name: found.metadata[key] for key, name in _METADATA_HEADERS.items() if found.metadata.get(key)}
    if isinstance(found, FinishedUpload):
        headers |= {"etag": f'"sha256-{found.sha256}"', "repr-digest": format_repr_digest(found.sha256)}
    return _tus_response(200, {**headers, "upload-expires": format_http_date(found.expires_at)})


_METADATA_HEADERS = {"metadata": "upload-metadata", "concat": "upload-concat"}


@router.patch(
    "/file/tus/{upload}",
    status_code=204,
    response_class=Response,
    response_description="the bytes are durable; with the last of them the file is stored",
    responses=openapi_problems(400, 403, 404, 408, 409, 410, 412, 413, 415, 429, 460, 503, 507),
    openapi_extra=_TUS_BODY_OPENAPI,
    max_body_size=sys.maxsize,
)
async def tus_patch(
    request: Request,
    upload: str,
    upload_offset: HeaderText = None,
    upload_length: HeaderText = None,
    upload_checksum: HeaderText = None,
) -> Response:
    """Send bytes from the offset on. A newer request takes over from an older one, which is cut."""
    with _require_tus_version(request), request_body(request, "tus") as body:
        own = upload_context(request)
        _check_content_type(request)
        if upload_offset is None:
            raise BadRequest("Upload-Offset is missing")
        patch = PatchRequest(
            rules.parse_number("Upload-Offset", upload_offset),
            None if upload_length is None else rules.parse_number("Upload-Length", upload_length),
            parse_content_length(request),
            [*rules.parse_checksum(upload_checksum), *digest_verifiers(request)],
        )
        received = await own.resumable_uploads.patch(upload, body, patch)
    return await _patch_response(own, received, 204, {})


@router.delete(
    "/file/tus/{upload}",
    status_code=204,
    response_class=Response,
    responses=openapi_problems(404, 410, 412, 503),
    openapi_extra=_TUS_OPENAPI,
)
async def tus_terminate(request: Request, upload: str) -> Response:
    """Give an unfinished upload up."""
    with _require_tus_version(request):
        await upload_context(request).resumable_uploads.terminate(upload)
    return _tus_response(204, {})


@router.post("/file/tus/{upload}", include_in_schema=False, max_body_size=sys.maxsize)
async def tus_method_override(request: Request, upload: str) -> Response:
    """X-HTTP-Method-Override, for clients in surroundings that know GET and POST alone."""
    fields = {key: request.headers.get(key) for key in ("upload-offset", "upload-length", "upload-checksum")}
    wanted: dict[str, Callable[[], Awaitable[Response]]] = {
        "PATCH": lambda: tus_patch(request, upload, *fields.values()),
        "DELETE": lambda: tus_terminate(request, upload),
        "HEAD": lambda: tus_head(request, upload),
    }
    chosen = wanted.get(request.headers.get("x-http-method-override", "").upper())
    if chosen is None:
        raise MethodNotAllowed("method not allowed", {**_TUS_VERSION_HEADER, "allow": "DELETE, HEAD, OPTIONS, PATCH"})
    return await chosen()


def _check_content_type(request: Request) -> None:
    if request.headers.get("content-type", "").strip().lower() != rules.TUS_CONTENT_TYPE:
        raise UnsupportedMediaType(f"the bytes are sent as {rules.TUS_CONTENT_TYPE}")


async def _patch_response(
    context: UploadContext, result: PatchResult, status: int, headers: dict[str, str]
) -> Response:
    headers = {**headers, "upload-offset": str(result.offset)}
    if result.expires_at is not None:
        headers["upload-expires"] = format_http_date(result.expires_at)
    if result.event is not None:
        await context.outbox.publish(result.event)
    if result.sha256 is not None:
        headers |= {"etag": f'"sha256-{result.sha256}"', "repr-digest": format_repr_digest(result.sha256)}
    return _tus_response(status, headers)
