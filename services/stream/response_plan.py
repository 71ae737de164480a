"""Plans the answer to a read: status, header fields, and which bytes of the file in what order. Pure; it reads no file.

Everything is decided before the first byte is sent, so that nothing has to be taken back.
"""

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from urllib.parse import quote

from services.common.errors import PreconditionFailed, RangeNotSatisfiable
from services.common.http.dates import format_http_date
from services.common.http.encoding import Field, PreencodedHeaders
from services.common.media import MediaInfo
from services.stream import preconditions, ranges
from services.stream.preconditions import PreconditionResult
from services.stream.ranges import ByteRange

# Types that a browser may show in place, one by one. Never HTML, SVG, XML or PDF: they can carry scripts of whoever uploaded them.
_INLINE_TYPES = frozenset(
    {
        *("video/mp4", "video/webm", "video/ogg", "video/quicktime", "video/matroska"),
        *("audio/mpeg", "audio/mp4", "audio/aac", "audio/ogg", "audio/webm", "audio/wav", "audio/flac"),
        *("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"),
        "text/plain",
    }
)
_ASCII_FILENAME_CHARS = frozenset("!#$&+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz ")


@dataclass(frozen=True, slots=True)
class Representation:
    """A file with the header fields that all its answers share: made once, used for every request."""

    info: MediaInfo
    etag: str
    last_modified: datetime
    validator_headers: PreencodedHeaders
    """All that an answer without content has."""
    multipart_headers: PreencodedHeaders
    """The same and what is said of the content, but for its type, which is another where it comes in parts."""
    content_headers: PreencodedHeaders
    """All that an answer with content has in common with others."""


class ResponsePlan(NamedTuple):
    """An answer. `shared` are the fields that all answers about the file have, `headers` its own.

    `body` are literal bytes and ranges of the file; that of a HEAD is empty.
    """

    status: int
    headers: list[Field]
    preencoded_headers: PreencodedHeaders
    body_parts: Sequence[bytes | ByteRange]


def build_representation(info: MediaInfo) -> Representation:
    """Everything about the answers that depends on the file alone."""
    modified = info.uploaded_at.replace(microsecond=0)
    validators = (
        (b"etag", info.etag.encode("ascii")),
        (b"last-modified", format_http_date(modified).encode("ascii")),
        (b"cache-control", b"no-cache"),
    )
    parts = (
        *validators,
        (b"accept-ranges", b"bytes"),
        (b"content-disposition", content_disposition(info.filename, info.content_type).encode("ascii")),
        *_repr_digest_header(info.sha256),
        (b"x-content-type-options", b"nosniff"),
        (b"content-security-policy", b"sandbox; default-src 'none'"),
    )
    content = (*parts, (b"content-type", info.content_type.encode("latin-1")))
    return Representation(
        info, info.etag, modified, PreencodedHeaders(validators), PreencodedHeaders(parts), PreencodedHeaders(content)
    )


def plan_response(
    method: str, headers: Mapping[str, str], representation: Representation, now: datetime
) -> ResponsePlan:
    """The answer to a GET or HEAD. `headers` with names in lower case. Raises PreconditionFailed and RangeNotSatisfiable."""
    info = representation.info
    match preconditions.evaluate_preconditions(headers, representation.etag, representation.last_modified, now):
        case PreconditionResult.FAILED:
            raise PreconditionFailed("the file does not match the precondition")
        case PreconditionResult.NOT_MODIFIED:
            return ResponsePlan(304, [], representation.validator_headers, ())
    wanted = _requested_ranges(method, headers, representation)
    if wanted is None:
        whole = (ByteRange(0, info.length - 1),) if info.length and method == "GET" else ()
        return ResponsePlan(200, [_content_length_header(info.length)], representation.content_headers, whole)
    if not wanted:
        raise RangeNotSatisfiable(info.length)
    if len(wanted) == 1:
        (only,) = wanted
        own = [_content_length_header(only.length), (b"content-range", _content_range_value(only, info.length))]
        return ResponsePlan(206, own, representation.content_headers, wanted)
    return _plan_multipart(representation, wanted)


def _requested_ranges(
    method: str, headers: Mapping[str, str], representation: Representation
) -> list[ByteRange] | None:
    """The ranges to send, None for the whole file. HEAD ignores Range (RFC 9110, 14.2)."""
    stated = headers.get("range")
    if stated is None or method != "GET" or not preconditions.if_range_matches(headers, representation.etag):
        return None
    specs = ranges.parse_range_header(stated)
    if specs is None:
        return None
    if representation.info.length == 0 and any(spec.suffix_length for spec in specs):
        return None  # the last bytes of nothing are all of it, which no 206 can say
    return ranges.resolve_ranges(specs, representation.info.length)


def _plan_multipart(representation: Representation, ranges: list[ByteRange]) -> ResponsePlan:
    """multipart/byteranges (RFC 9110, 14.6), its length known beforehand."""
    info = representation.info
    boundary = info.sha256 or secrets.token_hex(32)  # no file can be made that contains its own SHA-256
    body: list[bytes | ByteRange] = []
    for number, part in enumerate(ranges):
        head = "" if number == 0 else "\r\n"
        head += f"--{boundary}\r\nContent-Type: {info.content_type}\r\nContent-Range: "
        body += [head.encode("latin-1") + _content_range_value(part, info.length) + b"\r\n\r\n", part]
    body.append(f"\r\n--{boundary}--\r\n".encode("ascii"))
    length = sum(len(item) if isinstance(item, bytes) else item.length for item in body)
    kind = (b"content-type", f"multipart/byteranges; boundary={boundary}".encode("ascii"))
    return ResponsePlan(206, [kind, _content_length_header(length)], representation.multipart_headers, body)


def _repr_digest_header(sha256: str | None) -> tuple[Field, ...]:
    """Repr-Digest (RFC 9530, 3), where the store has a SHA-256 of the file."""
    if sha256 is None:
        return ()
    return ((b"repr-digest", f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode('ascii')}:".encode("ascii")),)


def _content_length_header(length: int) -> Field:
    return (b"content-length", b"%d" % length)


def _content_range_value(byte_range: ByteRange, length: int) -> bytes:
    return b"bytes %d-%d/%d" % (byte_range.first, byte_range.last, length)


def content_disposition(filename: str, content_type: str) -> str:
    """Content-Disposition with the name in ASCII and, where that is not all of it, in UTF-8 (RFC 6266, RFC 8187)."""
    kind = content_type.partition(";")[0].strip().lower()
    # What stands behind a comma is another type to browsers.
    how = "inline" if kind in _INLINE_TYPES and "," not in content_type else "attachment"
    plain = "".join(character if character in _ASCII_FILENAME_CHARS else "_" for character in filename)
    if plain == filename:
        return f'{how}; filename="{filename}"'
    return f"{how}; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='!#$&+-.^_`|~')}"
