"""Encodes and decodes page tokens: the cursors of listings, opaque to clients."""

import base64
import binascii
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from services.common.errors import BadRequest
from services.common.store.media_reader import PageKey

MAX_PAGE_TOKEN_LENGTH = 4096
"""In characters: a folder of 1,024 bytes, each of them escaped."""

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def encode_file_token(page_key: PageKey) -> str:
    """Return the token of the page after a file. The store keeps milliseconds."""
    if isinstance(page_key.value, datetime):
        return _encode([(page_key.value - _UNIX_EPOCH) // _MILLISECOND, page_key.id])
    return _encode([page_key.sort, page_key.value, page_key.id])


def decode_file_token(token: str) -> PageKey:
    """The key that `encode_file_token` wrote; its `id` is checked by the store. Raises BadRequest."""
    match _decode(token):
        case [int(moment), str(identifier)] if 0 <= moment < 2**47:
            return PageKey(_UNIX_EPOCH + moment * _MILLISECOND, identifier)
        case ["size", int(length), str(identifier)] if 0 <= length < 2**63 and not isinstance(length, bool):
            return PageKey(length, identifier)
        case ["name", str(filename), str(identifier)] if _is_storable(filename):
            return PageKey(filename, identifier)
    raise _invalid_token()


def encode_folder_token(folder: str) -> str:
    """The cursor behind a folder."""
    return _encode([folder])


def decode_folder_token(token: str) -> str:
    """The folder that `encode_folder_token` wrote. Raises BadRequest.

    It need not be a valid name today: a position in the list may be at a folder that was stored under older rules.
    """
    match _decode(token):
        case [str(folder)]:
            with suppress(UnicodeEncodeError):  # a lone surrogate, which no store can compare
                folder.encode()
                return folder
    raise _invalid_token()


def _is_storable(text: str) -> bool:
    """Whether a store can compare a text: one without lone surrogates and null characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _encode(value: list[object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).decode().rstrip("=")


def _decode(token: str) -> object:
    try:
        return json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise _invalid_token() from None


def _invalid_token() -> BadRequest:
    return BadRequest("invalid page token 'after'")
