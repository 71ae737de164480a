"""The HTTP side: push to sockets, see who is connected, close one. An edge: it checks, hands on, and gives the answer."""

from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from gridcast._bus import events
from services.common.bus.publisher import EventPublisher
from services.common.errors import BadRequest, NotFound
from services.common.web.app_factory import openapi_problems
from services.socket.acks import AckWaiter
from services.socket.sessions import Presence, SessionStore

router = APIRouter(tags=["sockets"])

MAX_ACK_WAIT_SECONDS = 30.0


class PublishRequest(BaseModel):
    """What is pushed. The server adds source, time and sequence."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(
        description="what has happened: letters, digits, dots, hyphens, underscores", examples=["chat.said"]
    )
    data: Any = Field(None, description="any JSON")
    id: str | None = Field(None, description="the same id is pushed to the same target once in four minutes")


class PublishResponse(BaseModel):
    """What became of a push."""

    status: Literal["delivered", "sent", "queued"] = Field(
        description="sent: the replica that holds the socket was told; queued: the socket is away and may return; "
        "delivered: the client has acknowledged it"
    )
    id: str = Field(description="the event's id")
    sequence: str | None = Field(description="its place in the sequence")
    duplicate: bool = Field(description="whether this id had been pushed before; then nothing was pushed now")


class SocketInfo(BaseModel):
    """One sid."""

    sid: str
    state: Literal["online", "away"] = Field(description="away: disconnected, may still resume")
    replica: str = Field(description="the replica that holds the connection; empty while away")
    since: int = Field(description="Unix time of the connection")
    left: int | None = Field(description="Unix time of the disconnection, where it was seen")
    topics: list[str]
    meta: Any = Field(description="what the client said of itself")


class SocketPage(BaseModel):
    """Some sids in their order."""

    sockets: list[SocketInfo]
    next: str | None = Field(description="pass it as `after` for the next page")


@router.post("/sockets/messages", responses=openapi_problems(400, 413, 503))
async def publish(
    request: Request,
    message: PublishRequest,
    topic: Annotated[
        str | None, Query(description="push to who has subscribed to this; without it, to everyone")
    ] = None,
) -> PublishResponse:
    """Push an event to a topic or to every socket."""
    push: EventPublisher = request.app.state.push
    _reject_reserved_type(message)
    if topic is None:
        receipt = await push.broadcast(message.type, message.data, id=message.id)
    else:
        receipt = await push.publish(topic, message.type, message.data, id=message.id)
    return PublishResponse(status="sent", id=receipt.id, sequence=receipt.sequence, duplicate=receipt.duplicate)


@router.post("/sockets/{sid}/messages", responses=openapi_problems(400, 404, 413, 503))
async def send(
    request: Request,
    sid: str,
    message: PublishRequest,
    wait: Annotated[
        float, Query(ge=0, le=MAX_ACK_WAIT_SECONDS, description="seconds to wait for the client's ack")
    ] = 0.0,
) -> PublishResponse:
    """Push an event to one socket."""
    receipts: AckWaiter = request.app.state.receipts
    _reject_reserved_type(message)
    outcome = await receipts.send_and_wait(sid, message.type, message.data, message.id or str(uuid4()), wait)
    if outcome.status in {"unknown", "dropped"}:
        raise NotFound("socket not found")
    receipt = outcome.receipt
    return PublishResponse(status=outcome.status, id=receipt.id, sequence=receipt.sequence, duplicate=receipt.duplicate)


@router.get("/sockets", responses=openapi_problems(400, 503))
async def sockets(
    request: Request,
    after: Annotated[str, Query(description="`next` of the page before")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> SocketPage:
    """Who is connected or may still return, on all replicas."""
    if after and not events.is_valid_sid(after):
        raise BadRequest("invalid page token 'after'")
    directory: SessionStore = request.app.state.directory
    found, following = await directory.list_page(after, limit)
    return SocketPage(sockets=[_socket_info(presence) for presence in found], next=following)


@router.get("/sockets/{sid}", responses=openapi_problems(404, 503))
async def socket(request: Request, sid: str) -> SocketInfo:
    """One sid."""
    directory: SessionStore = request.app.state.directory
    presence = await directory.find(sid) if events.is_valid_sid(sid) else None
    if presence is None:
        raise NotFound("socket not found")
    return _socket_info(presence)


@router.delete("/sockets/{sid}", status_code=204, response_class=Response, responses=openapi_problems(404, 503))
async def close(request: Request, sid: str) -> None:
    """Close a socket with 1008 and forget its sid: it cannot resume."""
    directory: SessionStore = request.app.state.directory
    if not events.is_valid_sid(sid) or not await directory.delete(sid):
        raise NotFound("socket not found")


def _reject_reserved_type(message: PublishRequest) -> None:
    if events.is_reserved_type(message.type):
        raise BadRequest(
            f"types that begin with {' or '.join(events.RESERVED_TYPE_PREFIXES)} are said by the services alone"
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
