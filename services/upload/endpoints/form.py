"""POST /file/upload: one file sent as a form (RFC 7578).

Fields may come before or after the file, in the order in which the user of curl has written them. So a file whose folder is not
known yet is received without a name and gets it at the end.
"""

import sys
from collections.abc import AsyncIterable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import JSONResponse

from services.common.auth.identity import identity_of, subject_of
from services.common.auth.play_seals import describe_player
from services.common.errors import BadRequest, ContentTooLarge
from services.common.media import NO_METADATA, MediaName, validate_folder, validate_media_name, validate_segment
from services.common.store.upload_store import OutboxEvent
from services.common.uploads.cleanup import CleanupRunner
from services.common.uploads.file_metadata import encode_file_metadata, is_file_metadata
from services.common.web.content_length import parse_content_length
from services.common.web.openapi import openapi_problems
from services.common.web.routers import create_router
from services.common.webhooks.hook_protocol import ALLOWED, HookAnswer, HookQuestion
from services.upload.content_types import resolve_content_type
from services.upload.endpoints.dependencies import request_body, upload_context
from services.upload.endpoints.multipart import (
    MAX_FORM_OVERHEAD_BYTES,
    EmptyFileInput,
    FileData,
    FileEnd,
    FileStart,
    FormEnd,
    FormEvent,
    FormField,
    FormParser,
    parse_boundary,
)
from services.upload.endpoints.request import SidParam
from services.upload.endpoints.response import stream_location, validator_headers
from services.upload.progress import NullProgress, Progress, StartProgress
from services.upload.writer.upload_writer import UploadWriter

router = create_router("files")

FORM_FIELDS = ("folder", "sid")

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
                    "additionalProperties": {"type": "string", "description": "metadata of the file"},
                }
            }
        },
    }
}


@router.post(
    "/file/upload",
    status_code=201,
    response_model=str,
    response_description="the id of the stored file",
    responses=openapi_problems(400, 403, 408, 409, 413, 415, 429, 502, 503, 507),
    openapi_extra=_FORM_OPENAPI,
    max_body_size=sys.maxsize,
)
async def upload_form(
    request: Request,
    folder: Annotated[str | None, Query(description="allows a name that is taken to be refused early")] = None,
    sid: SidParam = None,
) -> JSONResponse:
    """Store one file sent as a form (RFC 7578): `file`, optional `folder` and `sid`. Answers with its id.

    All other text fields become the file's metadata.
    """
    context = upload_context(request)
    with request_body(request, "form", holds_slot=False) as body, ExitStack() as held:
        by_aiohttp = "aiohttp/" in request.headers.get("user-agent", "")
        boundary = parse_boundary(request.headers.get("content-type", "").encode("latin-1"))
        parser = FormParser(boundary, percent_encoded_filenames=by_aiohttp)
        length = parse_content_length(request)
        max_size = context.policy.max_size
        if length is not None and length > max_size + MAX_FORM_OVERHEAD_BYTES:
            raise ContentTooLarge(f"the file is larger than {max_size} bytes")
        query_fields = {"folder": None if folder is None else validate_folder(folder), "sid": sid}
        # Its file is named in the body, which is not read before the answer.
        identity = identity_of(request.scope)
        subject = subject_of(identity) or None
        asked = partial(HookQuestion, "form", query_fields["folder"], None, None, None, {}, subject)
        answer = await context.ask_hook(asked)
        held.enter_context(context.limiter.acquire_slot(body))
        least = None if length is None else max(0, length - MAX_FORM_OVERHEAD_BYTES)
        context.check_size(least, answer)
        fields = {name: value for name, value in query_fields.items() if value is not None}
        start_progress = context.start_progress_for(identity)
        writer = context.create_writer(body, identity, answer)

        def watch_file(sid: str | None, filename: str) -> None:
            watch = context.playback.watch(sid, filename, None, describe_player(identity))
            writer.watch_blocks(watch, context.settings.unfinished_upload_ttl)

        form = FormUpload(fields, start_progress, context.policy.check_media_type, watch_file, answer=answer)
        writer.expected_bytes = least or 0
        event = await receive_form(body, parser, form, writer, context.cleanup)
    await context.outbox.publish(event)
    info = event.info
    headers = {
        "location": stream_location(info),
        "cache-control": "no-store",
        **validator_headers(info.etag, info.sha256),
    }
    return JSONResponse(info.id, 201, headers)


@dataclass(slots=True)
class FormUpload:
    """The form as read so far.

    `fields` begins with the query parameters; `check_media_type` raises for a type that is refused. `metadata` are the text fields
    that are not ours, `metadata_json` what is stored of them. `watch_file` is called with the sid and the filename once the file
    begins. `answer` is that of the upload hook.
    """

    fields: dict[str, str]
    start_progress: StartProgress
    check_media_type: Callable[[str], str] = str
    watch_file: Callable[[str | None, str], object] = lambda _sid, _filename: None
    filename: str | None = None
    content_type: str = ""
    seen_fields: set[str] = field(default_factory=set)
    metadata: dict[str, str] = field(default_factory=dict)
    metadata_json: str = NO_METADATA
    progress: Progress = field(default_factory=NullProgress)
    answer: HookAnswer = ALLOWED

    def target_name(self) -> MediaName:
        """Return the validated name. Raises BadRequest."""
        if self.filename is None:
            raise BadRequest("the field 'file' is missing, or no file was chosen in it")
        return self.answer.place(validate_media_name(self.fields.get("folder", ""), self.filename))

    def add_field(self, name: str, value: str) -> None:
        """Add a text field.

        Raises BadRequest where it is given twice or different from the query parameter, ContentTooLarge for too much metadata.
        """
        if name == "file":
            raise BadRequest("the field 'file' has no filename: send it as a file")
        if name not in FORM_FIELDS and not is_file_metadata(name, value):
            return
        if name == "folder":
            value = validate_folder(value)  # as in the query: two spellings are one folder
        if name in self.seen_fields or self.fields.get(name, value) != value:
            raise BadRequest(f"duplicate field {name!r}")
        self.seen_fields.add(name)
        if name in FORM_FIELDS:
            self.fields[name] = value
        else:
            self.metadata[name] = value
            self.metadata_json = encode_file_metadata(self.metadata)

    def start_file(self, event: FileStart) -> None:
        """Handle the headers of the file part. Raises BadRequest and UnsupportedMediaType."""
        if event.field != "file":
            raise BadRequest(f"unknown file field {event.field!r}")
        if self.filename is not None:
            raise BadRequest("duplicate field 'file'")
        self.filename = validate_segment(event.filename, "filename")
        self.content_type = self.check_media_type(resolve_content_type(event.content_type, self.filename))
        self.answer.check_media_type(self.content_type)
        # A part does not state its length: the total is unknown until its end.
        self.progress = self.start_progress(self.fields.get("sid"), self.filename, None)
        self.watch_file(self.fields.get("sid"), self.filename)


async def receive_form(
    body: AsyncIterable[bytes], parser: FormParser, form: FormUpload, writer: UploadWriter, cleanup: CleanupRunner
) -> OutboxEvent:
    """Store the file of a form. Where it is interrupted, the unfinished upload is aborted before this returns."""
    try:
        async for piece in body:
            for event in parser.feed(piece):
                await _handle_event(event, form, writer)
            form.progress.set_received(writer.bytes_received)
        parser.close()
        stored = await writer.commit(
            form.target_name(), form.content_type, metadata_json=form.answer.join_metadata(form.metadata_json)
        )
    except BaseException as error:
        form.progress.set_state("failed")
        await cleanup.run_after(error, writer.abort())
        raise
    form.progress.set_received(writer.bytes_received, writer.bytes_received)
    form.progress.set_state("stored")
    return stored


async def _handle_event(event: FormEvent, form: FormUpload, writer: UploadWriter) -> None:
    match event:
        case FileData(data):
            await writer.write(data)
        case FileStart():
            form.start_file(event)
            if "folder" in form.fields:
                await writer.create(form.target_name())
        case FormField(name, value):
            form.add_field(name, value)
        case EmptyFileInput() | FileEnd() | FormEnd():
            pass
