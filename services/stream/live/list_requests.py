"""What a request for a list asks for, and the header fields of its answer. Pure."""

from typing import NamedTuple
from urllib.parse import urlencode

from services.common.errors import BadRequest
from services.common.http.encoding import Field
from services.common.http.query import parse_query_pairs
from services.common.live.playlist import SKIP_TARGETS
from services.common.live.reload import InvalidReload, Reload, parse_reload
from services.stream.inline_types import ATTACHMENT_POLICY

LONGEST_WINDOW_SECONDS = 7 * 86_400
LIST_MEDIA_TYPE = b"application/vnd.apple.mpegurl"

_LIST_FIELDS: tuple[Field, ...] = (
    (b"content-type", LIST_MEDIA_TYPE),
    (b"vary", b"accept-encoding"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", ATTACHMENT_POLICY),
)


class ListRequest(NamedTuple):
    """Directives, and the length of a sliding list in seconds: 0 for the whole list, None for that of the stream."""

    reload: Reload = Reload()
    window: int | None = None


def parse_list_request(query: bytes) -> ListRequest:
    """Read a query. Parameters that are not known are ignored. Raises BadRequest."""
    if not query:
        return ListRequest()
    pairs = parse_query_pairs(query)
    try:
        reload = parse_reload(pairs)
    except InvalidReload as error:
        raise BadRequest(str(error)) from None
    windows = [value for name, value in pairs if name == "window"]
    if len(windows) > 1:
        raise BadRequest("window is given twice")
    return ListRequest(reload, _parse_window(windows[0]) if windows else None)


def _parse_window(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 7) or int(text) > LONGEST_WINDOW_SECONDS:
        raise BadRequest(f"window is not a number of seconds from 0, for the whole list, to {LONGEST_WINDOW_SECONDS}")
    return int(text)


def media_uri(request: ListRequest, link: str) -> str:
    """Return the relative address of the media playlist that a multivariant one leads to."""
    query: dict[str, str | int] = {}
    if request.window is not None:
        query["window"] = request.window
    if link:
        query["link"] = link
    return f"media.m3u8?{urlencode(query)}" if query else "media.m3u8"


def list_headers(length: int, cache_control: bytes, *, gzip: bool) -> list[Field]:
    """Return the fields of an answer with a list of `length` bytes."""
    coding = ((b"content-encoding", b"gzip"),) if gzip else ()
    return [*_LIST_FIELDS, *coding, (b"content-length", b"%d" % length), (b"cache-control", cache_control)]


def list_cache_control(scope: str, target: int, reload: Reload, *, ended: bool) -> bytes:
    """Return how long a list may be kept (RFC 8216bis, 6.2.5.2). `scope` is `public` or `private`.

    An answer to a request for a segment has that segment for ever. Any other one is as good as half a target duration.
    """
    if reload.sequence is not None or ended:
        return f"{scope}, max-age={SKIP_TARGETS * target}".encode("ascii")
    return f"{scope}, max-age={target // 2}".encode("ascii") if target > 1 else b"no-cache"
