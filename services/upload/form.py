"""The flow of one form upload: events of the body in, a stored file out. It knows no HTTP and no driver.

Fields may stand before or after the file, as curl sends them in its user's order. So a file whose name is not known yet is received
without one and gets it at the end.
"""

from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass, field

from services.common.errors import BadRequest
from services.common.media import MediaName, check_folder, check_segment, media_name
from services.common.store.port import Announcement
from services.upload.cleanup import cleaned
from services.upload.content_types import content_type
from services.upload.multipart import BodyEnds, Event, Field, FileBegins, FileData, FileEnds, FormReader
from services.upload.progress import NoProgress, Watch
from services.upload.receive import Receiver

FIELDS = ("folder", "sid")


@dataclass(slots=True)
class Form:
    """What is known of an upload so far. `fields` begins with what the query says; `accept` refuses a media type."""

    fields: dict[str, str]
    watch: Watch
    accept: Callable[[str], str] = str
    filename: str | None = None
    content_type: str = ""
    given: set[str] = field(default_factory=set)
    progress: NoProgress = field(default_factory=NoProgress)

    def name(self) -> MediaName:
        """The checked name. Raises BadRequest."""
        if self.filename is None:
            raise BadRequest("the field 'file' is missing")
        return media_name(self.fields.get("folder", ""), self.filename)

    def put(self, name: str, value: str) -> None:
        """Take a text field. Raises BadRequest for one that is unknown, given twice or other than in the query."""
        if name == "file":
            raise BadRequest("the field 'file' has no filename: send it as a file")
        if name not in FIELDS:
            raise BadRequest(f"unknown field {name!r}")
        if name == "folder":
            value = check_folder(value)  # as the query's: two spellings are one folder
        if name in self.given or self.fields.get(name, value) != value:
            raise BadRequest(f"the field {name!r} is given twice")
        self.given.add(name)
        self.fields[name] = value

    def put_file(self, event: FileBegins) -> None:
        """Take the file part's headers. Raises BadRequest, and UnsupportedMediaType."""
        if event.field != "file":
            raise BadRequest(f"unknown file field {event.field!r}")
        if self.filename is not None:
            raise BadRequest("the field 'file' is given twice")
        self.filename = check_segment(event.filename, "filename")
        self.content_type = self.accept(content_type(event.content_type, self.filename))
        # The length of a part is not stated anywhere: the whole is unknown until its end.
        self.progress = self.watch(self.fields.get("sid"), self.filename, None)


async def receive_form(body: AsyncIterable[bytes], reader: FormReader, form: Form, receiver: Receiver) -> Announcement:
    """Store the file of a form. Whatever interrupts it, an unfinished upload is taken back before this returns."""
    try:
        async for piece in body:
            for event in reader.feed(piece):
                await _take(event, form, receiver)
            form.progress.received(receiver.received)
        reader.close()
        announcement = await receiver.finish(form.name(), form.content_type)
    except BaseException as error:
        form.progress.state("failed")
        await cleaned(error, receiver.discard())
        raise
    form.progress.received(receiver.received, receiver.received)
    form.progress.state("stored")
    return announcement


async def _take(event: Event, form: Form, receiver: Receiver) -> None:
    match event:
        case FileData(data):
            await receiver.write(data)
        case FileBegins():
            form.put_file(event)
            if "folder" in form.fields:
                await receiver.begin(form.name())
        case Field(name, value):
            form.put(name, value)
        case FileEnds() | BodyEnds():
            pass
