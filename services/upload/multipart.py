"""Reads a multipart/form-data body (RFC 7578): bytes in, events out. No I/O; it knows neither the store nor the request.

python-multipart's push parser does the splitting. Its callbacks only collect events here; the caller stores what they say between
two writes, so memory stays at one piece of the body. What the parser lets pass is refused here: a body without its closing
boundary, too many parts, too long a field.
"""

from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from services.common.errors import BadRequest, TooLarge, UnsupportedMediaType

MAX_BOUNDARY = 70
"""RFC 2046, 5.1.1."""
MAX_PARTS = 64
MAX_FIELD = 16 * 1024
"""Bytes of one text field: the longest that means anything is a folder of 1,024. What is a little longer is told what is wrong."""
FORM_OVERHEAD = 1024 * 1024
"""Bytes that the boundaries, headers and fields of a form may take beside the file, and what stands before and behind them."""
MAX_PART_HEADERS = 8
MAX_PART_HEADER_BYTES = 4 * 1024


@dataclass(frozen=True, slots=True)
class FileBegins:
    """A part with a file name. `content_type` as the client stated it, perhaps empty."""

    field: str
    filename: str
    content_type: str


@dataclass(frozen=True, slots=True)
class FileData:
    """The next bytes of the file."""

    data: bytes


@dataclass(frozen=True, slots=True)
class FileEnds:
    """The file part is complete; the body may go on."""


@dataclass(frozen=True, slots=True)
class Field:
    """A whole text field."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class BodyEnds:
    """The closing boundary was seen."""


Event = FileBegins | FileData | FileEnds | Field | BodyEnds


def boundary_of(content_type: bytes) -> bytes:
    """The boundary in a request's Content-Type. Raises UnsupportedMediaType or BadRequest."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise UnsupportedMediaType("send the file as multipart/form-data")
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= MAX_BOUNDARY:
        raise BadRequest(f"the boundary of the multipart body must have 1 to {MAX_BOUNDARY} bytes")
    return boundary


class FormReader:
    """Give it the body with `feed` and say with `close` that it has ended. Both raise GridcastError for what breaks the rules."""

    def __init__(self, boundary: bytes) -> None:
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._part_data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
            max_header_count=MAX_PART_HEADERS,
            max_header_size=MAX_PART_HEADER_BYTES,
        )
        self._events: list[Event] = []
        self._parts = 0
        self._header = [bytearray(), bytearray()]
        self._headers: dict[bytes, bytes] = {}
        self._field: str | None = None
        self._value = bytearray()
        self._around = 0
        self._ended = False

    def feed(self, data: bytes) -> list[Event]:
        """What these bytes complete, in order."""
        self._events = []
        self._around += len(data)
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise BadRequest(f"the multipart body is malformed: {error}") from error
        if self._around > FORM_OVERHEAD:
            raise TooLarge(f"the multipart body has more than {FORM_OVERHEAD} bytes beside its file")
        return self._events

    def close(self) -> None:
        """The request has ended. The parser itself is silent about a body that was cut short."""
        if not self._ended:
            raise BadRequest("the multipart body ends before its closing boundary")

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise TooLarge(f"the multipart body has more than {MAX_PARTS} parts")
        self._headers = {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0] += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1] += data[start:end]

    def _header_end(self) -> None:
        name, value = (bytes(part) for part in self._header)
        name = name.lower()
        if name in self._headers:
            raise BadRequest(f"a part has two {_text(name, 'header')} headers")
        self._headers[name] = value
        self._header = [bytearray(), bytearray()]

    def _headers_finished(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if disposition != b"form-data" or b"name" not in options:
            raise BadRequest("a part has no Content-Disposition: form-data with a name")
        name = _text(options[b"name"], "field name")
        if b"filename" in options:
            self._field = None
            stated = _text(self._headers.get(b"content-type", b""), "content type")
            self._events.append(FileBegins(name, _text(options[b"filename"], "filename"), stated))
        else:
            self._field = name
            self._value = bytearray()

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self._around -= end - start
            self._events.append(FileData(data[start:end]))
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD:
            raise TooLarge(f"the field {self._field!r} is longer than {MAX_FIELD} bytes")

    def _part_end(self) -> None:
        if self._field is None:
            self._events.append(FileEnds())
        else:
            self._events.append(Field(self._field, _text(self._value, f"field {self._field!r}")))

    def _end(self) -> None:
        self._ended = True
        self._events.append(BodyEnds())


def _text(raw: bytes | bytearray, what: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"the {what} is not UTF-8") from error
