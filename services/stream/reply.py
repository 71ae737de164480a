"""Plans the answer to a read: status, header fields, and which bytes of the file in what order. Pure; it reads no file.

Everything is decided before the first byte is sent, so that nothing has to be taken back.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from urllib.parse import quote

from services.common.answer import Field, Shared
from services.common.dates import format_date
from services.common.errors import PreconditionFailed, RangeNotSatisfiable
from services.common.media import MediaInfo
from services.stream import conditions, ranges
from services.stream.conditions import Verdict
from services.stream.ranges import ByteRange

# Types that a browser may show in place, one by one. Never HTML, SVG, XML or PDF: they can carry scripts of whoever uploaded them.
_INLINE = frozenset(
    {
        *("video/mp4", "video/webm", "video/ogg", "video/quicktime", "video/matroska"),
        *("audio/mpeg", "audio/mp4", "audio/aac", "audio/ogg", "audio/webm", "audio/wav", "audio/flac"),
        *("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"),
        "text/plain",
    }
)
_TOKEN = frozenset("!#$&+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz ")


@dataclass(frozen=True, slots=True)
class Representation:
    """A file with the header fields that all its answers share: made once, used for every request."""

    info: MediaInfo
    etag: str
    modified: datetime
    validators: Shared
    """All that an answer without content has."""
    parts: Shared
    """The same and what is said of the content, but for its type, which is another where it comes in parts."""
    content: Shared
    """All that an answer with content has in common with others."""


class Reply(NamedTuple):
    """An answer. `shared` are the fields that all answers about the file have, `headers` its own.

    `body` are literal bytes and ranges of the file; that of a HEAD is empty.
    """

    status: int
    headers: list[Field]
    shared: Shared
    body: Sequence[bytes | ByteRange]


def represent(info: MediaInfo) -> Representation:
    """Everything about the answers that depends on the file alone."""
    modified = info.uploaded_at.replace(microsecond=0)
    digest = base64.b64encode(bytes.fromhex(info.sha256)).decode("ascii")
    validators = (
        (b"etag", info.etag.encode("ascii")),
        (b"last-modified", format_date(modified).encode("ascii")),
        (b"cache-control", b"no-cache"),
    )
    parts = (
        *validators,
        (b"accept-ranges", b"bytes"),
        (b"content-disposition", disposition(info.filename, info.content_type).encode("ascii")),
        (b"repr-digest", f"sha-256=:{digest}:".encode("ascii")),
        (b"x-content-type-options", b"nosniff"),
        (b"content-security-policy", b"sandbox; default-src 'none'"),
    )
    content = (*parts, (b"content-type", info.content_type.encode("latin-1")))
    return Representation(info, info.etag, modified, Shared(validators), Shared(parts), Shared(content))


def plan(method: str, headers: Mapping[str, str], file: Representation, now: datetime) -> Reply:
    """The answer to a GET or HEAD. `headers` with names in lower case. Raises PreconditionFailed and RangeNotSatisfiable."""
    info = file.info
    match conditions.evaluate(headers, file.etag, file.modified, now):
        case Verdict.FAILED:
            raise PreconditionFailed("the file is not the one the precondition names")
        case Verdict.NOT_MODIFIED:
            return Reply(304, [], file.validators, ())
    wanted = _wanted(method, headers, file)
    if wanted is None:
        whole = (ByteRange(0, info.length - 1),) if info.length and method == "GET" else ()
        return Reply(200, [_content_length(info.length)], file.content, whole)
    if not wanted:
        raise RangeNotSatisfiable(info.length)
    if len(wanted) == 1:
        (only,) = wanted
        own = [_content_length(only.length), (b"content-range", _content_range(only, info.length))]
        return Reply(206, own, file.content, wanted)
    return _multipart(file, wanted)


def _wanted(method: str, headers: Mapping[str, str], file: Representation) -> list[ByteRange] | None:
    """The ranges to send, None for the whole file. HEAD ignores Range (RFC 9110, 14.2)."""
    stated = headers.get("range")
    if stated is None or method != "GET" or not conditions.range_applies(headers, file.etag):
        return None
    specs = ranges.parse(stated)
    if specs is None:
        return None
    if file.info.length == 0 and any(spec.suffix for spec in specs):
        return None  # the last bytes of nothing are all of it, which no 206 can say
    return ranges.resolve(specs, file.info.length)


def _multipart(file: Representation, wanted: list[ByteRange]) -> Reply:
    """multipart/byteranges (RFC 9110, 14.6), its length known beforehand."""
    info = file.info
    boundary = info.sha256  # nobody can make a file that holds its own SHA-256
    body: list[bytes | ByteRange] = []
    for number, part in enumerate(wanted):
        head = "" if number == 0 else "\r\n"
        head += f"--{boundary}\r\nContent-Type: {info.content_type}\r\nContent-Range: "
        body += [head.encode("latin-1") + _content_range(part, info.length) + b"\r\n\r\n", part]
    body.append(f"\r\n--{boundary}--\r\n".encode("ascii"))
    length = sum(len(item) if isinstance(item, bytes) else item.length for item in body)
    kind = (b"content-type", f"multipart/byteranges; boundary={boundary}".encode("ascii"))
    return Reply(206, [kind, _content_length(length)], file.parts, body)


def _content_length(length: int) -> Field:
    return (b"content-length", b"%d" % length)


def _content_range(part: ByteRange, length: int) -> bytes:
    return b"bytes %d-%d/%d" % (part.first, part.last, length)


def disposition(filename: str, content_type: str) -> str:
    """Content-Disposition with the name in ASCII and, where that is not all of it, in UTF-8 (RFC 6266, RFC 8187)."""
    kind = content_type.partition(";")[0].strip().lower()
    # What stands behind a comma is another type to browsers.
    how = "inline" if kind in _INLINE and "," not in content_type else "attachment"
    plain = "".join(character if character in _TOKEN else "_" for character in filename)
    if plain == filename:
        return f'{how}; filename="{filename}"'
    return f"{how}; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='!#$&+-.^_`|~')}"
