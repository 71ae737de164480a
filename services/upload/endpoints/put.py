"""PUT /file/stream and /files/...: the body is the file itself, created or replaced in one step."""

import sys
from collections.abc import AsyncIterable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from services.common.auth.identity import identity_of, subject_of
from services.common.auth.play_seals import describe_player
from services.common.errors import AlreadyExists, BadRequest, PreconditionFailed
from services.common.media import NO_METADATA, MediaInfo, MediaName, validate_media_name
from services.common.store.preconditions import Preconditions
from services.common.store.upload_store import (
    NewUpload,
    OutboxEvent,
)
from services.common.uploads.cleanup import CleanupRunner
from services.common.web.content_length import parse_content_length
from services.common.web.openapi import openapi_problems
from services.common.web.routers import create_router
from services.common.webhooks.hook_protocol import HookQuestion
from services.upload.content_types import resolve_content_type
from services.upload.digests import DigestVerifier
from services.upload.endpoints.dependencies import request_body, upload_context
from services.upload.endpoints.request import (
    IF_MATCH_PARAMETER,
    IF_UNMODIFIED_SINCE_PARAMETER,
    FilenameParam,
    FolderParam,
    PathParam,
    SidParam,
    digest_verifiers,
    header_parameter,
    request_media_path,
    request_preconditions,
)
from services.upload.endpoints.response import path_location, stream_location, validator_headers
from services.upload.progress import Progress
from services.upload.writer.upload_writer import UploadWriter

router = create_router("files")

_PUT_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "the file; Content-Type may be any media type",
        # Generators of clients skip operations whose body is */*.
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    "parameters": [
        IF_MATCH_PARAMETER,
        IF_UNMODIFIED_SINCE_PARAMETER,
        header_parameter("If-None-Match", "* where the file must be new"),
        header_parameter("Content-Digest", "RFC 9530: sha-256 or sha-512, checked"),
        header_parameter("Repr-Digest", "RFC 9530: sha-256 or sha-512, checked"),
    ],
}


_PUT_ROUTE: dict[str, Any] = {
    "response_description": "the file was replaced; its description",
    "responses": {
        201: {"description": "the file was created; its description"},
        **openapi_problems(400, 403, 408, 409, 412, 413, 415, 429, 502, 503, 507),
    },
    "openapi_extra": _PUT_OPENAPI,
    "max_body_size": sys.maxsize,
}


@router.put("/file/stream", **_PUT_ROUTE)
async def put_file(
    request: Request, filename: FilenameParam, folder: FolderParam = "", sid: SidParam = None
) -> JSONResponse:
    """Store the body as the file of that name in one step: readers see the old file or the new one, each complete."""
    return await _put(request, lambda: validate_media_name(folder, filename), sid, stream_location)


@router.put("/files/{path:path}", **_PUT_ROUTE)
async def put_file_by_path(request: Request, path: PathParam, sid: SidParam = None) -> JSONResponse:
    """The same by the path address of the file: its folder, a slash, its filename, each segment percent-encoded."""
    del path  # Starlette has decoded it; the raw path is decoded segment by segment
    return await _put(request, lambda: request_media_path(request), sid, path_location)


async def _put(
    request: Request, parse_name: Callable[[], MediaName], sid: str | None, location_of: Callable[[MediaInfo], str]
) -> JSONResponse:
    context = upload_context(request)
    headers = request.headers
    with request_body(request, "put", holds_slot=False) as body, ExitStack() as held:
        name = parse_name()
        # RFC 9110, 14.5: a partial PUT that is taken for a complete one would destroy the file.
        if "content-range" in headers:
            raise BadRequest("Content-Range is not supported in PUT")
        length = parse_content_length(request)
        content_type = resolve_content_type(headers.get("content-type", ""), name.filename)
        context.policy.check_media_type(content_type)
        preconditions, verifiers = request_preconditions(request), digest_verifiers(request)
        identity = identity_of(request.scope)
        subject = subject_of(identity) or None
        asked = partial(HookQuestion, "put", name.folder, name.filename, length, content_type, {}, subject)
        answer = await context.ask_hook(asked)
        held.enter_context(context.limiter.acquire_slot(body))
        answer.check_media_type(content_type)
        name, metadata_json = answer.place(name), answer.join_metadata(NO_METADATA)
        context.check_size(length, answer)
        put_request = PutRequest(name, content_type, length, preconditions, verifiers, metadata_json)
        progress = context.start_progress_for(identity)(sid, name.filename, length)
        writer = context.create_writer(body, identity, answer)
        watch = context.playback.watch(sid, name.filename, length, describe_player(identity))
        writer.watch_blocks(watch, context.settings.unfinished_upload_ttl)
        try:
            event = await receive_put(body, put_request, writer, progress, context.cleanup)
        except AlreadyExists as error:
            raise PreconditionFailed("the file already exists", error.headers) from error
    await context.outbox.publish(event)
    info = event.info
    created = event.type == "file.created"
    # No Content-Location: it would say that this description is the file (RFC 9110, 8.7).
    location = {"location": location_of(info)} if created else {}
    response_headers = {**location, "cache-control": "no-store", **validator_headers(info.etag, info.sha256)}
    return JSONResponse(info.to_public_dict(), 201 if created else 200, response_headers)


@dataclass(frozen=True, slots=True)
class PutRequest:
    """What the request's head says. `length` in bytes, None where it is not known."""

    name: MediaName
    content_type: str
    length: int | None
    preconditions: Preconditions
    verifiers: Sequence[DigestVerifier]
    metadata_json: str = NO_METADATA


async def receive_put(
    body: AsyncIterable[bytes],
    put_request: PutRequest,
    writer: UploadWriter,
    progress: Progress,
    cleanup: CleanupRunner,
) -> OutboxEvent:
    """Store the body. Where it is interrupted, the unfinished upload is aborted before this returns."""
    # The file's SHA-256 is computed anyway; other algorithms need a hash of their own.
    sha256_verifiers = [verifier for verifier in put_request.verifiers if verifier.algorithm == "sha256"]
    other_verifiers = [verifier for verifier in put_request.verifiers if verifier.algorithm != "sha256"]

    def verify_digests(sha256: str) -> None:
        for verifier in sha256_verifiers:
            verifier.verify_digest(bytes.fromhex(sha256))
        for verifier in other_verifiers:
            verifier.verify()

    name, preconditions = put_request.name, put_request.preconditions
    try:
        await writer.create(name, NewUpload(put_request.length), preconditions)
        async for piece in body:
            for verifier in other_verifiers:
                verifier.update(piece)
            await writer.write(piece)
            progress.set_received(writer.bytes_received)
        event = await writer.commit(
            name, put_request.content_type, preconditions, verify_digests, metadata_json=put_request.metadata_json
        )
    except BaseException as error:
        progress.set_state("failed")
        await cleanup.run_after(error, writer.abort())
        raise
    progress.set_received(writer.bytes_received, writer.bytes_received)
    progress.set_state("stored")
    return event
