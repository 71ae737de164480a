"""PUT and DELETE /file/poster: the small picture of a file."""

import hashlib
from typing import Any

from fastapi import Request, Response

from services.common.errors import BadRequest, ContentTooLarge, NotFound, UnsupportedMediaType
from services.common.media import MediaName, Poster, validate_media_name
from services.common.telemetry import metrics
from services.common.uploads.body import UploadBody
from services.common.web.content_length import parse_content_length
from services.common.web.file_info import FileInfo
from services.common.web.openapi import openapi_problems
from services.common.web.routers import create_router
from services.upload.endpoints.dependencies import request_body, upload_context
from services.upload.endpoints.request import (
    IF_MATCH_PARAMETER,
    IF_UNMODIFIED_SINCE_PARAMETER,
    FilenameParam,
    FolderParam,
    request_preconditions,
)
from services.upload.image_types import detect_image_type

router = create_router("files")

MAX_POSTER_BYTES = 1024 * 1024
_PARAMETERS = [IF_MATCH_PARAMETER, IF_UNMODIFIED_SINCE_PARAMETER]
_BODY: dict[str, Any] = {
    "required": True,
    "description": "a JPEG, PNG, GIF, WebP or AVIF of at most 1 MiB",
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}


@router.put(
    "/file/poster",
    response_model=FileInfo,
    responses=openapi_problems(400, 404, 408, 412, 413, 415, 429, 503, 507),
    openapi_extra={"parameters": _PARAMETERS, "requestBody": _BODY},
    max_body_size=MAX_POSTER_BYTES,
)
async def put_poster(request: Request, filename: FilenameParam, folder: FolderParam = "") -> dict[str, Any]:
    """Set the poster of a file. Its bytes decide its type: 415 for anything but an image that browsers show.

    The conditions are about the file: `If-Match` with its entity tag sets the poster of that version, or none.
    """
    with request_body(request, "poster") as body:
        name = validate_media_name(folder, filename)
        preconditions = request_preconditions(request)
        upload_context(request).disk_space.reserve(parse_content_length(request))
        data = await _read(body, parse_content_length(request))
        if not data:
            raise BadRequest("the body is empty: to remove a poster, DELETE it")
        content_type = detect_image_type(data)
        if content_type is None:
            raise UnsupportedMediaType("a poster is a JPEG, PNG, GIF, WebP or AVIF")
        poster = Poster(data, content_type, hashlib.sha256(data).hexdigest())
        event = await upload_context(request).store.set_poster(name, poster, preconditions)
        return await _publish(request, event)


@router.delete(
    "/file/poster",
    status_code=204,
    response_class=Response,
    responses=openapi_problems(400, 404, 412, 429, 503),
    openapi_extra={"parameters": _PARAMETERS},
)
async def delete_poster(request: Request, filename: FilenameParam, folder: FolderParam = "") -> Response:
    """Remove the poster of a file, where it has one."""
    name: MediaName = validate_media_name(folder, filename)
    context = upload_context(request)
    await _publish(request, await context.store.set_poster(name, None, request_preconditions(request)))
    return Response(status_code=204)


async def _read(body: UploadBody, length: int | None) -> bytes:
    """Return the whole body. Raises ContentTooLarge before more than the limit is kept."""
    if length is not None and length > MAX_POSTER_BYTES:
        raise ContentTooLarge(f"a poster has at most {MAX_POSTER_BYTES} bytes")
    data = bytearray()
    async for piece in body:
        data += piece
        if len(data) > MAX_POSTER_BYTES:
            raise ContentTooLarge(f"a poster has at most {MAX_POSTER_BYTES} bytes")
    return bytes(data)


async def _publish(request: Request, event: Any) -> dict[str, Any]:
    if event is None:
        raise NotFound("file not found")
    metrics.FILE_CHANGES.labels("described").inc()
    await upload_context(request).outbox.publish(event)
    described: dict[str, Any] = event.info.to_public_dict()
    return described
