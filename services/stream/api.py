"""The stream service's documented routes: lists and descriptions. The bytes go by `services.stream.read`, past any router."""

import unicodedata
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from services.common.errors import BadRequest
from services.common.media import MAX_FOLDER, MAX_SEGMENT, check_folder, media_name
from services.common.store.reading import MediaReader, Wanted
from services.common.web import problems
from services.stream.catalogue import Catalogue
from services.stream.conditions import wants_fresh
from services.stream.cursor import MAX_CURSOR, decode_folder, decode_place, encode_folder, encode_place
from services.stream.query import parameters


def _readable(request: Request) -> None:
    """Refuse a query that could be read in two ways: the framework would take the last value, and a substitute for bad bytes."""
    parameters(request.scope["query_string"])


router = APIRouter(tags=["stream"], dependencies=[Depends(_readable)])

MAX_SEARCH = 100
MAX_PAGE = 200

Filename = Annotated[
    str, Query(min_length=1, max_length=MAX_SEGMENT, description="one path segment", examples=["holiday.webm"])
]
Folder = Annotated[
    str, Query(max_length=MAX_FOLDER, description="empty, or segments joined by /", examples=["demo", "2026/summer"])
]
InFolder = Annotated[
    str | None,
    Query(max_length=MAX_FOLDER, description="files of this folder alone; empty: those in none", examples=["demo"]),
]
Search = Annotated[
    str,
    Query(
        max_length=MAX_SEARCH, description="what the filename begins with or contains, in any case", examples=["holi"]
    ),
]
After = Annotated[
    str | None, Query(max_length=MAX_CURSOR, description="`next` of the page before", examples=["WzE3OTUzOTIwMDAwMDBd"])
]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="entries of a page at the most")]

_EXAMPLE: JsonDict = {
    "id": "6923a7d1c5f0a1b2c3d4e5f6",
    "folder": "demo",
    "filename": "holiday.webm",
    "length": 1048576,
    "content_type": "video/webm",
    "sha256": "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58",
    "etag": '"sha256-30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58"',
    "uploaded_at": "2026-11-23T08:30:00.125+00:00",
}


class FileInfo(BaseModel):
    """One stored file."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str = Field(description="stays when the file is replaced")
    folder: str
    filename: str
    length: int = Field(description="bytes")
    content_type: str
    sha256: str = Field(description="lower-case hex")
    etag: str = Field(description="strong entity tag with its quotes")
    uploaded_at: str = Field(description="ISO 8601, UTC")


class FilePage(BaseModel):
    """A part of the list of files, newest first."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"files": [_EXAMPLE], "next": "WzE3NjM4ODY2MDAxMjUsIjY5MjNhN2QxYzVmMCJd"}]}
    )

    files: list[FileInfo]
    next: str | None = Field(
        description="`after` of the next page, null at the end. While it is not null there may be more, even behind an empty page"
    )


class FolderPage(BaseModel):
    """A part of the list of folders, by name."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"folders": ["", "2026/summer", "demo"], "next": None}]})

    folders: list[str] = Field(description="each holds a file; the empty one stands for files in none")
    next: str | None = Field(description="`after` of the next page, null at the end")


@router.get("/file/info", response_model=FileInfo, responses=problems(400, 404, 503))
async def file_info(request: Request, response: Response, filename: Filename, folder: Folder = "") -> dict[str, Any]:
    """What is known of one file."""
    response.headers["cache-control"] = "no-store"
    catalogue: Catalogue = request.app.state.catalogue
    fresh = wants_fresh(request.headers.get("cache-control", ""))
    return (await catalogue.find(media_name(folder, filename), fresh=fresh)).info.public()


@router.get("/file", response_model=FilePage, responses=problems(400, 503))
async def files(
    request: Request,
    response: Response,
    folder: InFolder = None,
    q: Search = "",
    after: After = None,
    limit: Limit = 50,
) -> dict[str, Any]:
    """The files, newest first, page by page. A file that is replaced meanwhile moves to the front; none is shown twice for it."""
    response.headers["cache-control"] = "no-store"
    if "\0" in q:
        raise BadRequest("q holds a character that no filename has")
    reader: MediaReader = request.app.state.reader
    wanted = Wanted(
        folder=None if folder is None else check_folder(folder),
        text=unicodedata.normalize("NFC", q),
        after=None if after is None else decode_place(after),
        limit=limit,
    )
    page = await reader.page(wanted)
    return {
        "files": [info.public() for info in page.files],
        "next": None if page.next is None else encode_place(page.next),
    }


@router.get("/file/folders", response_model=FolderPage, responses=problems(400, 503))
async def folders(request: Request, response: Response, after: After = None, limit: Limit = 100) -> dict[str, Any]:
    """The folders that hold files, by name, page by page."""
    response.headers["cache-control"] = "no-store"
    reader: MediaReader = request.app.state.reader
    found = await reader.folders(None if after is None else decode_folder(after), limit + 1)
    return {"folders": found[:limit], "next": encode_folder(found[limit - 1]) if len(found) > limit else None}
