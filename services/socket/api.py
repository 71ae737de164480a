"""The HTTP side: push to sockets, see who is connected, close one. An edge: it checks, hands on, and gives the answer."""

from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from services.common import events
from services.common.errors import BadRequest, NotFound
from services.common.push import Push
from services.common.web import problems
from services.socket.directory import Directory, Presence
from services.socket.receipts import Receipts

router = APIRouter(tags=["sockets"])

MAX_WAIT = 30.0


class Message(BaseModel):
    """What is pushed. The server adds source, time and sequence."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(
        description="what has happened: letters, digits, dots, hyphens, underscores", examples=["chat.said"]
    )
    data: Any = Field(None, description="any JSON")
    id: str | None = Field(None, description="the same id is pushed to the same target once in four minutes")


class Receipt(BaseModel):
    """What became of a push."""

    status: Literal["delivered", "sent", "queued"] = Field(
        description="sent: the replica that holds the socket was told; queued: the socket is away and may return; "
        "delivered: the client has acknowledged it"
    )
    id: str = Field(description="the event's id")
    sequence: str | None = Field(description="its place in the sequence")
    duplicate: bool = Field(description="whether this id had been pushed before; then nothing was pushed now")


class Socket(BaseModel):
    """One sid."""

    sid: str
    state: Literal["online", "away"] = Field(description="away: disconnected, may still resume")
    replica: str = Field(description="the replica that holds the connection; empty while away")
    since: int = Field(description="Unix time of the connection")
    left: int | None = Field(description="Unix time of the disconnection, where it was seen")
    topics: list[str]
    meta: Any = Field(description="what the client said of itself")


class Page(BaseModel):
    """Some sids in their order."""

    sockets: list[Socket]
    next: str | None = Field(description="pass it as `after` for the next page")


@router.post("/sockets/messages", responses=problems(400, 413, 503))
async def publish(
    request: Request,
    message: Message,
    topic: Annotated[
        str | None, Query(description="push to who has subscribed to this; without it, to everyone")
    ] = None,
) -> Receipt:
    """Push an event to a topic or to every socket."""
    push: Push = request.app.state.push
    _check(message)
    if topic is None:
        receipt = await push.broadcast(message.type, message.data, id=message.id)
    else:
        receipt = await push.publish(topic, message.type, message.data, id=message.id)
    return Receipt(status="sent", id=receipt.id, sequence=receipt.sequence, duplicate=receipt.duplicate)


@router.post("/sockets/{sid}/messages", responses=problems(400, 404, 413, 503))
async def send(
    request: Request,
    sid: str,
    message: Message,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT, description="seconds to wait for the client's ack")] = 0.0,
) -> Receipt:
    """Push an event to one socket."""
    receipts: Receipts = request.app.state.receipts
    _check(message)
    outcome = await receipts.send(sid, message.type, message.data, message.id or str(uuid4()), wait)
    if outcome.status in {"unknown", "dropped"}:
        raise NotFound("no such socket")
    receipt = outcome.receipt
    return Receipt(status=outcome.status, id=receipt.id, sequence=receipt.sequence, duplicate=receipt.duplicate)


@router.get("/sockets", responses=problems(400, 503))
async def sockets(
    request: Request,
    after: Annotated[str, Query(description="`next` of the page before")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page:
    """Who is connected or may still return, on all replicas."""
    if after and not events.is_sid(after):
        raise BadRequest("after is the sid at the end of a page")
    directory: Directory = request.app.state.directory
    found, following = await directory.page(after, limit)
    return Page(sockets=[_socket(presence) for presence in found], next=following)


@router.get("/sockets/{sid}", responses=problems(404, 503))
async def socket(request: Request, sid: str) -> Socket:
    """One sid."""
    directory: Directory = request.app.state.directory
    presence = await directory.find(sid) if events.is_sid(sid) else None
    if presence is None:
        raise NotFound("no such socket")
    return _socket(presence)


@router.delete("/sockets/{sid}", status_code=204, response_class=Response, responses=problems(404, 503))
async def close(request: Request, sid: str) -> None:
    """Close a socket with 1008 and forget its sid: it cannot resume."""
    directory: Directory = request.app.state.directory
    if not events.is_sid(sid) or not await directory.remove(sid):
        raise NotFound("no such socket")


def _check(message: Message) -> None:
    if events.is_reserved(message.type):
        raise BadRequest(f"types that begin with {' or '.join(events.RESERVED)} are said by the services alone")


def _socket(presence: Presence) -> Socket:
    return Socket(
        sid=presence.sid,
        state="online" if presence.online else "away",
        replica=presence.replica,
        since=presence.since,
        left=presence.left,
        topics=presence.topics,
        meta=presence.meta,
    )
