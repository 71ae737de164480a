"""Makes, lists, describes, ends and deletes live streams."""

from typing import Annotated, Literal

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from services.common.auth.authorization import missing_right
from services.common.auth.identity import subject_of
from services.common.errors import BadRequest
from services.common.invisible import find_invisible
from services.common.media import MAX_FOLDER_BYTES, MAX_SEGMENT_BYTES, validate_media_name
from services.common.store.limits import BLOCK_SIZE
from services.common.store.live_store import LiveState
from services.common.web.json_route import JSONRoute
from services.common.web.openapi import openapi_problems
from services.common.web.openapi_examples import EXAMPLE_FOLDER, parameter_examples
from services.common.web.routers import create_router
from services.common.webhooks.hook_protocol import HookQuestion
from services.live.endpoints.dependencies import caller, live_context
from services.live.live_streams import WantedStream, describe_limits
from services.live.settings import MAX_GRACE_SECONDS, MAX_TARGET_SECONDS
from services.live.stream_limits import StreamLimits

router = create_router("live", route_class=JSONRoute)

MAX_TITLE_LENGTH = 200
MAX_DEFAULT_WINDOW_SECONDS = 86400
MAX_PAGE = 200
ENDED_BY_REQUEST = "ended"
CONTENT_TYPE = "video/mp4"
"""Of the file that a stream becomes, as the upload hook knows it."""

StreamId = Annotated[
    str,
    Path(
        description="the id of the stream",
        openapi_examples=parameter_examples("0123456789abcdef0123456789abcdef"),
    ),
]


class StreamRequest(BaseModel):
    """A stream to make."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"filename": "talk.mp4", "folder": EXAMPLE_FOLDER, "title": "A talk"}]},
    )

    folder: str = Field("", max_length=MAX_FOLDER_BYTES, description="where its file will be")
    filename: str = Field(min_length=1, max_length=MAX_SEGMENT_BYTES, description="the name of its file")
    title: str = Field("", max_length=MAX_TITLE_LENGTH)
    window: int | None = Field(
        None, ge=10, le=MAX_DEFAULT_WINDOW_SECONDS, description="seconds that its list has by default; null: all of it"
    )
    takeover: bool = Field(default=False, description="a second publisher replaces the first one; else it is refused")
    grace: float | None = Field(
        None,
        ge=0,
        le=MAX_GRACE_SECONDS,
        description="seconds that it may be interrupted before it ends; by default GRIDCAST_LIVE_GRACE",
    )
    target: int | None = Field(
        None,
        ge=1,
        le=MAX_TARGET_SECONDS,
        description="seconds of a segment at most; by default GRIDCAST_LIVE_TARGET_DURATION",
    )


class LimitsResponse(BaseModel):
    """What the stream may have."""

    bytes: int = Field(description="bytes of its file: it ends there, and the file is kept")
    duration: float = Field(description="seconds of media: it ends there, and the file is kept")
    rate: int | None = Field(description="bytes per second of media; null: any")
    speed: float | None = Field(
        description="media is taken at this many times its own speed; null: as fast as it comes"
    )
    token_expires_at: str = Field(description="when the publish token ends, RFC 3339")


class MadeStreamResponse(BaseModel):
    """A stream that was made. Addresses are paths."""

    id: str
    publish_token: str = Field(description="the credential of its publisher; it is shown this once")
    media: str = Field(description="one endless body goes there, by POST or PUT")
    objects: str = Field(description="objects go below it, by PUT; the token is in it")
    tus: str = Field(description="bytes that can be resumed go there, by tus")
    playlist: str = Field(description="for viewers")
    limits: LimitsResponse
    state: LiveState


class StreamFile(BaseModel):
    """The file of a stream."""

    folder: str
    filename: str
    revision: int
    etag: str
    length: int = Field(description="bytes")


class ListedStreamResponse(BaseModel):
    """A stream in a list. Times in RFC 3339."""

    id: str
    state: LiveState
    title: str
    folder: str
    filename: str
    owner: str | None
    duration: float = Field(description="seconds of media that are stored")
    bytes: int = Field(description="bytes that are stored, the reserved header included")
    segments: int
    created_at: str
    started_at: str | None
    ended_at: str | None
    reason: str | None = Field(description="why it has ended")
    playlist: str
    window: int | None
    takeover: bool
    grace: float
    target: int


class StreamResponse(ListedStreamResponse):
    """A stream."""

    codecs: list[str] = Field(description="as in the CODECS of HLS (RFC 6381)")
    width: int | None
    height: int | None
    viewers: int | None = Field(description="how many watch it; null where that is not known")
    file: StreamFile | None = Field(description="the last one, once it has ended; null where it has none")
    files: list[StreamFile] = Field(
        description="all files that it has become so far: another one for each change of codec parameters"
    )


class StreamsResponse(BaseModel):
    """A page of streams, ordered by id."""

    streams: list[ListedStreamResponse]
    next: str | None = Field(description="the value of `after` for the next page; null at the end")


@router.post("/live", status_code=201, responses=openapi_problems(400, 403, 409, 413, 415, 429, 502, 503, 507))
async def make_stream(request: Request, response: Response, wanted: StreamRequest) -> MadeStreamResponse:
    """Make a live stream. Its name is taken from now on: 409 where it has a file or another stream."""
    context = live_context(request)
    context.limiter.check_accepting()
    identity, client = caller(request)
    name = validate_media_name(wanted.folder, wanted.filename)
    if identity is not None and not identity.rights.may_folder("publish", name.folder):
        raise missing_right(identity, "publish", name.folder)
    if find_invisible(wanted.title) is not None:
        raise BadRequest("title contains an invisible or control character")
    asked = HookQuestion("live", name.folder, name.filename, None, CONTENT_TYPE, {}, subject_of(identity) or None)
    answer = await context.ask_hook(asked)
    answer.check_media_type(CONTENT_TYPE)
    context.disk_space.reserve(BLOCK_SIZE)  # the header of its file, which comes last and when the disk may be full
    settings = context.settings
    stream, token = await context.streams.create(
        WantedStream(
            answer.place(name),
            wanted.title,
            wanted.window,
            wanted.takeover,
            settings.live_grace if wanted.grace is None else wanted.grace,
            wanted.target or settings.live_target_duration,
            answer,
        ),
        subject_of(identity),
        client,
    )
    root = f"/live/{stream.new.id}"
    response.headers["location"] = root
    response.headers["cache-control"] = "no-store"
    limits = describe_limits(StreamLimits.from_json(stream.new.limits_json), stream.new.token_expires_at)
    return MadeStreamResponse(
        id=stream.new.id,
        publish_token=token,
        media=f"{root}/media",
        objects=f"{root}/key/{token}/media/",
        tus=f"{root}/tus",
        playlist=f"{root}/index.m3u8",
        limits=LimitsResponse(**limits),
        state=stream.state,
    )


@router.get("/live", responses=openapi_problems(503))
async def list_streams(
    request: Request,
    response: Response,
    state: Annotated[Literal["waiting", "live", "interrupted", "ended"] | None, Query()] = None,
    after: Annotated[str, Query(pattern="^[0-9a-f]{0,32}$", description="`next` of the page before")] = "",
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
) -> StreamsResponse:
    """List the streams whose folder the caller may read; those that have not ended, where no state is given."""
    context = live_context(request)
    states: tuple[LiveState, ...] = ("waiting", "live", "interrupted") if state is None else (state,)
    found, following = await context.streams.list(states, caller(request)[0], after, limit)
    response.headers["cache-control"] = "no-store"
    described = [await context.streams.describe(stream, with_media=False) for stream in found]
    return StreamsResponse(streams=[ListedStreamResponse(**one) for one in described], next=following)


@router.get("/live/{id}", responses=openapi_problems(404, 503))
async def get_stream(request: Request, response: Response, id: StreamId) -> StreamResponse:  # noqa: A002
    """Describe a stream."""
    context = live_context(request)
    stream = await context.find(request, id, "read")
    response.headers["cache-control"] = "no-store"
    return StreamResponse(**await context.streams.describe(stream))


@router.post("/live/{id}/end", responses=openapi_problems(404, 409, 503))
async def end_stream(request: Request, response: Response, id: StreamId) -> StreamResponse:  # noqa: A002
    """End a stream: what came of it becomes its file. One that has ended stays as it is."""
    context = live_context(request)
    await context.find(request, id, "publish")
    stream = await context.ender.end(id, ENDED_BY_REQUEST)
    response.headers["cache-control"] = "no-store"
    return StreamResponse(**await context.streams.describe(stream))


@router.delete("/live/{id}", status_code=204, response_class=Response, responses=openapi_problems(404, 409, 503))
async def delete_stream(request: Request, id: StreamId) -> Response:  # noqa: A002
    """Throw a stream away. The file of one that has ended stays; that of another one is never made."""
    context = live_context(request)
    await context.find(request, id, "publish")
    await context.ender.delete(id)
    return Response(status_code=204)
