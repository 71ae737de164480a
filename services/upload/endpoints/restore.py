"""POST /file/restore: undoes the last deletion of a name."""

from typing import Any

from fastapi import Request, Response

from services.common.media import validate_media_name
from services.common.telemetry import metrics
from services.common.web.file_info import FileInfo
from services.common.web.openapi import openapi_problems
from services.common.web.routers import create_router
from services.upload.endpoints.dependencies import upload_context
from services.upload.endpoints.request import FilenameParam, FolderParam
from services.upload.endpoints.response import path_location

router = create_router("files")


@router.post("/file/restore", response_model=FileInfo, responses=openapi_problems(400, 409, 410, 429, 503))
async def restore_file(
    request: Request, response: Response, filename: FilenameParam, folder: FolderParam = ""
) -> dict[str, Any]:
    """Restore the file that was deleted last under a name, with all that was known of it, while its bytes are kept: else 410."""
    context = upload_context(request)
    event = await context.store.restore(validate_media_name(folder, filename))
    metrics.FILE_CHANGES.labels("restored").inc()
    await context.outbox.publish(event)
    response.headers["location"] = path_location(event.info)
    return event.info.to_public_dict()
