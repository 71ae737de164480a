"""The part of the OpenAPI document for live streams, whose routes are answered past the router."""

from typing import Any

from services.common.live.addresses import (
    INDEX_TEMPLATE,
    INIT_TEMPLATE,
    MEDIA_TEMPLATE,
    MESSAGES_TEMPLATE,
    SEGMENT_TEMPLATE,
)
from services.common.store.live_messages import MAX_MESSAGES_READ
from services.common.web.openapi import openapi_problems
from services.stream.live.list_requests import LIST_MEDIA_TYPE, LONGEST_WINDOW_SECONDS

_EXAMPLE_ID = "6f1d8c0a5b7e4f2390a1b2c3d4e5f607"
_INDEX_SCHEMA = {"type": "integer", "minimum": 0}
_STREAM_PARAMETER = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "the id of the stream",
    "schema": {"type": "string", "pattern": "^[0-9a-z]{8,64}$"},
    "example": _EXAMPLE_ID,
}
_EPOCH_PARAMETER = {
    "name": "epoch",
    "in": "path",
    "required": True,
    "description": "number of the sender without a break",
    "schema": _INDEX_SCHEMA,
    "example": 0,
}
_SEGMENT_PARAMETER = {
    "name": "number",
    "in": "path",
    "required": True,
    "description": "media sequence number",
    "schema": _INDEX_SCHEMA,
    "example": 0,
}
_WINDOW_PARAMETER = {
    "name": "window",
    "in": "query",
    "required": False,
    "description": "seconds of a sliding list; 0: the whole list",
    "schema": {"type": "integer", "minimum": 0, "maximum": LONGEST_WINDOW_SECONDS},
}
_DIRECTIVES = [
    {
        "name": "_HLS_msn",
        "in": "query",
        "required": False,
        "description": "holds the request until this segment is there, for 8 s at most",
        "schema": _INDEX_SCHEMA,
    },
    {
        "name": "_HLS_part",
        "in": "query",
        "required": False,
        "description": "waits for the segment of `_HLS_msn`: there are no partial segments",
        "schema": _INDEX_SCHEMA,
    },
    {
        "name": "_HLS_skip",
        "in": "query",
        "required": False,
        "description": "a delta update will do",
        "schema": {"type": "string", "enum": ["YES", "v2"]},
    },
]


_MESSAGE_PARAMETERS: list[dict[str, Any]] = [
    {"name": name, "in": "query", "required": False, "description": description, "schema": schema}
    for name, description, schema in (
        ("from", "media time in seconds", {"type": "number", "minimum": 0, "maximum": 999_999_999}),
        ("to", "media time in seconds, which is left out", {"type": "number", "minimum": 0, "maximum": 999_999_999}),
        ("after", "`next` of the page before", {"type": "string", "pattern": "^[0-9]{1,15}-[0-9]{1,9}$"}),
        ("limit", "messages of a page", {"type": "integer", "minimum": 1, "maximum": MAX_MESSAGES_READ}),
    )
]
_MESSAGE_SCHEMA = {
    "type": "object",
    "required": ["message", "type", "time", "epoch", "date", "data"],
    "properties": {
        "message": {"type": "string", "description": "id of the message"},
        "type": {"type": "string"},
        "time": {"type": "number", "description": "media time in seconds of the file"},
        "epoch": {"type": "integer"},
        "date": {"type": "string", "description": "when that media was captured, RFC 3339"},
        "data": {"description": "any JSON"},
    },
}
_PAGE_SCHEMA = {
    "type": "object",
    "required": ["messages", "next"],
    "properties": {
        "messages": {"type": "array", "items": _MESSAGE_SCHEMA},
        "next": {
            "anyOf": [{"type": "string"}, {"type": "null"}],
            "description": "`after` of the next page; null at the end",
        },
    },
}


def add_live_paths(paths: dict[str, Any]) -> None:
    """Add GET and HEAD of lists, initialisation segments, segments and messages to the paths of an OpenAPI document."""
    text = {LIST_MEDIA_TYPE.decode("ascii"): {"schema": {"type": "string"}}}
    video = {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}
    stream, epoch, window = _STREAM_PARAMETER, _EPOCH_PARAMETER, _WINDOW_PARAMETER
    _add(paths, INDEX_TEMPLATE, "live_index", "The variant of a live stream (RFC 8216)", [stream, window], text)
    parameters = [stream, window, *_DIRECTIVES]
    _add(paths, MEDIA_TEMPLATE, "live_media", "The segments of a live stream (RFC 8216)", parameters, text)
    _add(paths, INIT_TEMPLATE, "live_init", "The initialisation segment of an epoch", [stream, epoch], video)
    parameters = [stream, epoch, _SEGMENT_PARAMETER]
    _add(paths, SEGMENT_TEMPLATE, "live_segment", "One segment; it never changes", parameters, video)
    page = {"application/json": {"schema": _PAGE_SCHEMA}}
    parameters = [stream, *_MESSAGE_PARAMETERS]
    _add(paths, MESSAGES_TEMPLATE, "live_messages", "Time-coded messages, by media time", parameters, page)


def _add(
    paths: dict[str, Any],
    template: str,
    operation: str,
    summary: str,
    parameters: list[dict[str, Any]],
    content: dict[str, Any],
) -> None:
    is_media = "video/mp4" in content
    refusals = (400, 404, 412, 416, 503) if is_media else (400, 404, 503)
    for method in ("get", "head"):
        answers: dict[str, Any] = {
            "200": {"description": "all of it", **({"content": content} if method == "get" else {})}
        }
        if is_media:
            if method == "get":
                several = {"multipart/byteranges": content["video/mp4"]}
                answers["206"] = {"description": "the ranges asked for", "content": {**content, **several}}
            answers["304"] = {"description": "not modified"}
        problems = openapi_problems(*(status for status in refusals if method == "get" or status != 416))
        paths.setdefault(template, {})[method] = {
            "tags": ["live"],
            "summary": summary,
            "operationId": f"{method}_{operation}",
            "parameters": parameters,
            "responses": {**answers, **{str(status): answer for status, answer in problems.items()}},
        }
