"""Parses what upload endpoints need of a request's header fields, and documents them in OpenAPI."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Path, Query, Request

from services.common.media import MediaName
from services.common.media_path import parse_media_path
from services.common.store.preconditions import Preconditions
from services.common.web.openapi_examples import (
    EXAMPLE_FILENAME,
    EXAMPLE_FOLDER,
    EXAMPLE_PATH,
    parameter_examples,
)
from services.upload.digests import DigestVerifier, parse_digest_field
from services.upload.preconditions import parse_preconditions

FolderParam = Annotated[
    str,
    Query(description="the folder; empty is the topmost one", openapi_examples=parameter_examples(EXAMPLE_FOLDER)),
]
FilenameParam = Annotated[
    str, Query(description="the file's name", openapi_examples=parameter_examples(EXAMPLE_FILENAME))
]
PathParam = Annotated[
    str,
    Path(
        description="folder and filename; each segment is percent-encoded, the slashes between them are not",
        openapi_examples=parameter_examples(EXAMPLE_PATH),
    ),
]
SidParam = Annotated[str | None, Query(max_length=128, description="the id of the socket that receives the progress")]


def request_media_path(request: Request) -> MediaName:
    """Return the name in the path address of the request. Raises BadRequest."""
    return parse_media_path(request.scope["raw_path"].decode("ascii"))


def header_parameter(name: str, description: str) -> dict[str, Any]:
    """The OpenAPI description of a request header field."""
    return {"name": name, "in": "header", "schema": {"type": "string"}, "description": description}


IF_MATCH_PARAMETER = header_parameter("If-Match", "entity tags, one of which the file must have, or *")
IF_UNMODIFIED_SINCE_PARAMETER = header_parameter(
    "If-Unmodified-Since", "the file must not be newer; not looked at beside If-Match"
)


def combined_header(request: Request, name: str) -> str | None:
    """Return the lines of a field joined into one list (RFC 9110, 5.3), None where there is none."""
    lines = request.headers.getlist(name)
    return ", ".join(lines) if lines else None


def request_preconditions(request: Request) -> Preconditions:
    """Parse If-Match, If-None-Match and If-Unmodified-Since. Raises BadRequest."""
    if_match, if_none_match = combined_header(request, "if-match"), combined_header(request, "if-none-match")
    if_unmodified_since = combined_header(request, "if-unmodified-since")
    return parse_preconditions(if_match, if_none_match, if_unmodified_since, datetime.now(UTC))


def digest_verifiers(request: Request) -> list[DigestVerifier]:
    """Parse Content-Digest and Repr-Digest. They mean the same here, because no content coding is accepted (RFC 9530, 3)."""
    fields = (("Content-Digest", "content-digest"), ("Repr-Digest", "repr-digest"))
    return [verifier for name, key in fields for verifier in parse_digest_field(name, request.headers.getlist(key))]
