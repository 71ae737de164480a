"""Keeps secrets in paths out of what is logged. Pure.

The publish token of a live stream is there for senders that cannot set a header, the play address of an upload for players.
"""

import re

REDACTED = "-"

# Also spellings that no route has: a request that is refused is logged as well.
_KEY = re.compile(r"(/live/.*?/key/+)[^/?]+", re.IGNORECASE)
_PLAY_TAG = re.compile(r"(/upload/+[^/?]*-)[^/?-]+", re.IGNORECASE)


def redact_path(path: str) -> str:
    """Return a path as it may be logged: of `/live/{id}/key/{token}/...` without the token, of a play address without its tag.

    `path`: decoded or not.
    """
    lower = path.lower()
    if "key" in lower:
        path = _KEY.sub(rf"\g<1>{REDACTED}", path)
    return _PLAY_TAG.sub(rf"\g<1>{REDACTED}", path) if "/upload/" in lower else path
