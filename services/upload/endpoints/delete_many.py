"""POST /file/delete: deletes several files, each judged and deleted by itself."""

import asyncio
from typing import Annotated

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from services.common.auth.authorization import missing_right
from services.common.auth.identity import Identity, identity_of
from services.common.errors import BadRequest, GridcastError, NotFound
from services.common.http.etags import iter_etags
from services.common.media import MediaName, validate_media_name
from services.common.store.preconditions import NO_PRECONDITIONS, Preconditions
from services.common.store.upload_store import (
    OutboxEvent,
)
from services.common.telemetry import metrics
from services.common.web.json_route import JSONRoute
from services.common.web.openapi import openapi_problems
from services.common.web.routers import create_router
from services.upload.endpoints.dependencies import UploadContext, upload_context

router = create_router("files", route_class=JSONRoute)

MAX_FILES = 100
"""Files of one request."""
CONCURRENT_DELETIONS = 8


class FileToDelete(BaseModel):
    """The name of a file, and the version that is meant."""

    model_config = ConfigDict(extra="forbid")

    filename: str
    folder: str = ""
    etag: Annotated[
        str | None, Field(max_length=256, description="only the version with this entity tag, else 412")
    ] = None


class DeleteRequest(BaseModel):
    """The files to delete."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"files": [{"folder": "demo", "filename": "holiday.webm"}]}]}
    )

    files: Annotated[list[FileToDelete], Field(min_length=1, max_length=MAX_FILES)]


class DeleteResult(BaseModel):
    """What became of one file."""

    folder: str
    filename: str
    status: int = Field(description="204, or the status with which DELETE of this file would have been refused")
    detail: str | None = Field(description="why it was not deleted")


class DeleteResponse(BaseModel):
    """The results in the order of the request."""

    results: list[DeleteResult]


@router.post("/file/delete", responses=openapi_problems(400, 413, 415))
async def delete_files(request: Request, wanted: DeleteRequest) -> DeleteResponse:
    """Delete up to 100 files. Each needs the right `delete` in its folder, and has a result of its own.

    A name or an entity tag that is not valid is 400, and nothing is deleted then.
    """
    context, identity = upload_context(request), identity_of(request.scope)
    items = [(validate_media_name(item.folder, item.filename), _preconditions(item.etag)) for item in wanted.files]
    if len({name for name, _ in items}) != len(items):
        raise BadRequest("a file is named twice")
    slots = asyncio.Semaphore(CONCURRENT_DELETIONS)

    async def delete(name: MediaName, preconditions: Preconditions) -> OutboxEvent | GridcastError:
        async with slots:
            try:
                return await _delete(context, identity, name, preconditions)
            except GridcastError as error:
                return error

    outcomes = await asyncio.gather(*(delete(name, preconditions) for name, preconditions in items))
    # Together: while Redis is away each of them waits.
    await asyncio.gather(*(context.outbox.publish(event) for event in outcomes if isinstance(event, OutboxEvent)))
    return DeleteResponse(results=[_result(name, outcome) for (name, _), outcome in zip(items, outcomes, strict=True)])


async def _delete(
    context: UploadContext, identity: Identity | None, name: MediaName, preconditions: Preconditions
) -> OutboxEvent:
    if identity is not None and not identity.rights.may_folder("delete", name.folder):
        raise missing_right(identity, "delete", name.folder)
    event = await context.store.delete(name, preconditions)
    if event is None:
        raise NotFound("file not found")
    metrics.FILE_CHANGES.labels("deleted").inc()
    return event


def _preconditions(etag: str | None) -> Preconditions:
    if etag is None:
        return NO_PRECONDITIONS
    try:
        (tag,) = iter_etags(etag)
    except ValueError:
        raise BadRequest("etag is not an entity tag with its quotes") from None
    return Preconditions(etag_in=frozenset() if tag.weak else frozenset({tag.opaque_tag}))


def _result(name: MediaName, outcome: OutboxEvent | GridcastError) -> DeleteResult:
    status, detail = (204, None) if isinstance(outcome, OutboxEvent) else (outcome.status, outcome.detail)
    return DeleteResult(folder=name.folder, filename=name.filename, status=status, detail=detail)
