"""Parses query strings, by one rule for all routes of the service.

Different programs read two values of one name, or bytes that are not UTF-8, in different ways: here both are rejected.
"""

from functools import lru_cache
from urllib.parse import parse_qsl

from services.common.errors import BadRequest
from services.common.media import MediaName, validate_media_name

MAX_PARAMETERS = 16


def parse_query(query: bytes) -> dict[str, str]:
    """Return the parameters and their values. Raises BadRequest."""
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)
    except (UnicodeDecodeError, ValueError) as error:
        raise BadRequest("the query string is not percent-encoded UTF-8") from error
    values = dict(pairs)
    if len(values) != len(pairs):
        raise BadRequest("duplicate query parameter")
    return values


@lru_cache(maxsize=1024)
def parse_media_name(query: bytes) -> MediaName:
    """`filename` and `folder`. Raises BadRequest."""
    values = parse_query(query)
    if "filename" not in values:
        raise BadRequest("the query parameter 'filename' is missing")
    return validate_media_name(values.get("folder", ""), values["filename"])
