"""Names of the objects that muxers of HLS and DASH send: which are media, which are lists. Pure."""

import re
from typing import Literal

from services.common.errors import BadRequest, UnsupportedMediaType

ObjectKind = Literal["media", "list"]
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_LISTS = (".m3u8", ".mpd", ".m3u8.tmp", ".mpd.tmp")
_MEDIA = (".mp4", ".m4s", ".m4v", ".m4a", ".cmfv", ".cmfa", ".mp4.tmp", ".m4s.tmp")


def object_kind(name: str) -> ObjectKind:
    """Return what an object of this name is. Raises BadRequest for no name, UnsupportedMediaType for other media."""
    if not _NAME.match(name):
        raise BadRequest("the name of an object has up to 128 letters, digits, points, hyphens and underscores")
    if name.lower().endswith(_LISTS):
        return "list"
    if name.lower().endswith(_MEDIA):
        return "media"
    raise UnsupportedMediaType(f"objects are {', '.join(_MEDIA[:6])}, and lists; not MPEG-TS or WebM")
