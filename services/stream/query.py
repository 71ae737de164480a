"""Parses the query that names a file."""

from functools import lru_cache

from services.common.errors import BadRequest
from services.common.http.query import parse_query
from services.common.media import MediaName, validate_media_name


@lru_cache(maxsize=1024)
def parse_media_name(query: bytes) -> MediaName:
    """Return the name that `filename` and `folder` give. Raises BadRequest."""
    values = parse_query(query)
    if "filename" not in values:
        raise BadRequest("the query parameter 'filename' is missing")
    return validate_media_name(values.get("folder", ""), values["filename"])
