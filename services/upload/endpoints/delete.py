"""DELETE /file/stream and /files/...: deletes a file."""

from collections.abc import Callable
from typing import Any

from fastapi import Request, Response

from services.common.errors import NotFound
from services.common.media import MediaName, validate_media_name
from services.common.telemetry import metrics
from services.common.web.openapi import openapi_problems
from services.common.web.routers import create_router
from services.upload.endpoints.dependencies import upload_context
from services.upload.endpoints.request import (
    IF_MATCH_PARAMETER,
    IF_UNMODIFIED_SINCE_PARAMETER,
    FilenameParam,
    FolderParam,
    PathParam,
    request_media_path,
    request_preconditions,
)

router = create_router("files")


_DELETE_ROUTE: dict[str, Any] = {
    "status_code": 204,
    "response_class": Response,
    "responses": openapi_problems(400, 404, 412, 429, 503),
    "openapi_extra": {"parameters": [IF_MATCH_PARAMETER, IF_UNMODIFIED_SINCE_PARAMETER]},
}


@router.delete("/file/stream", **_DELETE_ROUTE)
async def delete_file(request: Request, filename: FilenameParam, folder: FolderParam = "") -> Response:
    """Delete a file. Downloads in progress still complete."""
    return await _delete(request, lambda: validate_media_name(folder, filename))


@router.delete("/files/{path:path}", **_DELETE_ROUTE)
async def delete_file_by_path(request: Request, path: PathParam) -> Response:
    """The same by the path address of the file: its folder, a slash, its filename, each segment percent-encoded."""
    del path  # Starlette has decoded it; the raw path is decoded segment by segment
    return await _delete(request, lambda: request_media_path(request))


async def _delete(request: Request, parse_name: Callable[[], MediaName]) -> Response:
    context = upload_context(request)
    event = await context.store.delete(parse_name(), request_preconditions(request))
    if event is None:
        raise NotFound("file not found")
    metrics.FILE_CHANGES.labels("deleted").inc()
    await context.outbox.publish(event)
    return Response(status_code=204)
