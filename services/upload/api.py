"""Uploads in one request, at the HTTP edge: reads a request's head, hands the body to a flow, answers. It stores nothing itself."""

import sys
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from services.common.errors import BadRequest, NotFound, NotUnique, PreconditionFailed, TooLarge, UnsupportedMediaType
from services.common.media import check_folder, media_name
from services.common.web import problems
from services.upload.content_types import content_type
from services.upload.edge import (
    body_of,
    declared_length,
    digest_checks,
    expected,
    listed,
    services,
    stream_location,
    validators,
)
from services.upload.form import Form, receive_form
from services.upload.multipart import FORM_OVERHEAD, FormReader, boundary_of
from services.upload.put import Put, receive_put
from services.upload.receive import Receiver

router = APIRouter(tags=["upload"])

Folder = Annotated[str, Query(description="the folder; empty is the topmost one")]
Filename = Annotated[str, Query(description="the file's name")]
Sid = Annotated[str | None, Query(max_length=128, description="the socket that is told of the progress")]

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
_TEXT = {"type": "string"}
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "schema": _TEXT,
    "description": "entity tags, one of which the file must have, or *",
}
_IF_UNMODIFIED_SINCE = {
    "name": "If-Unmodified-Since",
    "in": "header",
    "schema": _TEXT,
    "description": "the file must not be newer; not looked at beside If-Match",
}
_RAW: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}},
    "parameters": [
        _IF_MATCH,
        _IF_UNMODIFIED_SINCE,
        {"name": "If-None-Match", "in": "header", "schema": _TEXT, "description": "* where the file must be new"},
        {
            "name": "Content-Digest",
            "in": "header",
            "schema": _TEXT,
            "description": "RFC 9530: sha-256 or sha-512, checked",
        },
        {
            "name": "Repr-Digest",
            "in": "header",
            "schema": _TEXT,
            "description": "RFC 9530: sha-256 or sha-512, checked",
        },
    ],
}


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
    sid: Sid = None,
) -> JSONResponse:
    """Store one file sent as a form (RFC 7578): `file`, optional `folder` and `sid`. Answers with its id."""
    own = services(request)
    with body_of(request, "form") as body:
        reader = FormReader(boundary_of(request.headers.get("content-type", "").encode("latin-1")))
        length = declared_length(request)
        if length is not None and length > own.limits.max_length + FORM_OVERHEAD:
            raise TooLarge(f"the file is larger than {own.limits.max_length} bytes")
        own.limits.check_length(None if length is None else max(0, length - FORM_OVERHEAD))
        given = {"folder": None if folder is None else check_folder(folder), "sid": sid}
        fields = {name: value for name, value in given.items() if value is not None}
        form = Form(fields, own.watch, own.limits.check_type)
        announcement = await receive_form(body, reader, form, Receiver(own.store, own.limits.max_length, body.cut))
    await own.announcer.announce(announcement)
    info = announcement.info
    headers = {"location": stream_location(info), "cache-control": "no-store", **validators(info)}
    return JSONResponse(info.id, 201, headers)


@router.put(
    "/file/stream",
    response_description="the file was replaced; its description",
    responses={
        201: {"description": "the file was created; its description"},
        **problems(400, 408, 409, 412, 413, 415, 429, 503, 507),
    },
    openapi_extra=_RAW,
    max_body_size=sys.maxsize,
)
async def put_file(request: Request, filename: Filename, folder: Folder = "", sid: Sid = None) -> JSONResponse:
    """Store the body as the file of that name, in one step: readers see the old one or the new one, whole."""
    own = services(request)
    headers = request.headers
    with body_of(request, "put") as body:
        name = media_name(folder, filename)
        # RFC 9110, 14.5: a partial PUT that were taken for a whole one would destroy the file.
        if "content-range" in headers:
            raise BadRequest("Content-Range is not taken in a PUT")
        if (listed(request, "content-encoding") or "identity").strip().lower() != "identity":
            raise UnsupportedMediaType("no content coding is taken", {"accept-encoding": "identity"})
        length = declared_length(request)
        own.limits.check_length(length)
        kind = own.limits.check_type(content_type(headers.get("content-type", ""), name.filename))
        put = Put(name, kind, length, expected(request), digest_checks(request))
        try:
            progress = own.watch(sid, name.filename, length)
            announcement = await receive_put(body, put, Receiver(own.store, own.limits.max_length, body.cut), progress)
        except NotUnique as error:
            raise PreconditionFailed("the file exists already", error.headers) from error
    await own.announcer.announce(announcement)
    info = announcement.info
    created = announcement.type == "file.created"
    # No Content-Location: it would say that this description is the file (RFC 9110, 8.7).
    location = {"location": stream_location(info)} if created else {}
    answer = {**location, "cache-control": "no-store", **validators(info)}
    return JSONResponse(info.public(), 201 if created else 200, answer)


@router.delete(
    "/file/stream",
    status_code=204,
    response_class=Response,
    responses=problems(400, 404, 412, 503),
    openapi_extra={"parameters": [_IF_MATCH, _IF_UNMODIFIED_SINCE]},
)
async def delete_file(request: Request, filename: Filename, folder: Folder = "") -> Response:
    """Remove a file. Replies that are under way still end."""
    own = services(request)
    announcement = await own.store.delete(media_name(folder, filename), expected(request))
    if announcement is None:
        raise NotFound("file not found")
    await own.announcer.announce(announcement)
    return Response(status_code=204)
