"""Cursors of lists as clients see them: opaque text. Pure; it knows no store."""

import base64
import binascii
import json
from datetime import UTC, datetime, timedelta

from services.common.errors import BadRequest
from services.common.media import check_folder
from services.common.store.reading import Place

MAX_CURSOR = 4096
"""Characters: a folder of 1,024 bytes with every one of them escaped."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def encode_place(place: Place) -> str:
    """The cursor behind a file. Milliseconds are what the store keeps."""
    return _encode([(place.uploaded_at - _EPOCH) // _MILLISECOND, place.id])


def decode_place(cursor: str) -> Place:
    """The place that `encode_place` wrote. Raises BadRequest."""
    match _decode(cursor):
        case [int(moment), str(identifier)] if len(identifier) == 24 and 0 <= moment < 2**47:
            if set(identifier) <= set("0123456789abcdef"):
                return Place(_EPOCH + moment * _MILLISECOND, identifier)
    raise _wrong()


def encode_folder(folder: str) -> str:
    """The cursor behind a folder."""
    return _encode([folder])


def decode_folder(cursor: str) -> str:
    """The folder that `encode_folder` wrote. Raises BadRequest."""
    match _decode(cursor):
        case [str(folder)]:
            return check_folder(folder)
    raise _wrong()


def _encode(value: list[object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).decode().rstrip("=")


def _decode(cursor: str) -> object:
    try:
        return json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise _wrong() from None


def _wrong() -> BadRequest:
    return BadRequest("the cursor 'after' is not one of ours")
