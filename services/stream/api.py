"""The stream service's documented routes: lists and descriptions. The bytes go by `services.stream.download`, past any router."""

from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from services.common.auth.identity import identity_of, link_of
from services.common.errors import BadRequest, NotFound, PreconditionFailed
from services.common.http.query import parse_query
from services.common.media import (
    MAX_FOLDER_BYTES,
    MAX_SEGMENT_BYTES,
    FolderFilter,
    normalize_text,
    validate_folder,
    validate_media_name,
)
from services.common.store.media_reader import ListQuery, MediaReader, Sort
from services.common.web.file_info import FILE_EXAMPLE, FileInfo
from services.common.web.openapi import openapi_problems
from services.common.web.openapi_examples import EXAMPLE_FILENAME, EXAMPLE_FOLDER, parameter_examples
from services.common.web.routers import create_router
from services.stream.inline_types import ATTACHMENT_POLICY
from services.stream.link_versions import require_version, version_must_exist
from services.stream.media_facts import MediaFactsReader
from services.stream.metadata_cache import MetadataCache
from services.stream.page_tokens import (
    MAX_PAGE_TOKEN_LENGTH,
    decode_file_token,
    decode_folder_token,
    encode_file_token,
    encode_folder_token,
)
from services.stream.preconditions import PreconditionResult, bypasses_cache, evaluate_preconditions


def _reject_ambiguous_query(request: Request) -> None:
    """Refuse a query that could be read in two ways: the framework would take the last value, and a substitute for bad bytes."""
    parse_query(request.scope["query_string"])


router = create_router("files", dependencies=[Depends(_reject_ambiguous_query)])

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
PosterTagParam = Annotated[
    str | None,
    Query(max_length=100, description="`poster` of the file's description, so that the response may be kept"),
]
SortParam = Annotated[
    Literal["time", "-time", "name", "-name", "size", "-size"],
    Query(description="what the files are sorted by; with `-` from the newest, last or largest on"),
]
TotalsParam = Annotated[bool, Query(description="whether to add up the files of each folder")]
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_SORTS: dict[str, Sort] = {f"{sign}{sort}": sort for sign in ("", "-") for sort in get_args(Sort)}

LimitParam = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE, description="entries of a page at the most")]


class FilePage(BaseModel):
    """A part of the list of files, newest first."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"files": [FILE_EXAMPLE], "next": "WzE3NjM4ODY2MDAxMjUsIjY5MjNhN2QxYzVmMCJd"}]}
    )

    files: list[FileInfo]
    next: str | None = Field(
        description="`after` of the next page, null at the end. While it is not null there may be more, even behind an empty page"
    )


class FolderTotalsModel(BaseModel):
    """What a folder holds, not counting the folders below it."""

    folder: str
    files: int
    bytes: int


class FolderPage(BaseModel):
    """A part of the list of folders, by name."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"folders": ["", "demo"], "totals": [{"folder": "", "files": 1, "bytes": 5}], "next": None}]
        }
    )

    folders: list[str] = Field(description="each holds a file; the empty one stands for files in none")
    totals: list[FolderTotalsModel] | None = Field(
        None, description="of these folders in the same order; null without `totals=true`"
    )
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


@router.get(
    "/file/poster",
    response_class=Response,
    responses={
        # Generators of clients use the first type; they do not support */*.
        200: {"description": "the picture", "content": dict.fromkeys(("application/octet-stream", "*/*"), _BINARY)},
        304: {"description": "it is the one that the client has"},
        **openapi_problems(400, 404, 412, 503),
    },
)
async def get_poster(
    request: Request, filename: FilenameParam, folder: FolderParam = "", etag: PosterTagParam = None
) -> Response:
    """The poster of a file. With its entity tag as `etag` of the query the response may be kept for a year."""
    metadata_cache: MetadataCache = request.app.state.metadata_cache
    reader: MediaReader = request.app.state.reader
    name = validate_media_name(folder, filename)
    fresh = bypasses_cache(request.headers.get("cache-control", ""))
    link = link_of(request.scope)
    with version_must_exist(link):
        info = (await metadata_cache.get_or_fetch(name, bypass_cache=fresh)).info
        known = info.poster_etag
        # A description may be a second old. Who asks for a poster that it does not name knows a newer one.
        if known is None or etag not in {None, known}:
            info = (await metadata_cache.get_or_fetch(name, bypass_cache=True)).info
    if link is not None:
        require_version(link, info)
    if info.poster_etag is None:
        raise NotFound("this file has no poster")
    kept = "max-age=31536000, immutable" if etag == info.poster_etag else "no-cache"
    headers = {
        "etag": info.poster_etag,
        "cache-control": f"private, {kept}",
        "content-security-policy": ATTACHMENT_POLICY.decode("ascii"),
        "x-content-type-options": "nosniff",
    }
    fields = {name: value for name, value in request.headers.items() if name in {"if-match", "if-none-match"}}
    now = datetime.now(UTC)
    match evaluate_preconditions(fields, info.poster_etag, now, now):
        case PreconditionResult.NOT_MODIFIED:
            return Response(status_code=304, headers=headers)
        case PreconditionResult.FAILED:
            raise PreconditionFailed("the poster does not match the precondition")
    poster = await reader.read_poster(info)
    if poster is None:
        raise NotFound("this file has no poster any more, or another one")
    return Response(poster.data, media_type=poster.content_type, headers=headers)


@router.get("/file", response_model=FilePage, responses=openapi_problems(400, 503))
async def list_files(
    request: Request,
    response: Response,
    folder: FolderFilterParam = None,
    q: SearchParam = "",
    after: PageTokenParam = None,
    limit: LimitParam = 50,
    sort: SortParam = "-time",
) -> dict[str, Any]:
    """The files page by page, newest first or as `sort` says.

    A file that is replaced meanwhile gets another place in the list; none is shown twice for it.
    """
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
        sort=_SORTS[sort],
        descending=sort.startswith("-"),
    )
    page = await reader.list_files(wanted)
    return {
        "files": [info.to_public_dict() for info in page.files],
        "next": None if page.next_key is None else encode_file_token(page.next_key),
    }


@router.get("/file/folders", response_model=FolderPage, responses=openapi_problems(400, 503))
async def list_folders(
    request: Request,
    response: Response,
    after: PageTokenParam = None,
    limit: LimitParam = 100,
    totals: TotalsParam = False,  # noqa: FBT002  # a parameter of the query
) -> dict[str, Any]:
    """The folders that hold files, by name, page by page; with `totals=true` how many files and bytes each has."""
    response.headers["cache-control"] = "no-store"
    reader: MediaReader = request.app.state.reader
    found = await reader.list_folders(
        None if after is None else decode_folder_token(after), limit + 1, _readable_folders(request)
    )
    sums = [asdict(one) for one in await reader.sum_folders(found[:limit])] if totals else None
    return {
        "folders": found[:limit],
        "totals": sums,
        "next": encode_folder_token(found[limit - 1]) if len(found) > limit else None,
    }


def _readable_folders(request: Request) -> FolderFilter | None:
    """Return the folders that the caller may read, None for all."""
    identity = identity_of(request.scope)
    return None if identity is None else identity.rights.folders("read")
