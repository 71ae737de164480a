"""Keeps the publish token of a live stream out of what is logged: it is in the path for senders that cannot set a header. Pure."""

import re

REDACTED = "-"

# Also spellings that no route has: a request that is refused is logged as well.
_KEY = re.compile(r"(/live/.*?/key/+)[^/?]+", re.IGNORECASE)


def redact_path(path: str) -> str:
    """Return a path as it may be logged: of `/live/{id}/key/{token}/...` without the token. `path`: decoded or not."""
    return _KEY.sub(rf"\g<1>{REDACTED}", path) if "key" in path.lower() else path
