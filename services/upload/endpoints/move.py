"""PATCH /file: gives a file another name, in the same folder or another one."""

from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from services.common.auth.authorization import missing_right
from services.common.auth.identity import identity_of
from services.common.errors import BadRequest, NotFound
from services.common.media import validate_folder, validate_media_name
from services.common.telemetry import metrics
from services.common.web.file_info import FileInfo
from services.common.web.json_route import JSONRoute
from services.common.web.openapi import openapi_problems
from services.common.web.routers import create_router
from services.upload.endpoints.dependencies import upload_context
from services.upload.endpoints.request import (
    IF_MATCH_PARAMETER,
    IF_UNMODIFIED_SINCE_PARAMETER,
    FilenameParam,
    FolderParam,
    request_preconditions,
)
from services.upload.endpoints.response import path_location

router = create_router("files", route_class=JSONRoute)


class MoveRequest(BaseModel):
    """The new name. What is missing stays."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"filename": "renamed.webm"}]})

    filename: str | None = Field(None, description="the new filename")
    folder: str | None = Field(None, description="the new folder; empty is the topmost one")


@router.patch(
    "/file",
    response_model=FileInfo,
    responses=openapi_problems(400, 404, 409, 412, 413, 415, 429, 503),
    openapi_extra={"parameters": [IF_MATCH_PARAMETER, IF_UNMODIFIED_SINCE_PARAMETER]},
)
async def move_file(
    request: Request, response: Response, new_name: MoveRequest, filename: FilenameParam, folder: FolderParam = ""
) -> dict[str, Any]:
    """Rename a file, or move it to another folder, where the right `write` is needed too. Its id and its bytes stay.

    Downloads in progress still complete. A name that another file has is 409.
    """
    context = upload_context(request)
    name = validate_media_name(folder, filename)
    if new_name.filename is None and new_name.folder is None:
        raise BadRequest("give a new filename, a new folder or both")
    new_folder = name.folder if new_name.folder is None else validate_folder(new_name.folder)
    target = validate_media_name(new_folder, new_name.filename if new_name.filename is not None else name.filename)
    identity = identity_of(request.scope)
    if identity is not None and not identity.rights.may_folder("write", target.folder):
        raise missing_right(identity, "write", target.folder)
    events = await context.store.move_file(name, target, request_preconditions(request))
    if events is None:
        raise NotFound("file not found")
    metrics.FILE_CHANGES.labels("moved").inc()
    for event in events:
        await context.outbox.publish(event)
    info = events[0].info
    response.headers["location"] = path_location(info)
    return info.to_public_dict()
