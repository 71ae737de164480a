"""DELETE /file/stream: deletes a file."""

from fastapi import APIRouter, Request, Response

from services.common.errors import NotFound
from services.common.media import validate_media_name
from services.common.web.openapi import openapi_problems
from services.upload.endpoints.dependencies import upload_context
from services.upload.endpoints.request import (
    IF_MATCH_PARAMETER,
    IF_UNMODIFIED_SINCE_PARAMETER,
    FilenameParam,
    FolderParam,
    request_preconditions,
)

router = APIRouter(tags=["upload"])


@router.delete(
    "/file/stream",
    status_code=204,
    response_class=Response,
    responses=openapi_problems(400, 404, 412, 503),
    openapi_extra={"parameters": [IF_MATCH_PARAMETER, IF_UNMODIFIED_SINCE_PARAMETER]},
)
async def delete_file(request: Request, filename: FilenameParam, folder: FolderParam = "") -> Response:
    """Delete a file. Downloads in progress still complete."""
    context = upload_context(request)
    event = await context.store.delete(validate_media_name(folder, filename), request_preconditions(request))
    if event is None:
        raise NotFound("file not found")
    await context.outbox.publish(event)
    return Response(status_code=204)
