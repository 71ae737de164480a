"""The parts of the OpenAPI document that no FastAPI route can give: what is answered past the router, block by block."""

from typing import Any

from services.common.media import MAX_FOLDER_BYTES, MAX_SEGMENT_BYTES
from services.common.media_path import PATH_TEMPLATE
from services.common.web.openapi import openapi_problems
from services.common.web.openapi_examples import EXAMPLE_FILENAME, EXAMPLE_FOLDER, EXAMPLE_PATH
from services.stream.live.openapi import add_live_paths

PLAY_TEMPLATE = "/upload/{address}/stream"
PLAY_LIST_TEMPLATE = "/upload/{address}/media.m3u8"
PLAY_MEDIA_TEMPLATE = "/upload/{address}/media.mp4"
"""The same as PLAY_TEMPLATE under the name that its list gives it: ffmpeg loads segments with known extensions alone."""
_STRING_SCHEMA = {"type": "string"}
_QUERY_PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "filename",
        "in": "query",
        "required": True,
        "schema": {**_STRING_SCHEMA, "minLength": 1, "maxLength": MAX_SEGMENT_BYTES},
        "example": EXAMPLE_FILENAME,
    },
    {
        "name": "folder",
        "in": "query",
        "required": False,
        "schema": {**_STRING_SCHEMA, "maxLength": MAX_FOLDER_BYTES, "default": ""},
        "example": EXAMPLE_FOLDER,
    },
]
_PATH_PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "path",
        "in": "path",
        "required": True,
        "description": "folder and filename; each segment is percent-encoded, the slashes between them are not",
        "schema": {**_STRING_SCHEMA, "minLength": 1},
        "example": EXAMPLE_PATH,
    }
]
_REQUEST_HEADER_EXAMPLES = {
    "Range": "bytes=0-1023",
    "If-Range": '"sha256-30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58"',
    "If-Match": "*",
    "If-None-Match": '"sha256-30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58"',
    "If-Modified-Since": "Mon, 23 Nov 2026 08:30:00 GMT",
    "If-Unmodified-Since": "Mon, 23 Nov 2026 08:30:00 GMT",
    "Cache-Control": "no-cache",
}
_RESPONSE_HEADERS = {
    "ETag": "strong, made of the SHA-256 of the bytes",
    "Last-Modified": "when this version was uploaded",
    "Cache-Control": "ask again before using a copy",
}
_CONTENT_RESPONSE_HEADERS = {
    **_RESPONSE_HEADERS,
    "Accept-Ranges": "bytes",
    "Content-Disposition": "inline for common types of video, audio and images and plain text, attachment for all else",
    "Repr-Digest": "SHA-256 of the whole file (RFC 9530)",
}

_PLAYBACK_HEADERS = {
    "ETag": "the same before and after the commit; missing where the length is not known",
    "Accept-Ranges": "bytes; missing where the length is not known",
    "Cache-Control": "not to be kept",
}


def add_bypass_paths(paths: dict[str, Any]) -> None:
    """Add what is answered past the router to the paths of an OpenAPI document."""
    add_download_paths(paths)
    add_live_paths(paths)


def add_download_paths(paths: dict[str, Any]) -> None:
    """Add GET and HEAD of a file and of an upload to the paths of an OpenAPI document."""
    add_playback_paths(paths)
    # Generators of clients do not support */*; they use the first type that they support.
    schema = {"schema": {**_STRING_SCHEMA, "format": "binary"}}
    binary = {"application/octet-stream": schema, "*/*": schema}
    several = {"multipart/byteranges": schema}
    fields = [
        # A client may state these; a form that fills in the examples by itself must not.
        {"name": name, "in": "header", "required": False, "schema": {**_STRING_SCHEMA, "examples": [example]}}
        for name, example in _REQUEST_HEADER_EXAMPLES.items()
    ]
    whole = {"description": "the whole file", "headers": _header_objects(_CONTENT_RESPONSE_HEADERS)}
    part = {
        "description": "the ranges asked for; up to 16, merged where they touch",
        "headers": _header_objects({**_CONTENT_RESPONSE_HEADERS, "Content-Range": "where a single range lies"}),
        "content": {**binary, **several},
    }
    unchanged = {"description": "not modified", "headers": _header_objects(_RESPONSE_HEADERS)}
    for method in ("get", "head"):
        answers: dict[str, Any] = {"200": whole, "304": unchanged}
        if method == "get":
            answers = {"200": {**whole, "content": binary}, "206": part, "304": unchanged}
        refusals = (400, 404, 412, 416, 503) if method == "get" else (400, 404, 412, 503)
        responses = {**answers, **{str(status): answer for status, answer in openapi_problems(*refusals).items()}}
        for path, operation, address in (
            ("/file/stream", "file", _QUERY_PARAMETERS),
            (PATH_TEMPLATE, "file_by_path", _PATH_PARAMETERS),
        ):
            paths.setdefault(path, {})[method] = {
                "tags": ["files"],
                "summary": "The file, or the ranges of it that are asked for (RFC 9110)",
                "operationId": f"{method}_{operation}",
                "parameters": [*address, *(fields if method == "get" else fields[2:])],
                "responses": dict(responses),
            }


def add_playback_paths(paths: dict[str, Any]) -> None:
    """Add GET and HEAD of an upload by its play address."""
    address = {
        "name": "address",
        "in": "path",
        "required": True,
        "description": "of the event `file.playable`; it is the right to read this upload, and needs no token",
        "schema": {**_STRING_SCHEMA, "minLength": 1, "maxLength": 128},
        "example": "6923a1f04b1c2d3e4f5a6b7c-6923a1f04b1c2d3e4f5a6b7d-0f1e2d3c4b5a69788796a5b4c3d2e1f0",
    }
    wanted = {
        "name": "Range",
        "in": "header",
        "required": False,
        "description": "one range; several get the whole file",
        "schema": {**_STRING_SCHEMA, "examples": ["bytes=0-1023"]},
    }
    content = {"application/octet-stream": {"schema": {**_STRING_SCHEMA, "format": "binary"}}}
    whole = {"description": "all of it, as it comes", "headers": _header_objects(_PLAYBACK_HEADERS)}
    part_headers = {**_PLAYBACK_HEADERS, "Content-Range": "with `*` where the length of the upload is not known"}
    part = {"description": "the range, as it comes", "headers": _header_objects(part_headers), "content": content}
    for method in ("get", "head"):
        successes: dict[str, Any] = {"200": whole if method == "head" else {**whole, "content": content}}
        successes["206"] = part if method == "get" else {key: part[key] for key in ("description", "headers")}
        refusals = openapi_problems(404, 410, 416, 503)
        text = {"application/vnd.apple.mpegurl": {"schema": _STRING_SCHEMA}}
        listed = {"description": "the list as far as the upload is", **({"content": text} if method == "get" else {})}
        no_list = openapi_problems(404, 410, 503)
        paths.setdefault(PLAY_LIST_TEMPLATE, {})[method] = {
            "tags": ["files"],
            "summary": "HLS list (RFC 8216) of an upload that is fragmented MP4: ranges of its bytes",
            "operationId": f"{method}_upload_list",
            "parameters": [address],
            "responses": {"200": listed, **{str(status): answer for status, answer in no_list.items()}},
        }
        for template, operation in ((PLAY_TEMPLATE, "upload"), (PLAY_MEDIA_TEMPLATE, "upload_media")):
            paths.setdefault(template, {})[method] = {
                "tags": ["files"],
                "summary": "An upload that is not complete: what is there, and what comes while it is waited for",
                "operationId": f"{method}_{operation}",
                "parameters": [address, wanted],
                "responses": {**successes, **{str(status): answer for status, answer in refusals.items()}},
            }


def _header_objects(descriptions: dict[str, str]) -> dict[str, Any]:
    return {name: {"description": text, "schema": _STRING_SCHEMA} for name, text in descriptions.items()}
