"""The flow of one form upload: events of the body in, a stored file out. It knows no HTTP and no driver.

Fields may stand before or after the file, as curl sends them in its user's order. So a file whose name is not known yet is received
without one and gets it at the end.
"""

from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass, field

from services.common.errors import BadRequest
from services.common.media import MediaName, validate_folder, validate_media_name, validate_segment
from services.common.store.upload_store import OutboxEvent
from services.upload.content_types import resolve_content_type
from services.upload.endpoints.multipart import FileData, FileEnd, FileStart, FormEnd, FormEvent, FormField, FormParser
from services.upload.progress import NullProgress, StartProgress
from services.upload.writer.cleanup import cleanup_after
from services.upload.writer.upload_writer import UploadWriter

FORM_FIELDS = ("folder", "sid")


@dataclass(slots=True)
class FormUpload:
    """What is known of an upload so far. `fields` begins with what the query says; `accept` refuses a media type."""

    fields: dict[str, str]
    start_progress: StartProgress
    check_media_type: Callable[[str], str] = str
    filename: str | None = None
    content_type: str = ""
    seen_fields: set[str] = field(default_factory=set)
    progress: NullProgress = field(default_factory=NullProgress)

    def target_name(self) -> MediaName:
        """The checked name. Raises BadRequest."""
        if self.filename is None:
            raise BadRequest("the field 'file' is missing")
        return validate_media_name(self.fields.get("folder", ""), self.filename)

    def add_field(self, name: str, value: str) -> None:
        """Take a text field. Raises BadRequest for one that is unknown, given twice or other than in the query."""
        if name == "file":
            raise BadRequest("the field 'file' has no filename: send it as a file")
        if name not in FORM_FIELDS:
            raise BadRequest(f"unknown field {name!r}")
        if name == "folder":
            value = validate_folder(value)  # as the query's: two spellings are one folder
        if name in self.seen_fields or self.fields.get(name, value) != value:
            raise BadRequest(f"duplicate field {name!r}")
        self.seen_fields.add(name)
        self.fields[name] = value

    def start_file(self, event: FileStart) -> None:
        """Take the file part's headers. Raises BadRequest, and UnsupportedMediaType."""
        if event.field != "file":
            raise BadRequest(f"unknown file field {event.field!r}")
        if self.filename is not None:
            raise BadRequest("duplicate field 'file'")
        self.filename = validate_segment(event.filename, "filename")
        self.content_type = self.check_media_type(resolve_content_type(event.content_type, self.filename))
        # The length of a part is not stated anywhere: the whole is unknown until its end.
        self.progress = self.start_progress(self.fields.get("sid"), self.filename, None)


async def receive_form(
    body: AsyncIterable[bytes], parser: FormParser, form: FormUpload, writer: UploadWriter
) -> OutboxEvent:
    """Store the file of a form. Whatever interrupts it, an unfinished upload is taken back before this returns."""
    try:
        async for piece in body:
            for event in parser.feed(piece):
                await _handle_event(event, form, writer)
            form.progress.set_received(writer.bytes_received)
        parser.close()
        announcement = await writer.commit(form.target_name(), form.content_type)
    except BaseException as error:
        form.progress.set_state("failed")
        await cleanup_after(error, writer.abort())
        raise
    form.progress.set_received(writer.bytes_received, writer.bytes_received)
    form.progress.set_state("stored")
    return announcement


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
        case FileEnd() | FormEnd():
            pass
