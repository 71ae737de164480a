"""Path addresses of files: `/files/{folder...}/{filename}`, percent-encoded. Pure.

Each segment of the raw path is decoded once (RFC 3986, 2.4), after the path was split at its slashes. What another parser could
split, decode or truncate differently is refused. Every legal name has one address that `media_path` gives; spellings that
RFC 3986, 6.2.2 calls equivalent to it reach the same file.
"""

import re
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

from services.common.errors import BadRequest
from services.common.media import MediaName, validate_media_name

PATH_PREFIX = "/files/"
PATH_TEMPLATE = "/files/{path}"
"""The label of these addresses in logs and metrics."""

# RFC 3986, 3.3: pchar without ";", which some parsers take for the beginning of parameters; "[", "]" and "|", which browsers do not
# encode in paths. No parser divides a path at any of these.
_NOT_ENCODED = re.compile(r"[^A-Za-z0-9._~!$&'()*+,=:@\[\]|%-]|%(?![0-9A-Fa-f]{2})")


def media_path(name: MediaName) -> str:
    """Return the path address of a file. All characters are encoded that RFC 3986, 2.3 does not call unreserved."""
    segments = [*name.folder.split("/"), name.filename] if name.folder else [name.filename]
    return PATH_PREFIX + "/".join(quote(segment, safe="") for segment in segments)


@lru_cache(maxsize=1024)
def parse_media_path(raw_path: str) -> MediaName:
    """Return the name that a raw path below PATH_PREFIX gives. Raises BadRequest, which says what is wrong with the path."""
    segments = raw_path.removeprefix(PATH_PREFIX).split("/")
    if not segments[-1]:
        raise BadRequest("the path ends with a slash: it names no file")
    if "" in segments:
        raise BadRequest("the path has an empty segment")
    *folders, filename = [_decode_segment(segment) for segment in segments]
    return validate_media_name("/".join(folders), filename)


def _decode_segment(segment: str) -> str:
    if (found := _NOT_ENCODED.search(segment)) is not None:
        if found[0] == "%":
            raise BadRequest("the path contains % without two hexadecimal digits: write %25")
        raise BadRequest(f"the path contains {found[0]}, which must be percent-encoded (RFC 3986, 3.3)")
    try:
        text = unquote_to_bytes(segment).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest("the path is not UTF-8 where it is percent-encoded") from error
    if "/" in text:
        raise BadRequest("the path contains %2F, an encoded slash")
    if text in {".", ".."}:
        raise BadRequest(f"the path has the dot segment {segment}")
    return text
