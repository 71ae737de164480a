"""Parses a multipart/form-data body (RFC 7578): bytes in, events out. Pure.

python-multipart's push parser does the splitting. Its callbacks only collect events; the caller handles them between two writes, so
no more than one piece of the body is in memory. What that parser accepts is refused here: a body without its closing boundary, too
many parts, too long a field.
"""

from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from services.common.errors import BadRequest, ContentTooLarge, UnsupportedMediaType

MAX_BOUNDARY_BYTES = 70
"""RFC 2046, 5.1.1."""
MAX_FORM_PARTS = 64
MAX_FIELD_BYTES = 16 * 1024
"""Bytes of one text field. The longest valid one is a folder of 1,024; a longer folder gets an error that says so."""
MAX_FORM_OVERHEAD_BYTES = 1024 * 1024
"""Bytes of a form beside the file: boundaries, headers, fields, preamble and epilogue."""
MAX_PART_HEADERS = 8
MAX_PART_HEADER_BYTES = 4 * 1024


@dataclass(frozen=True, slots=True)
class FileStart:
    """The headers of a part with a file name. `content_type` as declared, empty where it is not."""

    field: str
    filename: str
    content_type: str


@dataclass(frozen=True, slots=True)
class FileData:
    """The next bytes of the file."""

    data: bytes


@dataclass(frozen=True, slots=True)
class FileEnd:
    """The file part is complete; the body may go on."""


@dataclass(frozen=True, slots=True)
class FormField:
    """A complete text field."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class FormEnd:
    """The closing boundary."""


FormEvent = FileStart | FileData | FileEnd | FormField | FormEnd


def parse_boundary(content_type: bytes) -> bytes:
    """Return the boundary in a request's Content-Type. Raises UnsupportedMediaType or BadRequest."""
    media_type, options = parse_options_header(content_type)
    if media_type != b"multipart/form-data":
        raise UnsupportedMediaType("Content-Type must be multipart/form-data")
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= MAX_BOUNDARY_BYTES:
        raise BadRequest(f"the boundary of the multipart body must have 1 to {MAX_BOUNDARY_BYTES} bytes")
    return boundary


class FormParser:
    """Push parser: `feed` takes the body, `close` its end. Both raise BadRequest or ContentTooLarge."""

    def __init__(self, boundary: bytes) -> None:
        self._multipart = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
            max_header_count=MAX_PART_HEADERS,
            max_header_size=MAX_PART_HEADER_BYTES,
        )
        self._events: list[FormEvent] = []
        self._part_count = 0
        self._current_header = [bytearray(), bytearray()]
        self._part_headers: dict[bytes, bytes] = {}
        self._field_name: str | None = None
        self._field_value = bytearray()
        self._overhead_bytes = 0
        self._complete = False

    def feed(self, data: bytes) -> list[FormEvent]:
        """Return the events that these bytes complete, in order."""
        self._events = []
        self._overhead_bytes += len(data)
        try:
            self._multipart.write(data)
        except FormParserError as error:
            raise BadRequest(f"the multipart body is malformed: {error}") from error
        if self._overhead_bytes > MAX_FORM_OVERHEAD_BYTES:
            raise ContentTooLarge(f"the multipart body has more than {MAX_FORM_OVERHEAD_BYTES} bytes beside its file")
        return self._events

    def close(self) -> None:
        """Raise BadRequest where the body was truncated, which python-multipart does not report."""
        if not self._complete:
            raise BadRequest("the multipart body ends before its closing boundary")

    def _on_part_begin(self) -> None:
        self._part_count += 1
        if self._part_count > MAX_FORM_PARTS:
            raise ContentTooLarge(f"the multipart body has more than {MAX_FORM_PARTS} parts")
        self._part_headers = {}

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._current_header[0] += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._current_header[1] += data[start:end]

    def _on_header_end(self) -> None:
        name, value = (bytes(part) for part in self._current_header)
        name = name.lower()
        if name in self._part_headers:
            raise BadRequest(f"a part has two {_decode_utf8(name, 'header')} headers")
        self._part_headers[name] = value
        self._current_header = [bytearray(), bytearray()]

    def _on_headers_finished(self) -> None:
        disposition, options = parse_options_header(self._part_headers.get(b"content-disposition", b""))
        if disposition != b"form-data" or b"name" not in options:
            raise BadRequest("a part has no Content-Disposition: form-data with a name")
        name = _decode_utf8(options[b"name"], "field name")
        if b"filename" in options:
            self._field_name = None
            declared = _decode_utf8(self._part_headers.get(b"content-type", b""), "content type")
            self._events.append(FileStart(name, _decode_utf8(options[b"filename"], "filename"), declared))
        else:
            self._field_name = name
            self._field_value = bytearray()

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field_name is None:
            self._overhead_bytes -= end - start
            self._events.append(FileData(data[start:end]))
            return
        self._field_value += data[start:end]
        if len(self._field_value) > MAX_FIELD_BYTES:
            raise ContentTooLarge(f"the field {self._field_name!r} is longer than {MAX_FIELD_BYTES} bytes")

    def _on_part_end(self) -> None:
        if self._field_name is None:
            self._events.append(FileEnd())
        else:
            self._events.append(
                FormField(self._field_name, _decode_utf8(self._field_value, f"field {self._field_name!r}"))
            )

    def _on_end(self) -> None:
        self._complete = True
        self._events.append(FormEnd())


def _decode_utf8(raw: bytes | bytearray, label: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"the {label} is not UTF-8") from error
