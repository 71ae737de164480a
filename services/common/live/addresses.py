"""Public addresses of a live stream: its lists, initialisation segments, segments and messages. Pure.

Each thing has one spelling, so that caches keep it once. Other addresses below `/live/` belong to the service that takes streams.
"""

import re
from functools import lru_cache
from typing import Literal, NamedTuple

LIVE_PREFIX = "/live/"
INDEX_TEMPLATE = "/live/{id}/index.m3u8"
MEDIA_TEMPLATE = "/live/{id}/media.m3u8"
INIT_TEMPLATE = "/live/{id}/{epoch}/init.mp4"
SEGMENT_TEMPLATE = "/live/{id}/{epoch}/{number}.m4s"
MESSAGES_TEMPLATE = "/live/{id}/messages"

LiveKind = Literal["index", "media", "init", "segment", "messages"]
TEMPLATES: dict[LiveKind, str] = {
    "index": INDEX_TEMPLATE,
    "media": MEDIA_TEMPLATE,
    "init": INIT_TEMPLATE,
    "segment": SEGMENT_TEMPLATE,
    "messages": MESSAGES_TEMPLATE,
}
"""The labels of these addresses in logs and metrics."""

_CANONICAL_NUMBER = r"0|[1-9][0-9]{0,9}"
_ADDRESS = re.compile(
    rf"/live/(?P<id>[0-9a-z]{{8,64}})/(?:(?P<list>index|media)\.m3u8|(?P<messages>messages)"
    rf"|(?P<epoch>{_CANONICAL_NUMBER})/(?:init\.mp4|(?P<number>{_CANONICAL_NUMBER})\.m4s))",
    re.ASCII,
)


class LiveAddress(NamedTuple):
    """What a request is about. `epoch` and `number` are -1 where the address has none."""

    stream_id: str
    kind: LiveKind
    epoch: int = -1
    number: int = -1


@lru_cache(maxsize=1024)
def parse_live_address(path: str) -> LiveAddress | None:
    """Return what a path is the address of, None where it is none of these."""
    found = _ADDRESS.fullmatch(path)
    if found is None:
        return None
    stream_id = found["id"]
    if found["list"] is not None:
        return LiveAddress(stream_id, "index" if found["list"] == "index" else "media")
    if found["messages"] is not None:
        return LiveAddress(stream_id, "messages")
    epoch = int(found["epoch"])
    if found["number"] is None:
        return LiveAddress(stream_id, "init", epoch)
    return LiveAddress(stream_id, "segment", epoch, int(found["number"]))


def live_template(path: str) -> str:
    """Return the template that a path matches, the path itself where it matches none."""
    address = parse_live_address(path)
    return path if address is None else TEMPLATES[address.kind]
