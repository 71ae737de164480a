"""The stream service's documented routes. The bytes themselves go by `services.stream.read`, which a router would slow down."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from services.common.media import MAX_FOLDER, MAX_SEGMENT, media_name
from services.common.web import problems
from services.stream.catalogue import Catalogue
from services.stream.conditions import wants_fresh

router = APIRouter(tags=["stream"])

Filename = Annotated[str, Query(min_length=1, max_length=MAX_SEGMENT, description="one path segment")]
Folder = Annotated[str, Query(max_length=MAX_FOLDER, description="empty, or segments joined by /")]


class FileInfo(BaseModel):
    """One stored file."""

    id: str = Field(description="stays when the file is replaced")
    folder: str
    filename: str
    length: int = Field(description="bytes")
    content_type: str
    sha256: str = Field(description="lower-case hex")
    etag: str = Field(description="strong entity tag with its quotes")
    uploaded_at: str = Field(description="ISO 8601, UTC")


@router.get("/file/info", response_model=FileInfo, responses=problems(400, 404, 503))
async def file_info(request: Request, filename: Filename, folder: Folder = "") -> dict[str, Any]:
    """What is known of one file."""
    catalogue: Catalogue = request.app.state.catalogue
    fresh = wants_fresh(request.headers.get("cache-control", ""))
    return (await catalogue.find(media_name(folder, filename), fresh=fresh)).info.public()


_BINARY: dict[str, Any] = {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
_CONDITIONS = [
    {"name": name, "in": "header", "required": False, "schema": {"type": "string"}}
    for name in ("Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range")
]


def document_stream(paths: dict[str, Any]) -> None:
    """Add /file/stream to an OpenAPI document: it has no FastAPI route to be read from."""
    query = [
        {
            "name": "filename",
            "in": "query",
            "required": True,
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        },
        {
            "name": "folder",
            "in": "query",
            "required": False,
            "schema": {"type": "string", "maxLength": 1024, "default": ""},
        },
    ]
    for method, body in (("get", _BINARY), ("head", {})):
        paths.setdefault("/file/stream", {})[method] = {
            "tags": ["stream"],
            "summary": "The file, or the ranges of it that are asked for (RFC 9110)",
            "operationId": f"file_stream_{method}",
            "parameters": [*query, *_CONDITIONS],
            "responses": {
                "200": {"description": "the whole file", **body},
                **({"206": {"description": "the ranges asked for", **body}} if method == "get" else {}),
                "304": {"description": "not modified"},
                **{str(status): answer for status, answer in problems(400, 404, 412, 416, 503).items()},
            },
        }
