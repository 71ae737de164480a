"""The ways in of a publisher: tus, one endless body, objects. The publish token of the stream is the credential of all of them.

Senders that cannot set header fields have the token in the path: `/live/{id}/key/{token}/media...`.
"""

import sys
from typing import Annotated, Any

from fastapi import Header, Path, Query, Request, Response

from services.common.errors import BadRequest, UnsupportedMediaType
from services.common.http import tus
from services.common.web.content_length import parse_content_length
from services.common.web.openapi import openapi_problems
from services.common.web.openapi_examples import parameter_examples
from services.common.web.routers import create_router
from services.common.web.tus_responses import require_tus_version, tus_response
from services.live.endpoints.control import StreamId
from services.live.endpoints.dependencies import live_context, publisher_body
from services.live.object_names import object_kind
from services.live.publish_token import token_of
from services.live.tus_requests import TusRequest

router = create_router("live")

LIVE_TUS_EXTENSIONS = "creation,creation-defer-length"
MAX_LIST_BYTES = 4 * 1024 * 1024
_EXAMPLE_TOKEN = "A" * 43

TokenPath = Annotated[
    str, Path(description="the publish token of the stream", openapi_examples=parameter_examples(_EXAMPLE_TOKEN))
]
ObjectName = Annotated[
    str, Path(description="the name that the muxer gives", openapi_examples=parameter_examples("seg1.m4s"))
]
SidQuery = Annotated[
    str | None, Query(max_length=128, description="the id of the socket that hears what is durable; or X-Sid")
]
EndsQuery = Annotated[bool, Query(description="1: the proper end of this body is the end of the stream")]
SourceQuery = Annotated[int | None, Query(ge=0, description="of the address that POST answers")]
HeaderText = Annotated[str | None, Header()]
_LIVE_TUS_OPENAPI: dict[str, Any] = {
    "parameters": [
        {
            "name": "Tus-Resumable",
            "in": "header",
            "required": True,
            "schema": {"type": "string", "enum": [tus.TUS_VERSION]},
        }
    ]
}
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_BODY_OPENAPI: dict[str, Any] = {"requestBody": {"description": "fragmented MP4", "content": _BYTES, "required": True}}
_INGEST_ERRORS = (400, 401, 403, 404, 408, 409, 410, 413, 415, 503, 507)
_BODY_ROUTE: dict[str, Any] = {
    "response_class": Response,
    "responses": openapi_problems(*_INGEST_ERRORS),
    "openapi_extra": _BODY_OPENAPI,
    "max_body_size": sys.maxsize,
}
_OBJECT_ROUTE: dict[str, Any] = {**_BODY_ROUTE, "responses": openapi_problems(*_INGEST_ERRORS, 412)}
_OBJECT_DELETE_ROUTE: dict[str, Any] = {
    "response_class": Response,
    "responses": openapi_problems(400, 401, 403, 404, 410, 415, 503),
}


@router.options("/live/{id}/tus", status_code=204, response_class=Response)
async def live_tus_options(id: StreamId) -> Response:  # noqa: A002
    """List what is supported of tus."""
    del id
    return tus_response(204, {"tus-version": tus.TUS_VERSION, "tus-extension": LIVE_TUS_EXTENSIONS})


@router.post(
    "/live/{id}/tus",
    status_code=201,
    response_class=Response,
    response_description="a source began; `Location` names it",
    responses=openapi_problems(*_INGEST_ERRORS, 412),
    openapi_extra=_LIVE_TUS_OPENAPI,
)
async def begin_live_tus(
    request: Request,
    id: StreamId,  # noqa: A002
    upload_defer_length: HeaderText = None,
    upload_length: HeaderText = None,
) -> Response:
    """Begin to send from byte 0, as a new source: where the sender restarts. The first PATCH needs no such request."""
    with require_tus_version(request), publisher_body(request, "tus") as body:
        if upload_defer_length != "1" and upload_length is None:
            raise BadRequest("Upload-Defer-Length: 1 is required")
        if not await body.is_empty():
            raise BadRequest("the request that begins a source has no body")
        receiver = live_context(request).receiver
        stream = await receiver.find(id, token_of(request.scope, None))
        source = await receiver.begin_tus(stream, body)
    return tus_response(201, {"location": f"/live/{id}/tus?source={source}", "upload-offset": "0"})


@router.head(
    "/live/{id}/tus",
    response_class=Response,
    responses=openapi_problems(401, 403, 404, 409, 410, 412, 503),
    openapi_extra=_LIVE_TUS_OPENAPI,
)
async def get_live_tus_offset(request: Request, id: StreamId, source: SourceQuery = None) -> Response:  # noqa: A002
    """Return how many bytes of the source are durable."""
    with require_tus_version(request):
        receiver = live_context(request).receiver
        stream = await receiver.find(id, token_of(request.scope, None))
        offset, length = await receiver.tus_offset(stream, source)
    known = {"upload-defer-length": "1"} if length is None else {"upload-length": str(length)}
    return tus_response(200, {"upload-offset": str(offset), **known})


@router.patch(
    "/live/{id}/tus",
    status_code=204,
    response_class=Response,
    response_description="the bytes are durable; with the last of them the stream has ended",
    responses=openapi_problems(*_INGEST_ERRORS, 412),
    openapi_extra={**_LIVE_TUS_OPENAPI, **_BODY_OPENAPI},
    max_body_size=sys.maxsize,
)
async def append_live_tus(
    request: Request,
    id: StreamId,  # noqa: A002
    upload_offset: HeaderText = None,
    upload_length: HeaderText = None,
    source: SourceQuery = None,
    sid: SidQuery = None,
) -> Response:
    """Append bytes from the offset on, at any replica. Upload-Length says how many there are: the last one ends the stream."""
    del sid
    with require_tus_version(request), publisher_body(request, "tus") as body:
        _check_content_type(request)
        if upload_offset is None:
            raise BadRequest("Upload-Offset is missing")
        wanted = TusRequest(
            tus.parse_number("Upload-Offset", upload_offset),
            None if upload_length is None else tus.parse_number("Upload-Length", upload_length),
            source,
        )
        context = live_context(request)
        stream = await context.receiver.find(id, token_of(request.scope, None))
        offset = await context.receiver.receive_tus(stream, body, wanted, context.publisher_sid(request, stream))
    return tus_response(204, {"upload-offset": str(offset)})


def _check_content_type(request: Request) -> None:
    given = request.headers.get("content-type", "").strip().lower()
    if given not in {tus.TUS_CONTENT_TYPE, tus.GENERIC_CONTENT_TYPE}:
        raise UnsupportedMediaType(f"the bytes are sent as {tus.TUS_CONTENT_TYPE}")


async def _receive_body(request: Request, stream_id: str, key: str | None, *, ends: bool) -> Response:
    with publisher_body(request, "body") as body:
        context = live_context(request)
        stream = await context.receiver.find(stream_id, token_of(request.scope, key))
        sid = context.publisher_sid(request, stream)
        await context.receiver.receive_body(stream, body, sid, ends=ends)
    return Response(status_code=204)


async def _receive_object(request: Request, stream_id: str, key: str | None, name: str) -> Response:
    with publisher_body(request, "objects") as body:
        context = live_context(request)
        stream = await context.receiver.find(stream_id, token_of(request.scope, key))
        if object_kind(name) == "list":
            received = 0
            async for piece in body:
                received += len(piece)
                if received > MAX_LIST_BYTES:
                    raise BadRequest("a list of more than 4 MiB")
            return Response(status_code=204)
        if (length := parse_content_length(request)) == 0:
            raise BadRequest("the object is empty")
        context.disk_space.reserve(length)
        await context.receiver.receive_object(stream, body, context.publisher_sid(request, stream))
    return Response(status_code=200)


async def _delete_object(request: Request, stream_id: str, key: str | None, name: str) -> Response:
    """Answer as muxers that delete what has left their window expect: nothing is deleted."""
    await live_context(request).receiver.find(stream_id, token_of(request.scope, key))
    object_kind(name)
    return Response(status_code=204)


@router.post("/live/{id}/media", status_code=204, **_BODY_ROUTE)
async def send_media(request: Request, id: StreamId, end: EndsQuery = False, sid: SidQuery = None) -> Response:  # noqa: A002, FBT002
    """Send one endless body. Where it ends the stream waits for the next one, which begins an epoch."""
    del sid
    return await _receive_body(request, id, None, ends=end)


@router.put("/live/{id}/media", status_code=204, **_BODY_ROUTE)
async def put_media(request: Request, id: StreamId, end: EndsQuery = False, sid: SidQuery = None) -> Response:  # noqa: A002, FBT002
    """Send one endless body, as by POST."""
    del sid
    return await _receive_body(request, id, None, ends=end)


@router.post("/live/{id}/key/{token}/media", status_code=204, **_BODY_ROUTE)
async def send_media_by_key(request: Request, id: StreamId, token: TokenPath, end: EndsQuery = False) -> Response:  # noqa: A002, FBT002
    """Send one endless body, with the token in the path."""
    return await _receive_body(request, id, token, ends=end)


@router.put("/live/{id}/key/{token}/media", status_code=204, **_BODY_ROUTE)
async def put_media_by_key(request: Request, id: StreamId, token: TokenPath, end: EndsQuery = False) -> Response:  # noqa: A002, FBT002
    """Send one endless body by PUT, with the token in the path."""
    return await _receive_body(request, id, token, ends=end)


@router.put("/live/{id}/media/{name}", **_OBJECT_ROUTE)
async def put_object(request: Request, id: StreamId, name: ObjectName, sid: SidQuery = None) -> Response:  # noqa: A002
    """Send one object of a muxer: an initialisation segment or complete fragments. Lists are ignored (204)."""
    del sid
    return await _receive_object(request, id, None, name)


@router.post("/live/{id}/media/{name}", **_OBJECT_ROUTE)
async def send_object(request: Request, id: StreamId, name: ObjectName, sid: SidQuery = None) -> Response:  # noqa: A002
    """Send one object, as by PUT."""
    del sid
    return await _receive_object(request, id, None, name)


@router.delete("/live/{id}/media/{name}", status_code=204, **_OBJECT_DELETE_ROUTE)
async def delete_object(request: Request, id: StreamId, name: ObjectName) -> Response:  # noqa: A002
    """Take note that an object has left the muxer's window: nothing is deleted."""
    return await _delete_object(request, id, None, name)


@router.put("/live/{id}/key/{token}/media/{name}", **_OBJECT_ROUTE)
async def put_object_by_key(request: Request, id: StreamId, token: TokenPath, name: ObjectName) -> Response:  # noqa: A002
    """Send one object, with the token in the path."""
    return await _receive_object(request, id, token, name)


@router.post("/live/{id}/key/{token}/media/{name}", **_OBJECT_ROUTE)
async def send_object_by_key(request: Request, id: StreamId, token: TokenPath, name: ObjectName) -> Response:  # noqa: A002
    """Send one object by POST, with the token in the path."""
    return await _receive_object(request, id, token, name)


@router.delete("/live/{id}/key/{token}/media/{name}", status_code=204, **_OBJECT_DELETE_ROUTE)
async def delete_object_by_key(request: Request, id: StreamId, token: TokenPath, name: ObjectName) -> Response:  # noqa: A002
    """Take note that an object has left the muxer's window, with the token in the path."""
    return await _delete_object(request, id, token, name)
