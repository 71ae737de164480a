"""Parses a multipart/form-data body (RFC 7578, RFC 2046, 5.1.1): bytes in, events out. Pure.

A preamble, white space behind a boundary, folded header fields, transfer encodings and an epilogue are accepted, as general MIME
libraries send them. Refused are a body without its closing boundary, too many parts, too long a field, and a boundary that is
followed by more than white space. No more of the file than one piece of the body is in memory.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto

from services.common.errors import BadRequest, ContentTooLarge, UnsupportedMediaType
from services.upload.endpoints.content_disposition import decode_name, decode_text, parse_field_value
from services.upload.endpoints.transfer_encoding import TransferDecoder, create_decoder

MAX_BOUNDARY_BYTES = 70
"""RFC 2046, 5.1.1."""
MAX_FORM_PARTS = 128
"""A file, its folder and sid, 64 fields of metadata, and what browsers and libraries add."""
MAX_FORM_FIELD_BYTES = 16 * 1024
"""Bytes of one text field."""
MAX_FORM_OVERHEAD_BYTES = 1024 * 1024
"""Bytes of a form beside the file: boundaries, headers, fields, preamble and epilogue."""
MAX_PART_HEADERS = 8
MAX_PART_HEADER_BYTES = 4 * 1024
"""Bytes of all header fields of one part."""
MAX_PADDING_BYTES = 1024
"""Bytes of white space behind one boundary."""

_HEADER_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\x00-\x08\x0a-\x1f\x7f]*)\Z")
_FOLD = re.compile(rb"\r\n(?=[ \t])")
# The boundary of aiohttp's writer, which percent-encodes filenames; it also writes Content-Type before Content-Disposition.
_HEX_BOUNDARY = re.compile(rb"[0-9a-f]{32}\Z")


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
class EmptyFileInput:
    """A part without a filename's text and without content: a file input in which nothing was chosen (HTML, 4.10.21.4)."""

    field: str


@dataclass(frozen=True, slots=True)
class FormField:
    """A complete text field."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class FormEnd:
    """The closing boundary."""


FormEvent = FileStart | FileData | FileEnd | EmptyFileInput | FormField | FormEnd


def parse_boundary(content_type: bytes) -> bytes:
    """Return the boundary in a request's Content-Type. Raises UnsupportedMediaType or BadRequest."""
    if content_type.partition(b";")[0].strip(b" \t").lower() != b"multipart/form-data":
        raise UnsupportedMediaType("Content-Type must be multipart/form-data")
    boundary = parse_field_value(content_type, "Content-Type").parameters.get("boundary", b"")
    if not 1 <= len(boundary) <= MAX_BOUNDARY_BYTES:
        raise BadRequest(f"the boundary of the multipart body must have 1 to {MAX_BOUNDARY_BYTES} bytes")
    return boundary


class _ParserState(Enum):
    PREAMBLE = auto()
    BEHIND_BOUNDARY = auto()
    PART_HEADERS = auto()
    PART_BODY_START = auto()
    PART_BODY = auto()
    EPILOGUE = auto()


class FormParser:
    """Push parser: `feed` takes the body, `close` its end. Both raise BadRequest, ContentTooLarge and UnsupportedMediaType.

    `percent_encoded_filenames` says that the client is known to percent-encode filenames as a whole, as aiohttp does.
    """

    def __init__(self, boundary: bytes, *, percent_encoded_filenames: bool = False) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._is_hex_boundary = bool(_HEX_BOUNDARY.match(boundary))
        self._percent_encoded_filenames = percent_encoded_filenames
        self._state = _ParserState.PREAMBLE
        self._buffer = b"\r\n"  # the first boundary need not follow a line end
        self._events: list[FormEvent] = []
        self._part_count = 0
        self._overhead_bytes = 0
        self._field_name = ""
        self._is_file = False
        self._charset = "utf-8"
        self._unnamed_file = False
        self._field_value = bytearray()
        self._decoder: TransferDecoder = create_decoder(b"")

    def feed(self, data: bytes) -> list[FormEvent]:
        """Return the events that these bytes complete, in order."""
        self._events = []
        self._overhead_bytes += len(data)
        self._buffer += data
        while self._step():
            pass
        if self._overhead_bytes > MAX_FORM_OVERHEAD_BYTES:
            raise ContentTooLarge(f"the multipart body has more than {MAX_FORM_OVERHEAD_BYTES} bytes beside its file")
        return self._events

    def close(self) -> None:
        """Raise BadRequest where the body was truncated."""
        if self._state is not _ParserState.EPILOGUE:
            raise BadRequest("the multipart body ends before its closing boundary")

    def _step(self) -> bool:
        """Parse what the buffer has of the present state. False where more bytes are needed."""
        match self._state:
            case _ParserState.PREAMBLE:
                return self._find_delimiter() is not None
            case _ParserState.BEHIND_BOUNDARY:
                return self._parse_boundary_end()
            case _ParserState.PART_HEADERS:
                return self._parse_headers()
            case _ParserState.PART_BODY_START:
                return self._parse_body_start()
            case _ParserState.PART_BODY:
                return self._parse_body()
            case _ParserState.EPILOGUE:
                self._buffer = b""
                return False

    def _find_delimiter(self) -> bytes | None:
        """Return what is before the delimiter and go behind it; None where it is not in the buffer, whose end may begin it."""
        index = self._buffer.find(self._delimiter)
        if index < 0:
            if self._state is _ParserState.PREAMBLE:
                self._buffer = self._buffer[-len(self._delimiter) :]
            return None
        before, self._buffer = self._buffer[:index], self._buffer[index + len(self._delimiter) :]
        self._state = _ParserState.BEHIND_BOUNDARY
        return before

    def _parse_boundary_end(self) -> bool:
        """White space and a line end behind a boundary, or the two hyphens of the closing one."""
        if self._buffer.startswith(b"--"):
            self._state = _ParserState.EPILOGUE
            self._events.append(FormEnd())
            return True
        rest = self._buffer.lstrip(b" \t")
        if rest.startswith(b"\r\n"):
            self._buffer = rest[2:]
            self._begin_part()
            return True
        incomplete = rest in {b"", b"\r"} or self._buffer == b"-"
        if not incomplete or len(self._buffer) > MAX_PADDING_BYTES:
            raise _malformed("a boundary is followed by more than white space")
        return False

    def _begin_part(self) -> None:
        self._part_count += 1
        if self._part_count > MAX_FORM_PARTS:
            raise ContentTooLarge(f"the multipart body has more than {MAX_FORM_PARTS} parts")
        self._state = _ParserState.PART_HEADERS

    def _parse_headers(self) -> bool:
        empty_line = b"\r\n" if self._buffer.startswith(b"\r\n") else b"\r\n\r\n"
        index = self._buffer.find(empty_line)
        end = index + len(empty_line) - 2
        if (end if index >= 0 else len(self._buffer)) > MAX_PART_HEADER_BYTES:
            raise _malformed(f"a part has more than {MAX_PART_HEADER_BYTES} bytes of header fields")
        if index < 0:
            return False
        block, self._buffer = self._buffer[:end], self._buffer[end:]
        self._begin_body(_parse_header_fields(block))
        # The line end of the empty line is also the one that a boundary begins with, where the part has no content.
        self._state = _ParserState.PART_BODY_START
        return True

    def _begin_body(self, fields: dict[bytes, bytes]) -> None:
        disposition = parse_field_value(fields.get(b"content-disposition", b""), "Content-Disposition of a part")
        by_aiohttp = self._is_hex_boundary and next(iter(fields), b"") == b"content-type"
        parameters = disposition.parameters
        name = decode_name(parameters, "name")
        if disposition.value != "form-data" or not name:
            raise BadRequest("a part has no Content-Disposition: form-data with a name")
        filename = decode_name(parameters, "filename", percent_encoded=self._percent_encoded_filenames or by_aiohttp)
        content_type = fields.get(b"content-type", b"")
        self._decoder = create_decoder(fields.get(b"content-transfer-encoding", b""))
        self._field_name, self._field_value = name, bytearray()
        self._is_file, self._unnamed_file = filename is not None, filename == ""
        if filename:
            self._events.append(FileStart(name, filename, decode_text(content_type, "utf-8", "content type")))
        elif filename is None:
            charset = parse_field_value(content_type, "Content-Type of a part").parameters.get("charset", b"utf-8")
            self._charset = charset.decode("latin-1")

    def _parse_body_start(self) -> bool:
        if self._buffer.startswith(self._delimiter):
            return self._parse_body()
        if self._delimiter.startswith(self._buffer):
            return False
        self._buffer = self._buffer[2:]
        self._state = _ParserState.PART_BODY
        return True

    def _parse_body(self) -> bool:
        content = self._find_delimiter()
        if content is None:
            kept = len(self._delimiter) - 1
            content, self._buffer = self._buffer[:-kept], self._buffer[-kept:]
            self._add_content(content, self._decoder.feed(content))
            return False
        self._add_content(content, self._decoder.feed(content))
        self._add_content(b"", self._decoder.finish())
        self._end_part()
        return True

    def _add_content(self, raw: bytes, content: bytes) -> None:
        if self._unnamed_file:
            if content:
                raise BadRequest("filename is empty")
        elif self._is_file:
            self._overhead_bytes -= len(raw)
            if content:
                self._events.append(FileData(content))
        else:
            self._field_value += content
            if len(self._field_value) > MAX_FORM_FIELD_BYTES:
                raise ContentTooLarge(f"the field {self._field_name!r} is longer than {MAX_FORM_FIELD_BYTES} bytes")

    def _end_part(self) -> None:
        if self._unnamed_file:
            self._events.append(EmptyFileInput(self._field_name))
        elif self._is_file:
            self._events.append(FileEnd())
        else:
            value = decode_text(self._field_value, self._charset, f"field {self._field_name!r}")
            self._events.append(FormField(self._field_name, value))


def _parse_header_fields(block: bytes) -> dict[bytes, bytes]:
    """Parse lines that each end in CRLF. Folded lines are joined (RFC 5322, 2.2.3). Raises BadRequest."""
    fields: dict[bytes, bytes] = {}
    for line in _FOLD.sub(b"", block).split(b"\r\n")[:-1]:
        match = _HEADER_FIELD.match(line)
        if match is None:
            raise _malformed("a part has a line that is no header field")
        name = match[1].lower()
        if name in fields:
            raise BadRequest(f"a part has two {name.decode('ascii')} headers")
        fields[name] = match[2].strip(b" \t")
        if len(fields) > MAX_PART_HEADERS:
            raise _malformed(f"a part has more than {MAX_PART_HEADERS} header fields")
    return fields


def _malformed(reason: str) -> BadRequest:
    return BadRequest(f"the multipart body is malformed: {reason}")
