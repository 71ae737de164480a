"""Uploads in one request, at the HTTP edge: reads a request's head, hands the body to a flow, answers. It stores nothing itself."""

import sys
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from services.common.errors import (
    AlreadyExists,
    BadRequest,
    ContentTooLarge,
    NotFound,
    PreconditionFailed,
    UnsupportedMediaType,
)
from services.common.media import validate_folder, validate_media_name
from services.common.web.app_factory import openapi_problems
from services.upload.content_types import resolve_content_type
from services.upload.endpoints.dependencies import (
    combined_header,
    digest_verifiers,
    parse_content_length,
    request_body,
    request_preconditions,
    stream_location,
    upload_context,
    validator_headers,
)
from services.upload.endpoints.form import FormUpload, receive_form
from services.upload.endpoints.multipart import MAX_FORM_OVERHEAD_BYTES, FormParser, parse_boundary
from services.upload.endpoints.put import PutRequest, receive_put
from services.upload.writer.upload_writer import UploadWriter

router = APIRouter(tags=["upload"])

FolderParam = Annotated[str, Query(description="the folder; empty is the topmost one")]
FilenameParam = Annotated[str, Query(description="the file's name")]
SidParam = Annotated[str | None, Query(max_length=128, description="the socket that is told of the progress")]

_FORM_OPENAPI: dict[str, Any] = {
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
_STRING_SCHEMA = {"type": "string"}
_IF_MATCH_PARAMETER = {
    "name": "If-Match",
    "in": "header",
    "schema": _STRING_SCHEMA,
    "description": "entity tags, one of which the file must have, or *",
}
_IF_UNMODIFIED_SINCE_PARAMETER = {
    "name": "If-Unmodified-Since",
    "in": "header",
    "schema": _STRING_SCHEMA,
    "description": "the file must not be newer; not looked at beside If-Match",
}
_RAW_BODY_OPENAPI: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}},
    "parameters": [
        _IF_MATCH_PARAMETER,
        _IF_UNMODIFIED_SINCE_PARAMETER,
        {
            "name": "If-None-Match",
            "in": "header",
            "schema": _STRING_SCHEMA,
            "description": "* where the file must be new",
        },
        {
            "name": "Content-Digest",
            "in": "header",
            "schema": _STRING_SCHEMA,
            "description": "RFC 9530: sha-256 or sha-512, checked",
        },
        {
            "name": "Repr-Digest",
            "in": "header",
            "schema": _STRING_SCHEMA,
            "description": "RFC 9530: sha-256 or sha-512, checked",
        },
    ],
}


@router.post(
    "/file/upload",
    status_code=201,
    response_model=str,
    response_description="the id of the stored file",
    responses=openapi_problems(400, 408, 409, 413, 415, 429, 503, 507),
    openapi_extra=_FORM_OPENAPI,
    max_body_size=sys.maxsize,
)
async def upload_form(
    request: Request,
    folder: Annotated[str | None, Query(description="allows a name that is taken to be refused early")] = None,
    sid: SidParam = None,
) -> JSONResponse:
    """Store one file sent as a form (RFC 7578): `file`, optional `folder` and `sid`. Answers with its id."""
    own = upload_context(request)
    with request_body(request, "form") as body:
        reader = FormParser(parse_boundary(request.headers.get("content-type", "").encode("latin-1")))
        length = parse_content_length(request)
        if length is not None and length > own.limiter.max_size + MAX_FORM_OVERHEAD_BYTES:
            raise ContentTooLarge(f"the file is larger than {own.limiter.max_size} bytes")
        own.limiter.check_size(None if length is None else max(0, length - MAX_FORM_OVERHEAD_BYTES))
        given = {"folder": None if folder is None else validate_folder(folder), "sid": sid}
        fields = {name: value for name, value in given.items() if value is not None}
        form = FormUpload(fields, own.start_progress, own.limiter.check_media_type)
        announcement = await receive_form(body, reader, form, UploadWriter(own.store, own.limiter.max_size, body.abort))
    await own.outbox.publish(announcement)
    info = announcement.info
    headers = {"location": stream_location(info), "cache-control": "no-store", **validator_headers(info)}
    return JSONResponse(info.id, 201, headers)


@router.put(
    "/file/stream",
    response_description="the file was replaced; its description",
    responses={
        201: {"description": "the file was created; its description"},
        **openapi_problems(400, 408, 409, 412, 413, 415, 429, 503, 507),
    },
    openapi_extra=_RAW_BODY_OPENAPI,
    max_body_size=sys.maxsize,
)
async def put_file(
    request: Request, filename: FilenameParam, folder: FolderParam = "", sid: SidParam = None
) -> JSONResponse:
    """Store the body as the file of that name, in one step: readers see the old one or the new one, whole."""
    own = upload_context(request)
    headers = request.headers
    with request_body(request, "put") as body:
        name = validate_media_name(folder, filename)
        # RFC 9110, 14.5: a partial PUT that were taken for a whole one would destroy the file.
        if "content-range" in headers:
            raise BadRequest("Content-Range is not supported in PUT")
        if (combined_header(request, "content-encoding") or "identity").strip().lower() != "identity":
            raise UnsupportedMediaType("Content-Encoding is not supported", {"accept-encoding": "identity"})
        length = parse_content_length(request)
        own.limiter.check_size(length)
        kind = own.limiter.check_media_type(resolve_content_type(headers.get("content-type", ""), name.filename))
        put = PutRequest(name, kind, length, request_preconditions(request), digest_verifiers(request))
        try:
            progress = own.start_progress(sid, name.filename, length)
            announcement = await receive_put(
                body, put, UploadWriter(own.store, own.limiter.max_size, body.abort), progress
            )
        except AlreadyExists as error:
            raise PreconditionFailed("the file already exists", error.headers) from error
    await own.outbox.publish(announcement)
    info = announcement.info
    created = announcement.type == "file.created"
    # No Content-Location: it would say that this description is the file (RFC 9110, 8.7).
    location = {"location": stream_location(info)} if created else {}
    answer = {**location, "cache-control": "no-store", **validator_headers(info)}
    return JSONResponse(info.to_public_dict(), 201 if created else 200, answer)


@router.delete(
    "/file/stream",
    status_code=204,
    response_class=Response,
    responses=openapi_problems(400, 404, 412, 503),
    openapi_extra={"parameters": [_IF_MATCH_PARAMETER, _IF_UNMODIFIED_SINCE_PARAMETER]},
)
async def delete_file(request: Request, filename: FilenameParam, folder: FolderParam = "") -> Response:
    """Remove a file. Replies that are under way still end."""
    own = upload_context(request)
    announcement = await own.store.delete(validate_media_name(folder, filename), request_preconditions(request))
    if announcement is None:
        raise NotFound("file not found")
    await own.outbox.publish(announcement)
    return Response(status_code=204)
