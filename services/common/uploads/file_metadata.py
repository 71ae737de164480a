"""What the uploader of a file says of it: the text fields of a form, or the keys of tus, that mean nothing to us. Pure.

It is one JSON object, kept with that version of the file and shown in its info, in lists and in events.
"""

import json
from collections.abc import Mapping

from services.common.errors import ContentTooLarge

MAX_FILE_METADATA_KEYS = 64
MAX_FILE_METADATA_BYTES = 16 * 1024
"""Bytes of the JSON object in UTF-8."""

_IGNORED_KEYS = frozenset({"_charset_", "submit", "button"})
"""RFC 7578, 4.6, and the usual names of submit buttons: nothing that is said of the file. In lower case."""
_IGNORED_VALUE = "null"
"""What JavaScript makes of a missing value. Uppy sends it for `relativePath`."""


def is_file_metadata(key: str, value: str) -> bool:
    """Whether a field says something of the file, and is not added by a browser or a library without meaning."""
    return key.lower() not in _IGNORED_KEYS and value != _IGNORED_VALUE


def encode_file_metadata(values: Mapping[str, str]) -> str:
    """Return the fields that say something as one JSON object. Raises ContentTooLarge beyond the limits."""
    kept = {key: value for key, value in values.items() if is_file_metadata(key, value)}
    if len(kept) > MAX_FILE_METADATA_KEYS:
        raise ContentTooLarge(f"the metadata of a file has more than {MAX_FILE_METADATA_KEYS} keys")
    text = json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
    if len(text.encode()) > MAX_FILE_METADATA_BYTES:
        raise ContentTooLarge(f"the metadata of a file is longer than {MAX_FILE_METADATA_BYTES} bytes of JSON")
    return text
