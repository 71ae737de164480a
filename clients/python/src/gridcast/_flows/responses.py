"""Translates responses: a status into an error, JSON into values, header fields into digests."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from gridcast._flows.effects import HttpResponse
from gridcast.errors import (
    AuthenticationRequired,
    FileMissing,
    InvalidRequest,
    LimitExceeded,
    NameConflict,
    PermissionDenied,
    RequestError,
    ServerUnavailable,
    UnexpectedResponse,
)
from gridcast.values import FileInfo, PushReceipt

_MAX_DETAIL_CHARACTERS = 500
_ETAG_SHA256 = re.compile(r'"sha256-([0-9a-f]{64})"')
_REPR_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/=]+):")
_DETAILS = {
    401: "a token is needed, or the one that was sent is not valid",
    403: "the token does not permit this",
    404: "file not found",
    503: "the server is unavailable",
}
"""For responses without a body, as those to HEAD."""
_ERRORS: dict[int, type[RequestError]] = {
    401: AuthenticationRequired,
    403: PermissionDenied,
    404: FileMissing,
    409: NameConflict,
    410: FileMissing,
    412: NameConflict,
    413: LimitExceeded,
    429: LimitExceeded,
    502: ServerUnavailable,
    503: ServerUnavailable,
    504: ServerUnavailable,
    507: LimitExceeded,
}


def error_of(response: HttpResponse) -> RequestError:
    """Return the error of a response that is not a success."""
    status = response.status
    kind = _ERRORS.get(status, InvalidRequest if 400 <= status < 500 else UnexpectedResponse)
    detail = _problem_detail(response)
    if not detail and 300 <= status < 400:
        detail = "the server redirects, and redirects are not followed"
    detail = detail or _DETAILS.get(status, f"the server responded {status}")
    return kind(detail, status=status, request_id=response.headers.get("x-request-id"))


def _problem_detail(response: HttpResponse) -> str:
    """The `detail` or `title` of problem+json (RFC 9457), printable and bounded; empty where there is none."""
    try:
        document = json.loads(response.body)
    except ValueError:
        return ""
    if not isinstance(document, dict):
        return ""
    text = document.get("detail") or document.get("title")
    if not isinstance(text, str):
        return ""
    return "".join(character if character.isprintable() else " " for character in text)[:_MAX_DETAIL_CHARACTERS]


def unexpected(response: HttpResponse, what: str) -> UnexpectedResponse:
    """Return the error for a success that does not say what it should."""
    return UnexpectedResponse(what, status=response.status, request_id=response.headers.get("x-request-id"))


def parse_json(response: HttpResponse) -> Mapping[str, Any]:
    """Return the JSON object of a response. Raises UnexpectedResponse."""
    try:
        document = json.loads(response.body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise unexpected(response, "the response is no JSON object: is there a Gridcast at this URL?")
    return document


def parse_file_info(response: HttpResponse, document: Mapping[str, Any]) -> FileInfo:
    """Return the description of a file. Unknown members are ignored. Raises UnexpectedResponse."""
    try:
        return FileInfo(
            id=str(document["id"]),
            folder=str(document["folder"]),
            filename=str(document["filename"]),
            length=int(document["length"]),
            content_type=str(document["content_type"]),
            sha256=document["sha256"],
            etag=str(document["etag"]),
            uploaded_at=datetime.fromisoformat(document["uploaded_at"]),
            revision=int(document["revision"]),
            metadata=dict(document["metadata"]),
            owner=document.get("owner"),
        )
    except (KeyError, TypeError, ValueError):
        raise unexpected(response, "the response describes no file") from None


def parse_receipt(response: HttpResponse) -> PushReceipt:
    """Return the receipt of a push. Raises UnexpectedResponse."""
    document = parse_json(response)
    try:
        return PushReceipt(document["status"], document["id"], document["sequence"], bool(document["duplicate"]))
    except KeyError:
        raise unexpected(response, "the response is no receipt") from None


def parse_length(response: HttpResponse, name: str) -> int:
    """Return a header field that is a number of bytes. Raises UnexpectedResponse."""
    value = response.headers.get(name, "")
    if not value.isascii() or not value.isdigit() or len(value) > 18:
        raise unexpected(response, f"the response has no valid {name}")
    return int(value)


def parse_sha256(response: HttpResponse) -> str | None:
    """Return the SHA-256 of the whole file in hex, from Repr-Digest (RFC 9530) or from the ETag; None where neither has it."""
    if match := _REPR_DIGEST.search(response.headers.get("repr-digest", "")):
        try:
            return base64.b64decode(match[1], validate=True).hex()
        except binascii.Error:
            return None
    match = _ETAG_SHA256.fullmatch(response.headers.get("etag", ""))
    return match[1] if match else None


def format_repr_digest(digest: bytes) -> str:
    """Return the value of Repr-Digest for a SHA-256."""
    return f"sha-256=:{base64.b64encode(digest).decode()}:"
