"""The stream service's documented routes: lists and descriptions. The bytes go by `services.stream.download`, past any router."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from services.common.auth.identity import identity_of
from services.common.errors import BadRequest
from services.common.http.query import parse_query
from services.common.media import (
    MAX_FOLDER_BYTES,
    MAX_SEGMENT_BYTES,
    FolderFilter,
    normalize_text,
    validate_folder,
    validate_media_name,
)
from services.common.store.media_reader import ListQuery, MediaReader
from services.common.web.openapi import openapi_problems
from services.common.web.openapi_examples import EXAMPLE_FILENAME, EXAMPLE_FOLDER, parameter_examples
from services.stream.media_facts import MediaFactsReader
from services.stream.metadata_cache import MetadataCache
from services.stream.page_tokens import (
    MAX_PAGE_TOKEN_LENGTH,
    decode_file_token,
    decode_folder_token,
    encode_file_token,
    encode_folder_token,
)
from services.stream.preconditions import bypasses_cache


def _reject_ambiguous_query(request: Request) -> None:
    """Refuse a query that could be read in two ways: the framework would take the last value, and a substitute for bad bytes."""
    parse_query(request.scope["query_string"])


router = APIRouter(tags=["files"], dependencies=[Depends(_reject_ambiguous_query)])

MAX_SEARCH_LENGTH = 100
MAX_PAGE_SIZE = 200

FilenameParam = Annotated[
    str,
    Query(
        min_length=1,
        max_length=MAX_SEGMENT_BYTES,
        description="one path segment",
        openapi_examples=parameter_examples(EXAMPLE_FILENAME),
    ),
]
FolderParam = Annotated[
    str,
    Query(
        max_length=MAX_FOLDER_BYTES,
        description="empty, or segments joined by /",
        openapi_examples=parameter_examples(EXAMPLE_FOLDER),
    ),
]
FolderFilterParam = Annotated[
    str | None,
    Query(
        max_length=MAX_FOLDER_BYTES, description="files of this folder alone; empty: those in none", examples=["demo"]
    ),
]
SearchParam = Annotated[
    str,
    Query(
        max_length=MAX_SEARCH_LENGTH,
        description="what the filename begins with or contains, in any case",
        examples=["holi"],
    ),
]
PageTokenParam = Annotated[
    str | None,
    Query(max_length=MAX_PAGE_TOKEN_LENGTH, description="`next` of the page before", examples=["WzE3OTUzOTIwMDAwMDBd"]),
]
LimitParam = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE, description="entries of a page at the most")]

_FILE_EXAMPLE: JsonDict = {
    "id": "6923a7d1c5f0a1b2c3d4e5f6",
    "folder": "demo",
    "filename": "holiday.webm",
    "length": 1048576,
    "content_type": "video/webm",
    "sha256": "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58",
    "etag": '"sha256-30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58"',
    "uploaded_at": "2026-11-23T08:30:00.125+00:00",
    "metadata": {"title": "Our holiday"},
    "media_facts": {
        "kind": "video",
        "duration": 61.4,
        "width": 1280,
        "height": 720,
        "codecs": ["vp9", "opus"],
        "rotation": 0,
        "tags": {},
    },
    "revision": 1,
    "owner": "alice",
}


class FileMediaFacts(BaseModel):
    """What the container of a media file says; null for what it does not say."""

    kind: Literal["video", "audio", "image"]
    duration: float | None = Field(description="seconds")
    width: int | None = Field(description="pixels as stored")
    height: int | None
    codecs: list[str] = Field(description="as in the parameter `codecs` of a media type (RFC 6381), video first")
    rotation: Literal[0, 90, 180, 270] | None = Field(
        description="degrees clockwise by which a player turns the picture"
    )
    tags: dict[str, str] = Field(description="title, artist, album, album_artist, composer, genre, date, track")


class FileInfo(BaseModel):
    """One stored file."""

    model_config = ConfigDict(json_schema_extra={"examples": [_FILE_EXAMPLE]})

    id: str = Field(description="stays when the file is replaced")
    folder: str
    filename: str
    length: int = Field(description="bytes")
    content_type: str
    sha256: str | None = Field(description="lower-case hex, null where the store has none")
    etag: str = Field(description="strong entity tag with its quotes")
    uploaded_at: str = Field(description="ISO 8601, UTC")
    metadata: dict[str, Any] = Field(description="what its uploader says of it: fields of the form, keys of tus")
    media_facts: FileMediaFacts | None = Field(
        description="null for other files; in lists also where they were not read yet"
    )
    revision: int = Field(description="counts the changes of this name and never falls: the greater one is the newer")
    owner: str | None = Field(description="subject of the token with which this version was uploaded, null without one")


class FilePage(BaseModel):
    """A part of the list of files, newest first."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"files": [_FILE_EXAMPLE], "next": "WzE3NjM4ODY2MDAxMjUsIjY5MjNhN2QxYzVmMCJd"}]}
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


@router.get("/file/info", response_model=FileInfo, responses=openapi_problems(400, 404, 503))
async def get_file_info(
    request: Request, response: Response, filename: FilenameParam, folder: FolderParam = ""
) -> dict[str, Any]:
    """What is known of one file."""
    response.headers["cache-control"] = "no-store"
    metadata_cache: MetadataCache = request.app.state.metadata_cache
    fresh = bypasses_cache(request.headers.get("cache-control", ""))
    media_facts: MediaFactsReader = request.app.state.media_facts
    info = (await metadata_cache.get_or_fetch(validate_media_name(folder, filename), bypass_cache=fresh)).info
    if info.media_facts_json is None:  # stored before they were read at the upload
        info = replace(info, media_facts_json=await media_facts.get_json(info))
    return info.to_public_dict()


@router.get("/file", response_model=FilePage, responses=openapi_problems(400, 503))
async def list_files(
    request: Request,
    response: Response,
    folder: FolderFilterParam = None,
    q: SearchParam = "",
    after: PageTokenParam = None,
    limit: LimitParam = 50,
) -> dict[str, Any]:
    """The files, newest first, page by page. A file that is replaced meanwhile moves to the front; none is shown twice for it."""
    response.headers["cache-control"] = "no-store"
    if "\0" in q:
        raise BadRequest("q contains a character that is not allowed in filenames")
    reader: MediaReader = request.app.state.reader
    wanted = ListQuery(
        folder=None if folder is None else validate_folder(folder),
        filename_contains=normalize_text(q),
        after=None if after is None else decode_file_token(after),
        limit=limit,
        readable=_readable_folders(request) if folder is None else None,
    )
    page = await reader.list_files(wanted)
    return {
        "files": [info.to_public_dict() for info in page.files],
        "next": None if page.next_key is None else encode_file_token(page.next_key),
    }


@router.get("/file/folders", response_model=FolderPage, responses=openapi_problems(400, 503))
async def list_folders(
    request: Request, response: Response, after: PageTokenParam = None, limit: LimitParam = 100
) -> dict[str, Any]:
    """The folders that hold files, by name, page by page."""
    response.headers["cache-control"] = "no-store"
    reader: MediaReader = request.app.state.reader
    found = await reader.list_folders(
        None if after is None else decode_folder_token(after), limit + 1, _readable_folders(request)
    )
    return {"folders": found[:limit], "next": encode_folder_token(found[limit - 1]) if len(found) > limit else None}


def _readable_folders(request: Request) -> FolderFilter | None:
    """Return the folders that the caller may read, None for all."""
    identity = identity_of(request.scope)
    return None if identity is None else identity.rights.folders("read")
