"""Plans the response to a GET or HEAD: status, headers, and which bytes of the file in which order.

Everything is decided before the first byte is sent.
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
from services.stream.inline_types import ATTACHMENT_POLICY, INLINE_POLICY, is_inline
from services.stream.preconditions import PreconditionResult
from services.stream.ranges import ByteRange

_ASCII_FILENAME_CHARS = frozenset("!#$&+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz ")


@dataclass(frozen=True, slots=True)
class Representation:
    """A file with the headers that all responses about it share, encoded once."""

    info: MediaInfo
    etag: str
    last_modified: datetime
    validator_headers: PreencodedHeaders
    """The headers of a response without content."""
    multipart_headers: PreencodedHeaders
    """The same and the headers of the content except its type, which differs in a multipart response."""
    content_headers: PreencodedHeaders
    """The headers of a response with content."""


class ResponsePlan(NamedTuple):
    """A response: `headers` are its own, `preencoded_headers` those that it shares with others about the file.

    `body_parts` are literal bytes and ranges of the file; a HEAD has none.
    """

    status: int
    headers: list[Field]
    preencoded_headers: PreencodedHeaders
    body_parts: Sequence[bytes | ByteRange]


def build_representation(info: MediaInfo, now: datetime) -> Representation:
    """Encode the headers that depend on the file alone.

    `now` is this service's time, before which Last-Modified is even where the store's clock is ahead (RFC 9110, 8.8.2.1).
    """
    modified = min(info.uploaded_at, now).replace(microsecond=0)
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
        (b"content-security-policy", INLINE_POLICY if is_inline(info.content_type) else ATTACHMENT_POLICY),
    )
    content = (*parts, (b"content-type", info.content_type.encode("latin-1")))
    return Representation(
        info, info.etag, modified, PreencodedHeaders(validators), PreencodedHeaders(parts), PreencodedHeaders(content)
    )


def plan_response(
    method: str, headers: Mapping[str, str], representation: Representation, now: datetime
) -> ResponsePlan:
    """Plan the response to a GET or HEAD with these headers, names in lower case.

    Raises:
        PreconditionFailed: for If-Match and If-Unmodified-Since (RFC 9110, 13).
        RangeNotSatisfiable: where no range overlaps the file (RFC 9110, 14.4).

    """
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
    """Return the ranges to send, None for the whole file. HEAD ignores Range (RFC 9110, 14.2)."""
    stated = headers.get("range")
    if stated is None or method != "GET" or not preconditions.if_range_matches(headers, representation.etag):
        return None
    specs = ranges.parse_range_header(stated)
    if specs is None:
        return None
    if representation.info.length == 0 and any(spec.suffix_length for spec in specs):
        return None  # a suffix of an empty file is the whole file, which 206 cannot express
    return ranges.resolve_ranges(specs, representation.info.length)


def _plan_multipart(representation: Representation, ranges: list[ByteRange]) -> ResponsePlan:
    """Plan a multipart/byteranges response (RFC 9110, 14.6), whose length is known in advance."""
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
    """Return Repr-Digest (RFC 9530, 3) if the store has a SHA-256 of the file."""
    if sha256 is None:
        return ()
    return ((b"repr-digest", f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode('ascii')}:".encode("ascii")),)


def _content_length_header(length: int) -> Field:
    return (b"content-length", b"%d" % length)


def _content_range_value(byte_range: ByteRange, length: int) -> bytes:
    return b"bytes %d-%d/%d" % (byte_range.first, byte_range.last, length)


def content_disposition(filename: str, content_type: str) -> str:
    """Return Content-Disposition with the filename in ASCII and, if that differs, in UTF-8 too (RFC 6266, RFC 8187)."""
    how = "inline" if is_inline(content_type) else "attachment"
    plain = "".join(character if character in _ASCII_FILENAME_CHARS else "_" for character in filename)
    if plain == filename:
        return f'{how}; filename="{filename}"'
    return f"{how}; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='!#$&+-.^_`|~')}"
