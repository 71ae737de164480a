"""Takes time-coded messages for a live stream. They are read at the stream service, as its list is."""

from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from services.common.auth.authorization import missing_right
from services.common.auth.identity import identity_of
from services.common.web.json_route import JSONRoute
from services.common.web.openapi import openapi_problems
from services.common.web.routers import create_router
from services.live.endpoints.control import StreamId
from services.live.endpoints.dependencies import live_context
from services.live.messages import describe_message, new_message, topic_of

router = create_router("live", route_class=JSONRoute)

MAX_PLACE_SECONDS = 1e9


class LiveMessageRequest(BaseModel):
    """A message to push and to keep."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"type": "chat.said", "data": {"text": "Hello"}}]}
    )

    type: str = Field(description="event type: letters, digits, dots, hyphens, underscores", examples=["chat.said"])
    data: Any = Field(None, description="any JSON, 8 KiB at most")
    id: str | None = Field(None, description="a message with the same id is kept once in a stream")
    at: float | None = Field(
        None,
        ge=0,
        le=MAX_PLACE_SECONDS,
        allow_inf_nan=False,
        description="seconds in the file that it belongs to: what its sender watches; null: what is captured now",
    )


class LiveMessageResponse(BaseModel):
    """Where the message is kept."""

    message: str = Field(description="its id")
    type: str
    time: float = Field(description="media time: seconds in the file")
    epoch: int = Field(description="the epoch of that time")
    date: str = Field(description="when the media of that time was captured, RFC 3339")
    duplicate: bool = Field(description="True if this id was there before; then that one stays as it was")


@router.post("/live/{id}/messages", status_code=201, responses=openapi_problems(400, 404, 409, 410, 413, 415, 429, 503))
async def push_message(
    request: Request,
    response: Response,
    id: StreamId,  # noqa: A002
    wanted: LiveMessageRequest,
) -> LiveMessageResponse:
    """Push an event to the topic of a stream that is live, and keep it with its media time, so that a replay can show it there."""
    context = live_context(request)
    context.limiter.check_accepting()
    identity, topic = identity_of(request.scope), topic_of(id)
    if identity is not None and not identity.rights.may_topic("push", topic):
        raise missing_right(identity, "push", topic)
    message = new_message(wanted.type, wanted.data, wanted.id, wanted.at)
    stored, is_new = await context.messages.push(id, message)
    response.headers["cache-control"] = "no-store"
    if not is_new:
        response.status_code = 200
    return LiveMessageResponse(**describe_message(stored), duplicate=not is_new)
