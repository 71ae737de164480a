"""The endpoints of tus 1.0.0: translate header fields and statuses of resumable uploads."""

import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any

from fastapi import Header, Request, Response

from services.common.auth.credentials import find_link
from services.common.auth.identity import Identity, identity_of, link_of, subject_of
from services.common.auth.play_seals import describe_player
from services.common.errors import (
    BadRequest,
    MethodNotAllowed,
    UnsupportedMediaType,
)
from services.common.http import tus
from services.common.http.dates import format_http_date
from services.common.media import MediaName, validate_media_name
from services.common.store.upload_store import FinishedUpload, InProgressUpload
from services.common.uploads.body import UploadBody
from services.common.web.content_length import parse_content_length
from services.common.web.openapi import openapi_problems
from services.common.web.openapi_examples import parameter_examples
from services.common.web.routers import create_router
from services.common.web.tus_responses import TUS_VERSION_FIELD, require_tus_version, tus_response
from services.common.webhooks.hook_protocol import HookQuestion
from services.upload.content_types import resolve_content_type
from services.upload.endpoints.dependencies import UploadContext, request_body, upload_context
from services.upload.endpoints.request import digest_verifiers
from services.upload.endpoints.response import validator_headers
from services.upload.playback import PLAYER_KEY
from services.upload.tus import headers as tus_headers
from services.upload.tus.by_link import apply_link, check_limits, use_once
from services.upload.tus.concatenation import Concatenator, ConcatTarget
from services.upload.tus.ownership import link_entry
from services.upload.tus.patch import PatchRequest, PatchResult

router = create_router("tus")

HeaderText = Annotated[str | None, Header()]
LengthHeader = Annotated[str | None, Header(description="bytes", openapi_examples=parameter_examples("1024"))]
OffsetHeader = Annotated[str | None, Header(description="bytes", openapi_examples=parameter_examples("0"))]
MetadataHeader = Annotated[
    str | None,
    Header(
        description="keys, each with a value in base64, separated by commas",
        openapi_examples=parameter_examples("filename dHVzLnR4dA=="),
    ),
]
_TUS_OPENAPI: dict[str, Any] = {
    "parameters": [
        {
            "name": "Tus-Resumable",
            "in": "header",
            "required": True,
            # An enum: generators of clients take no constant in a header.
            "schema": {"type": "string", "enum": [tus.TUS_VERSION]},
        }
    ]
}
_TUS_BODY_OPENAPI: dict[str, Any] = {
    **_TUS_OPENAPI,
    "requestBody": {
        "description": f"bytes of the file, as {tus.TUS_CONTENT_TYPE} or as application/octet-stream",
        "content": {tus.GENERIC_CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    },
}
_TUS_PATCH_OPENAPI: dict[str, Any] = {
    **_TUS_OPENAPI,
    "requestBody": {**_TUS_BODY_OPENAPI["requestBody"], "required": True},
}


@router.options("/file/tus", status_code=204, response_class=Response)
@router.options("/file/tus/{upload}", status_code=204, response_class=Response, include_in_schema=False)
async def tus_options(request: Request) -> Response:
    """List what this server supports."""
    headers = {
        "tus-version": tus.TUS_VERSION,
        "tus-extension": tus_headers.TUS_EXTENSIONS,
        "tus-checksum-algorithm": tus_headers.CHECKSUM_ALGORITHMS,
        "tus-max-size": str(upload_context(request).policy.max_size),
    }
    return tus_response(204, headers)


@router.post(
    "/file/tus",
    status_code=201,
    response_class=Response,
    response_description="the upload began; `Location` names it",
    responses=openapi_problems(400, 403, 408, 409, 412, 413, 415, 429, 460, 502, 503, 507),
    openapi_extra=_TUS_BODY_OPENAPI,
    max_body_size=sys.maxsize,
)
async def tus_create(
    request: Request,
    upload_length: LengthHeader = None,
    upload_defer_length: HeaderText = None,
    upload_metadata: MetadataHeader = None,
    upload_concat: HeaderText = None,
    upload_checksum: HeaderText = None,
) -> Response:
    """Create an upload: metadata `filename`, optional `filetype`, `folder` and `sid`. The request may carry the first bytes.

    All other keys become the file's metadata.
    """
    with (
        require_tus_version(request),
        request_body(request, "tus", holds_slot=False) as body,
        ExitStack() as held,
    ):
        context = upload_context(request)
        concat = tus_headers.parse_concat(upload_concat)
        identity = identity_of(request.scope)
        link = link_of(request.scope)
        metadata = apply_link(link, tus_headers.parse_metadata(upload_metadata or ""), is_concat=concat is not None)
        stored_metadata = {"metadata": upload_metadata or ""}
        stored_metadata |= {key: metadata[key] for key in ("filetype", "sid") if key in metadata}
        stored_metadata |= link_entry(identity)
        if "sid" in metadata and identity is not None:
            stored_metadata[PLAYER_KEY] = describe_player(identity)
        context.check_sid(identity, metadata.get("sid"))
        if concat is not None:
            stored_metadata["concat"] = (upload_concat or "").strip()
        if concat is not None and concat.part_ids:
            if upload_length is not None or parse_content_length(request) or not await body.is_empty():
                raise BadRequest("a final upload must have neither Upload-Length nor a body")
            return await _create_final(context, held, body, concat, metadata, stored_metadata, identity)
        length = tus_headers.parse_upload_length(upload_length, upload_defer_length)
        content_length = parse_content_length(request)
        name = None
        if concat is None:
            name, content_type, metadata_json = _parse_new_file(context, metadata)
            check_limits(link, content_type, length)
            answer = await context.ask_hook(partial(_question, name, length, content_type, metadata_json, identity))
            answer.check_media_type(content_type)
            answer.limit(context.policy).check_length(length)
            answer.join_metadata(metadata_json)
            name = answer.place(name)
            stored_metadata |= answer.to_upload_metadata()
        held.enter_context(context.limiter.acquire_slot(body))
        if not _is_tus_content_type(request) and (content_length or not await body.is_empty()):
            raise _unsupported_content_type()
        verifiers = [*tus_headers.parse_checksum(upload_checksum), *digest_verifiers(request)]
        if length is not None and content_length is not None and content_length > length:
            raise BadRequest("the body is longer than Upload-Length")
        async with use_once(link, context.link_uses, context.cleanup):
            upload_id, result = await context.resumable_uploads.create(
                name,
                length,
                stored_metadata,
                subject_of(identity),
                body,
                PatchRequest(0, None, content_length, verifiers),
            )
    # The link is the credential of the requests that follow: a client of tus adds none by itself.
    query = "" if link is None else f"?link={find_link(request.scope['query_string'])}"
    return await _patch_response(context, result, 201, {"location": f"{tus_headers.TUS_PATH}{upload_id}{query}"})


def _parse_new_file(context: UploadContext, metadata: dict[str, str]) -> tuple[MediaName, str, str]:
    """Return the name, the media type and the metadata of the file that Upload-Metadata describes."""
    name = validate_media_name(metadata.get("folder", ""), metadata.get("filename", ""))
    content_type = context.policy.check_media_type(resolve_content_type(metadata.get("filetype", ""), name.filename))
    return name, content_type, tus_headers.encode_metadata_of_file(metadata)


def _question(
    name: MediaName, length: int | None, content_type: str, metadata_json: str, identity: Identity | None
) -> HookQuestion:
    subject = subject_of(identity) or None
    return HookQuestion("tus", name.folder, name.filename, length, content_type, json.loads(metadata_json), subject)


async def _create_final(
    context: UploadContext,
    held: ExitStack,
    body: UploadBody,
    concat: tus_headers.UploadConcat,
    metadata: dict[str, str],
    stored_metadata: dict[str, str],
    identity: Identity | None,
) -> Response:
    name, content_type, metadata_json = _parse_new_file(context, metadata)
    answer = await context.ask_hook(partial(_question, name, None, content_type, metadata_json, identity))
    answer.check_media_type(content_type)
    name, metadata_json = answer.place(name), answer.join_metadata(metadata_json)
    held.enter_context(context.limiter.acquire_slot(body))
    stored_metadata |= answer.to_upload_metadata()
    ttl = context.settings.unfinished_upload_ttl
    target = ConcatTarget(name, content_type, ttl, stored_metadata, metadata_json, body.client, identity)
    progress = context.start_progress(metadata.get("sid"), name.filename, None)
    concatenator = Concatenator(context.store, answer.limit(context.policy), context.disk_space, context.cleanup)
    upload_id, event = await concatenator.concatenate(concat.part_ids, target, progress)
    await context.outbox.publish(event)
    location = {"location": f"{tus_headers.TUS_PATH}{upload_id}"}
    return tus_response(201, location | validator_headers(event.info.etag, event.info.sha256))


@router.head(
    "/file/tus/{upload}",
    response_class=Response,
    responses=openapi_problems(404, 410, 412, 503),
    openapi_extra=_TUS_OPENAPI,
)
async def tus_head(request: Request, upload: str) -> Response:
    """Return the durable offset."""
    with require_tus_version(request):
        uploads = upload_context(request).resumable_uploads
        await uploads.require_visible(upload, identity_of(request.scope))
        state = await uploads.get_durable_info(upload)
    headers = {"upload-offset": str(state.offset if isinstance(state, InProgressUpload) else state.length)}
    length = state.length
    headers |= {"upload-defer-length": "1"} if length is None else {"upload-length": str(length)}
    headers |= {name: state.metadata[key] for key, name in _METADATA_HEADERS.items() if state.metadata.get(key)}
    if isinstance(state, FinishedUpload) and state.etag is not None:
        headers |= validator_headers(state.etag, state.sha256)
    return tus_response(200, {**headers, "upload-expires": format_http_date(state.expires_at)})


_METADATA_HEADERS = {"metadata": "upload-metadata", "concat": "upload-concat"}


@router.patch(
    "/file/tus/{upload}",
    status_code=204,
    response_class=Response,
    response_description="the bytes are durable; with the last of them the file is stored",
    responses=openapi_problems(400, 403, 404, 408, 409, 410, 412, 413, 415, 429, 460, 503, 507),
    openapi_extra=_TUS_PATCH_OPENAPI,
    max_body_size=sys.maxsize,
)
async def tus_patch(
    request: Request,
    upload: str,
    upload_offset: OffsetHeader = None,
    upload_length: HeaderText = None,
    upload_checksum: HeaderText = None,
) -> Response:
    """Append bytes from the offset on. A newer request replaces an older one, which is aborted."""
    with require_tus_version(request), request_body(request, "tus") as body:
        context = upload_context(request)
        if not _is_tus_content_type(request):
            raise _unsupported_content_type()
        if upload_offset is None:
            raise BadRequest("Upload-Offset is missing")
        patch = PatchRequest(
            tus.parse_number("Upload-Offset", upload_offset),
            None if upload_length is None else tus.parse_number("Upload-Length", upload_length),
            parse_content_length(request),
            [*tus_headers.parse_checksum(upload_checksum), *digest_verifiers(request)],
        )
        await context.resumable_uploads.require_visible(upload, identity_of(request.scope))
        result = await context.resumable_uploads.patch(upload, body, patch)
    return await _patch_response(context, result, 204, {})


@router.delete(
    "/file/tus/{upload}",
    status_code=204,
    response_class=Response,
    responses=openapi_problems(404, 410, 412, 503),
    openapi_extra=_TUS_OPENAPI,
)
async def tus_terminate(request: Request, upload: str) -> Response:
    """Delete an unfinished upload."""
    with require_tus_version(request):
        uploads = upload_context(request).resumable_uploads
        await uploads.require_visible(upload, identity_of(request.scope))
        await uploads.terminate(upload)
    return tus_response(204, {})


@router.post("/file/tus/{upload}", include_in_schema=False, max_body_size=sys.maxsize)
async def tus_method_override(request: Request, upload: str) -> Response:
    """X-HTTP-Method-Override, for clients in environments where only GET and POST are possible."""
    fields = {key: request.headers.get(key) for key in ("upload-offset", "upload-length", "upload-checksum")}
    handlers: dict[str, Callable[[], Awaitable[Response]]] = {
        "PATCH": lambda: tus_patch(request, upload, *fields.values()),
        "DELETE": lambda: tus_terminate(request, upload),
        "HEAD": lambda: tus_head(request, upload),
    }
    handler = handlers.get(request.headers.get("x-http-method-override", "").upper())
    if handler is None:
        raise MethodNotAllowed("method not allowed", {**TUS_VERSION_FIELD, "allow": "DELETE, HEAD, OPTIONS, PATCH"})
    return await handler()


def _is_tus_content_type(request: Request) -> bool:
    """Whether the body's type is one of bytes. The generic one is accepted: generated clients can send no other."""
    given = request.headers.get("content-type", "").strip().lower()
    return given in {tus.TUS_CONTENT_TYPE, tus.GENERIC_CONTENT_TYPE}


def _unsupported_content_type() -> UnsupportedMediaType:
    return UnsupportedMediaType(f"the bytes are sent as {tus.TUS_CONTENT_TYPE}")


async def _patch_response(
    context: UploadContext, result: PatchResult, status: int, headers: dict[str, str]
) -> Response:
    headers = {**headers, "upload-offset": str(result.offset)}
    if result.expires_at is not None:
        headers["upload-expires"] = format_http_date(result.expires_at)
    if result.event is not None:
        await context.outbox.publish(result.event)
    if result.etag is not None:
        headers |= validator_headers(result.etag, result.sha256)
    return tus_response(status, headers)
