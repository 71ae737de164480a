"""Paths of remote files, `folder/name`, and their encoding in request targets (RFC 3986, 3.3)."""

from urllib.parse import quote, urlencode

from gridcast.errors import InvalidRequest

_SEGMENT_SAFE = "-._~!$&'()*+,=:@"


def split_path(path: str) -> tuple[str, str]:
    """Return folder and filename.

    Raises:
        InvalidRequest: an empty segment, `.` or `..`, or a leading or trailing slash.

    """
    segments = path.split("/")
    if any(segment in {"", ".", ".."} for segment in segments):
        raise InvalidRequest(f"{path!r} is not folder/name: no segment is empty, . or ..")
    return "/".join(segments[:-1]), segments[-1]


def file_target(path: str, **query: str | None) -> str:
    """Return the path address of a file, as /files/a%20b/c.mp4."""
    split_path(path)
    return with_query(f"/files/{quote(path, safe='/' + _SEGMENT_SAFE)}", **query)


def with_query(target: str, **query: object) -> str:
    """Append the parameters that are not None."""
    given = {key: value for key, value in query.items() if value is not None}
    return f"{target}?{urlencode(given, quote_via=quote)}" if given else target
