"""HTTP routes: publish events to sockets, list and read the presence of sids, close a socket."""

from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from gridcast._bus import events
from services.common.bus.publisher import EventPublisher
from services.common.errors import BadRequest, NotFound
from services.common.web.json_route import JSONRoute
from services.common.web.openapi import openapi_problems
from services.common.web.routers import create_router
from services.socket.acks import AckWaiter
from services.socket.presence_lookup import PresenceLookup
from services.socket.sessions import Presence, SessionStore

router = create_router("sockets", route_class=JSONRoute)

MAX_ACK_WAIT_SECONDS = 30.0


class PublishRequest(BaseModel):
    """The event to publish. The server adds source, time and sequence."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"type": "chat.said", "data": {"text": "Hello"}}]}
    )

    type: str = Field(description="event type: letters, digits, dots, hyphens, underscores", examples=["chat.said"])
    data: Any = Field(None, description="any JSON")
    id: str | None = Field(
        None, description="an event with the same id is pushed to the same target only once in four minutes"
    )


class PublishResponse(BaseModel):
    """The result of a push."""

    status: Literal["delivered", "sent", "queued"] = Field(
        description="sent: published to the replica that has the socket; queued: the socket is away and may resume; "
        "delivered: the client has acknowledged the event"
    )
    id: str = Field(description="id of the event")
    sequence: str | None = Field(description="position of the event in the stream")
    duplicate: bool = Field(description="True if this id had been pushed before; then nothing was pushed now")


class SocketInfo(BaseModel):
    """The presence of one sid."""

    sid: str
    state: Literal["online", "away"] = Field(description="away: disconnected, may still resume")
    replica: str = Field(description="replica that has the connection; empty while away")
    since: int = Field(description="Unix time of the connection")
    left: int | None = Field(description="Unix time of the disconnection, if a replica has seen it")
    topics: list[str]
    meta: Any = Field(description="JSON that the client has passed as `meta`")


class SocketPage(BaseModel):
    """One page of sids, in ascending order."""

    sockets: list[SocketInfo]
    next: str | None = Field(description="value of `after` for the next page; null on the last page")


@router.post("/sockets/messages", responses=openapi_problems(400, 413, 415, 503))
async def publish_event(
    request: Request,
    message: PublishRequest,
    topic: Annotated[
        str | None, Query(description="topic whose subscribers get the event; without it, every socket gets it")
    ] = None,
) -> PublishResponse:
    """Push an event to a topic or to every socket."""
    publisher: EventPublisher = request.app.state.publisher
    _reject_reserved_type(message)
    if topic is None:
        result = await publisher.broadcast(message.type, message.data, id=message.id)
    else:
        result = await publisher.publish(topic, message.type, message.data, id=message.id)
    return PublishResponse(status="sent", id=result.id, sequence=result.sequence, duplicate=result.duplicate)


@router.post("/sockets/{sid}/messages", responses=openapi_problems(400, 404, 413, 415, 503))
async def send_event(
    request: Request,
    sid: str,
    message: PublishRequest,
    wait: Annotated[
        float, Query(ge=0, le=MAX_ACK_WAIT_SECONDS, description="seconds to wait for the client's ack")
    ] = 0.0,
) -> PublishResponse:
    """Push an event to one socket."""
    ack_waiter: AckWaiter = request.app.state.ack_waiter
    _reject_reserved_type(message)
    outcome = await ack_waiter.send_and_wait(sid, message.type, message.data, message.id or str(uuid4()), wait)
    if outcome.status in {"unknown", "dropped"}:
        await _raise_not_found(request, sid)
    result = outcome.result
    return PublishResponse(status=outcome.status, id=result.id, sequence=result.sequence, duplicate=result.duplicate)


@router.get("/sockets", responses=openapi_problems(400, 503))
async def list_sockets(
    request: Request,
    after: Annotated[str, Query(description="`next` of the previous page")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> SocketPage:
    """List the sids of all replicas that are connected or may still resume."""
    if after and not events.is_valid_sid(after):
        raise BadRequest("invalid page token 'after'")
    presences: PresenceLookup = request.app.state.presence_lookup
    found, next_after = await presences.list_page(after, limit)
    return SocketPage(sockets=[_socket_info(presence) for presence in found], next=next_after)


@router.get("/sockets/{sid}", responses=openapi_problems(404, 503))
async def get_socket(request: Request, sid: str) -> SocketInfo:
    """Get the presence of one sid."""
    presences: PresenceLookup = request.app.state.presence_lookup
    presence = await presences.find(sid) if events.is_valid_sid(sid) else None
    if presence is None:
        raise NotFound("socket not found")
    return _socket_info(presence)


@router.delete("/sockets/{sid}", status_code=204, response_class=Response, responses=openapi_problems(404, 503))
async def close_socket(request: Request, sid: str) -> None:
    """Close a socket with 1008 and delete its session, so that it cannot resume."""
    sessions: SessionStore = request.app.state.sessions
    if not events.is_valid_sid(sid) or not await sessions.delete(sid):
        await _raise_not_found(request, sid)


async def _raise_not_found(request: Request, sid: str) -> None:
    """Raise NotFound for a sid of which Redis has no record, or ServiceUnavailable if its socket may be open nevertheless."""
    presences: PresenceLookup = request.app.state.presence_lookup
    if not events.is_valid_sid(sid):
        raise NotFound("socket not found")
    await presences.raise_not_found(sid)


def _reject_reserved_type(message: PublishRequest) -> None:
    if events.is_reserved_type(message.type):
        raise BadRequest(
            f"types that begin with {' or '.join(events.RESERVED_TYPE_PREFIXES)} are reserved for the services"
        )


def _socket_info(presence: Presence) -> SocketInfo:
    return SocketInfo(
        sid=presence.sid,
        state="online" if presence.online else "away",
        replica=presence.node,
        since=presence.connected_at,
        left=presence.disconnected_at,
        topics=presence.topics,
        meta=presence.meta,
    )
