"""The upload service's HTTP edge: reads a request's head, hands the body to a flow, answers. It stores nothing itself."""

import sys
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from services.common.errors import BadRequest, TooLarge
from services.common.media import MediaInfo, check_folder
from services.common.web import body_of, problems
from services.upload.announce import Announcer
from services.upload.form import Form, receive_form
from services.upload.multipart import FormReader, boundary_of
from services.upload.receive import Receiver
from services.upload.settings import UploadSettings

router = APIRouter(tags=["upload"])

FORM_OVERHEAD = 1024 * 1024
"""Bytes that the boundaries, headers and fields of a form may take beside the file."""

_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "folder": {"type": "string", "maxLength": 1024},
                        "sid": {"type": "string", "maxLength": 128},
                    },
                }
            }
        },
    }
}


def stream_location(info: MediaInfo) -> str:
    """Where the file can be read: relative, so that it is right behind any proxy."""
    return f"/file/stream?filename={quote(info.filename, safe='')}&folder={quote(info.folder, safe='')}"


@router.post(
    "/file/upload",
    status_code=201,
    response_model=str,
    response_description="the id of the stored file",
    responses=problems(400, 408, 409, 413, 415, 429, 503, 507),
    openapi_extra=_FORM,
    max_body_size=sys.maxsize,
)
async def upload_form(
    request: Request,
    folder: Annotated[str | None, Query(description="allows a name that is taken to be refused early")] = None,
    sid: Annotated[str | None, Query(max_length=128, description="the socket that is told of the progress")] = None,
) -> JSONResponse:
    """Store one file sent as a form (RFC 7578): `file`, optional `folder` and `sid`. Answers with its id."""
    settings: UploadSettings = request.app.state.settings
    reader = FormReader(boundary_of(request.headers.get("content-type", "").encode("latin-1")))
    length = declared_length(request)
    if length is not None and length > settings.max_upload + FORM_OVERHEAD:
        raise TooLarge(f"the file is larger than {settings.max_upload} bytes")
    given = {"folder": None if folder is None else check_folder(folder), "sid": sid}
    form = Form({name: value for name, value in given.items() if value is not None})
    receiver = Receiver(request.app.state.store, settings.max_upload)
    info, announcement = await receive_form(body_of(request.receive), reader, form, receiver)
    announcer: Announcer = request.app.state.announcer
    await announcer.announce(info, announcement)
    return JSONResponse(
        info.id,
        201,
        {"location": stream_location(info), "etag": info.etag, "cache-control": "no-store"},
    )


def declared_length(request: Request) -> int | None:
    """Content-Length in bytes, None for a chunked body. The HTTP parser has refused what is not a number."""
    stated = request.headers.get("content-length")
    if stated is None:
        return None
    if not (stated.isascii() and stated.isdigit()):
        raise BadRequest("Content-Length is not a number")
    return int(stated)
