"""What all servers of tus 1.0.0 of this repository share. Pure."""

import re

from services.common.errors import BadRequest

TUS_VERSION = "1.0.0"
TUS_CONTENT_TYPE = "application/offset+octet-stream"
GENERIC_CONTENT_TYPE = "application/octet-stream"
"""The type of any bytes: accepted in place of tus's own."""
_TUS_NUMBER = re.compile(r"[0-9]{1,18}\Z")


def parse_number(name: str, text: str) -> int:
    """Parse a non-negative integer of at most 18 digits, which fits into 64 bits."""
    if not _TUS_NUMBER.match(text):
        raise BadRequest(f"{name} is not a number of bytes")
    return int(text)
