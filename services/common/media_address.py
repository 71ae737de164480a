"""Parses the address of a file in a request: a path below /files/, or a query. Pure."""

from functools import lru_cache

from services.common.asgi import Scope
from services.common.errors import BadRequest
from services.common.http.query import parse_query
from services.common.media import MediaName, validate_media_name
from services.common.media_path import PATH_PREFIX, parse_media_path


def parse_address(scope: Scope) -> MediaName:
    """Return the name of the file that a request is about. Raises BadRequest."""
    if scope["path"].startswith(PATH_PREFIX):
        return parse_media_path(scope["raw_path"].decode("ascii"))
    return parse_media_name(scope["query_string"])


@lru_cache(maxsize=1024)
def parse_media_name(query: bytes) -> MediaName:
    """Return the name that `filename` and `folder` give. Raises BadRequest."""
    values = parse_query(query)
    if "filename" not in values:
        raise BadRequest("the query parameter 'filename' is missing")
    return validate_media_name(values.get("folder", ""), values["filename"])
