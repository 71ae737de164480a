"""Encodes an error as a problem document (RFC 9457): the one body and the one set of header fields of every error response."""

import json

from services.common.errors import GridcastError

PROBLEM_MEDIA_TYPE = "application/problem+json"


def encode_problem(error: GridcastError) -> bytes:
    """Return the body of an error response: the members of RFC 9457, of which clients of FastAPI read `detail`."""
    members = {"type": "about:blank", "title": error.title, "status": error.status, "detail": error.detail}
    return json.dumps(members, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def decode_problem_detail(body: bytes) -> str | None:
    """Return the `detail` of an error response; None where the body is not a problem."""
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def problem_headers(error: GridcastError, body: bytes) -> list[tuple[bytes, bytes]]:
    """Return the header fields of an error response, raw and in lower case."""
    extra = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in error.headers.items()]
    return [
        (b"content-type", PROBLEM_MEDIA_TYPE.encode("ascii")),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        *extra,
    ]
