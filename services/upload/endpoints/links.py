"""POST /file/link makes signed links, PATCH prolongs one, DELETE revokes it.

In this service because it may write into the store.
"""

from typing import Annotated, Literal

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from services.common.auth.identity import Identity, identity_of
from services.common.auth.signed_links import MAX_LINK_LENGTH, MAX_LINK_LIFE_SECONDS
from services.common.errors import BadRequest, Conflict
from services.common.media import MAX_FOLDER_BYTES, MAX_SEGMENT_BYTES, validate_media_name
from services.common.web.json_route import JSONRoute
from services.common.web.openapi import openapi_problems
from services.common.web.openapi_examples import EXAMPLE_FILENAME, EXAMPLE_FOLDER
from services.common.web.routers import create_router
from services.upload.endpoints.dependencies import UploadContext, upload_context
from services.upload.links import LinkIssuer, MadeLink, WantedLink

router = create_router("auth", route_class=JSONRoute)

MAX_LINKS_OF_REQUEST = 100
MAX_MEDIA_TYPES = 16

_Life = Annotated[float | None, Field(ge=1, le=MAX_LINK_LIFE_SECONDS, description="seconds; by default 6 h")]
_MediaType = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$&^_.+*-]{1,64}/[A-Za-z0-9!#$&^_.+*-]{1,64}$")]


class LinkOptions(BaseModel):
    """One link to make."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"filename": EXAMPLE_FILENAME, "folder": EXAMPLE_FOLDER, "expires_in": 3600}]},
    )

    kind: Literal["get", "put", "live"] = Field(
        "get", description="get: reads the file; put: uploads it once, by tus; live: watches a live stream"
    )
    folder: str = Field("", max_length=MAX_FOLDER_BYTES)
    filename: str = Field("", max_length=MAX_SEGMENT_BYTES, description="get, put: of the file, which must be given")
    stream: str = Field("", pattern=r"^[0-9a-z]{0,64}$", description="live: the id of the stream")
    expires_in: _Life = None
    follow: bool = Field(default=False, description="get: also reads versions that replace this one")
    max_size: int | None = Field(None, ge=0, le=2**53, description="put: bytes")
    media_types: list[_MediaType] = Field([], max_length=MAX_MEDIA_TYPES, description="put: accepted, as video/*")


class LinksRequest(BaseModel):
    """The links to make: all or none."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"links": [{"filename": EXAMPLE_FILENAME, "folder": EXAMPLE_FOLDER}]}]},
    )

    links: list[LinkOptions] = Field(min_length=1, max_length=MAX_LINKS_OF_REQUEST)


class ProlongRequest(BaseModel):
    """The link itself, which says what it is for, and its new life from now on."""

    model_config = ConfigDict(extra="forbid")

    link: str = Field(max_length=MAX_LINK_LENGTH)
    expires_in: _Life = None


class LinkResponse(BaseModel):
    """A link."""

    id: str = Field(description="prolongs and revokes the link; it is no credential")
    kind: Literal["get", "put", "live"]
    folder: str
    filename: str
    expires_at: float = Field(description="Unix time")
    link: str = Field(description="the credential: the value of `link` in the query")
    url: str = Field(description="relative address with the link: of the file, of the endpoint of tus, or of the list")


class LinksResponse(BaseModel):
    """The links, in the order of the request."""

    links: list[LinkResponse]


@router.post("/file/link", status_code=201, responses=openapi_problems(400, 404, 409, 413, 415, 503))
async def make_links(request: Request, response: Response, wanted: LinksRequest) -> LinksResponse:
    """Make signed links, each for one file or one live stream.

    Needs `link` and `read` for its folder, or `link` and `write` for one that uploads.

    With authentication off nothing needs a link: 409.
    """
    context, issuer, identity = _issuer(request)
    life = context.settings.link_life
    made = await issuer.issue(identity, [_parse(one, number, life) for number, one in enumerate(wanted.links)])
    response.headers["cache-control"] = "no-store"
    return LinksResponse(links=[_describe(one) for one in made])


@router.patch("/file/link/{id}", responses=openapi_problems(400, 404, 409, 413, 415, 503))
async def prolong_link(request: Request, response: Response, id: str, wanted: ProlongRequest) -> LinkResponse:  # noqa: A002
    """Prolong a link that reads, also one that has expired. The same URL is good again, within two seconds on every replica."""
    context, issuer, identity = _issuer(request)
    made = await issuer.prolong(identity, id, wanted.link, wanted.expires_in or context.settings.link_life)
    response.headers["cache-control"] = "no-store"
    return _describe(made)


@router.delete("/file/link/{id}", status_code=204, response_class=Response, responses=openapi_problems(404, 409, 503))
async def revoke_link(request: Request, id: str) -> Response:  # noqa: A002
    """Revoke a link. Within two seconds it is refused on every replica, and what it plays is cut."""
    _, issuer, identity = _issuer(request)
    await issuer.revoke(identity, id)
    return Response(status_code=204)


def _issuer(request: Request) -> tuple[UploadContext, LinkIssuer, Identity]:
    context: UploadContext = upload_context(request)
    identity = identity_of(request.scope)
    if context.links is None or identity is None:
        raise Conflict("authentication is off: no request needs a link")
    return context, context.links, identity


def _parse(options: LinkOptions, number: int, life: float) -> WantedLink:
    """Raises BadRequest, which names the link by its number."""
    if options.kind != "put" and (options.max_size is not None or options.media_types):
        raise BadRequest(f"links[{number}]: max_size and media_types are for links that upload")
    if options.kind != "get" and options.follow:
        raise BadRequest(f"links[{number}]: follow is for links that read")
    is_live = options.kind == "live"
    if is_live != bool(options.stream) or (is_live and (options.folder or options.filename)):
        raise BadRequest(f"links[{number}]: a link of the kind live names its stream, any other one its file")
    return WantedLink(
        options.kind,
        None if is_live else validate_media_name(options.folder, options.filename),
        options.expires_in or life,
        options.follow,
        options.max_size,
        tuple(options.media_types),
        options.stream,
    )


def _describe(made: MadeLink) -> LinkResponse:
    link = made.link
    return LinkResponse(
        id=link.id,
        kind=link.kind,
        folder=link.name.folder,
        filename=link.name.filename,
        expires_at=made.expires_at,
        link=made.text,
        url=made.url,
    )
