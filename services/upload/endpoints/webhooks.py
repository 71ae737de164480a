"""/webhooks: endpoints, deliveries and replays. In this service because it relays and delivers."""

import json
from datetime import datetime
from typing import Annotated, Literal

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from services.common.errors import BadRequest, Conflict, NotFound
from services.common.store.delivery_store import DeliveryState, ReplaySelection, WebhookDelivery
from services.common.web.json_route import JSONRoute
from services.common.web.openapi import openapi_problems
from services.common.web.routers import create_router
from services.common.webhooks.endpoints import MAX_ENDPOINTS, Endpoint, parse_endpoint
from services.common.webhooks.signing import make_secret
from services.upload.endpoints.dependencies import upload_context
from services.upload.webhooks.webhooks import Webhooks

router = create_router("webhooks", route_class=JSONRoute)

_OFF = "webhooks are off: GRIDCAST_WEBHOOKS is not set"
_ENDPOINT_EXAMPLE: JsonDict = {"id": "orders", "url": "https://app.example/hooks", "events": ["file.*"]}


class EndpointRequest(BaseModel):
    """An endpoint to add."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_ENDPOINT_EXAMPLE]})

    id: str = Field(description="1 to 64 ASCII letters, digits, hyphens and underscores")
    url: str = Field(description="https; a host that resolves to a private address gets nothing")
    events: list[str] = Field(["*"], description="types, where `file.*` stands for all that begin with `file.`")
    folders: list[str] = Field([], description="folders whose files are meant, with those below; empty: all")
    ordered: bool = Field(default=False, description="the events of one file are delivered one after another")


class EndpointDescription(BaseModel):
    """An endpoint and its queue."""

    id: str
    url: str
    events: list[str]
    folders: list[str]
    ordered: bool
    source: Literal["settings", "api"]
    ended: bool = Field(description="it has answered 410 and gets nothing more")
    waiting: int = Field(description="deliveries that wait for a try")
    oldest_seconds: float = Field(description="age of the oldest of these")
    dead: int = Field(description="deliveries that have failed for good")


class NewEndpoint(EndpointDescription):
    """An endpoint that was added, with its secret, which is shown this once."""

    secret: str


class DeliveryDescription(BaseModel):
    """A delivery, without its body."""

    id: str
    event_id: str = Field(description="the `webhook-id` of every try")
    endpoint: str
    type: str
    file_id: str
    revision: int
    state: DeliveryState
    failures: int
    status: int | None = Field(description="of the last answer")
    error: str = Field(description="why the last try failed")
    created_at: datetime
    next_at: datetime = Field(description="when it is tried next, where it is waiting")


class ReplayRequest(BaseModel):
    """Which deliveries to send again: one by its id, or those of an endpoint, a state and a range of time, where given."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"endpoint": "orders", "state": "dead"}]})

    id: str | None = Field(None, max_length=100)
    endpoint: str | None = Field(None, max_length=64)
    state: Literal["done", "dead"] | None = None
    since: datetime | None = Field(None, description="created at or after this time, with a UTC offset")
    until: datetime | None = Field(None, description="created before this time, with a UTC offset")


class ReplayResponse(BaseModel):
    """How many deliveries wait again. There may be more where it is 10,000."""

    replayed: int


@router.get("/webhooks/endpoints", responses=openapi_problems(404, 503))
async def list_endpoints(request: Request) -> list[EndpointDescription]:
    """List all endpoints with their queues."""
    webhooks = _webhooks(request)
    await webhooks.refresh()
    queues = {queue.endpoint_id: queue for queue in await webhooks.store.summarize()}
    described = []
    for endpoint in webhooks.registry.all:
        queue = queues.get(endpoint.id)
        found = _describe(webhooks, endpoint)
        if queue is not None:
            found.waiting, found.oldest_seconds, found.dead = queue.waiting, queue.oldest, queue.dead
        described.append(found)
    return described


@router.post("/webhooks/endpoints", status_code=201, responses=openapi_problems(400, 404, 409, 413, 415, 503))
async def add_endpoint(request: Request, wanted: EndpointRequest) -> NewEndpoint:
    """Add an endpoint. It gets the events of changes that are committed from five seconds later on, for certain."""
    webhooks = _webhooks(request)
    await webhooks.refresh()
    secret = make_secret()
    definition = {**wanted.model_dump(), "secret": secret}
    try:
        endpoint = parse_endpoint(definition, from_settings=False)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    if len(webhooks.registry.all) >= MAX_ENDPOINTS:
        raise Conflict(f"there are {MAX_ENDPOINTS} endpoints already")
    if webhooks.registry.find(endpoint.id) is not None:
        raise Conflict(f"the endpoint {endpoint.id!r} exists already")
    text = json.dumps(definition, ensure_ascii=False, separators=(",", ":"))
    if not await webhooks.store.add_endpoint(endpoint.id, text):
        raise Conflict(f"the endpoint {endpoint.id!r} exists already")
    await webhooks.refresh()
    return NewEndpoint(**_describe(webhooks, endpoint).model_dump(), secret=secret)


@router.delete(
    "/webhooks/endpoints/{endpoint}",
    status_code=204,
    response_class=Response,
    responses=openapi_problems(400, 404, 409, 503),
)
async def remove_endpoint(request: Request, endpoint: str) -> Response:
    """Remove an endpoint that the API has added. Its waiting deliveries are dead."""
    webhooks = _webhooks(request)
    if webhooks.registry.is_from_settings(endpoint):
        raise Conflict(f"the endpoint {endpoint!r:.70} is of the settings")
    if not await webhooks.store.remove_endpoint(endpoint):
        raise NotFound("endpoint not found")
    await webhooks.refresh()
    await webhooks.store.bury(endpoint, "the endpoint was removed")
    return Response(status_code=204)


@router.post(
    "/webhooks/endpoints/{endpoint}/activation",
    status_code=204,
    response_class=Response,
    responses=openapi_problems(400, 404, 503),
)
async def activate_endpoint(request: Request, endpoint: str) -> Response:
    """Let an endpoint that has answered 410 get events again. What was dead meanwhile is sent by a replay."""
    webhooks = _webhooks(request)
    await webhooks.refresh()
    if webhooks.registry.find(endpoint) is None:
        raise NotFound("endpoint not found")
    await webhooks.store.set_ended(endpoint, ended=False)
    await webhooks.refresh()
    return Response(status_code=204)


@router.get("/webhooks/deliveries", responses=openapi_problems(400, 404, 503))
async def list_deliveries(
    request: Request,
    endpoint: Annotated[str | None, Query(max_length=64)] = None,
    state: DeliveryState | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[str, Query(max_length=100, description="the last id of the page before")] = "",
) -> list[DeliveryDescription]:
    """List deliveries with their last answers, the newest events first. Done ones are kept for 7 days, dead ones for 30."""
    found = await _webhooks(request).store.list_deliveries(endpoint, state, limit, before)
    return [_describe_delivery(delivery) for delivery in found]


@router.post("/webhooks/replays", responses=openapi_problems(400, 404, 413, 415, 503))
async def replay_deliveries(request: Request, wanted: ReplayRequest) -> ReplayResponse:
    """Send deliveries again, with the same ids: receivers that remember them stay right. At most 10,000 at once."""
    webhooks = _webhooks(request)
    if wanted.id is not None and wanted.model_fields_set != {"id"}:
        raise BadRequest("give either id, or endpoint, state, since and until")
    if not wanted.model_fields_set:
        raise BadRequest("give id, or one of endpoint, state, since and until")
    for moment in (wanted.since, wanted.until):
        if moment is not None and moment.tzinfo is None:
            raise BadRequest("a time needs a UTC offset, such as Z")
    selection = ReplaySelection(wanted.id, wanted.endpoint, wanted.state, wanted.since, wanted.until)
    count = await webhooks.store.replay(selection)
    if wanted.id is not None and not count:
        raise NotFound("delivery not found")
    webhooks.wake(wanted.endpoint)
    return ReplayResponse(replayed=count)


def _webhooks(request: Request) -> Webhooks:
    webhooks = upload_context(request).webhooks
    if webhooks is None:
        raise NotFound(_OFF)
    return webhooks


def _describe(webhooks: Webhooks, endpoint: Endpoint) -> EndpointDescription:
    return EndpointDescription(
        id=endpoint.id,
        url=endpoint.url,
        events=list(endpoint.events),
        folders=list(endpoint.folders),
        ordered=endpoint.ordered,
        source="settings" if endpoint.is_private_allowed else "api",
        ended=endpoint.id in webhooks.registry.ended,
        waiting=0,
        oldest_seconds=0.0,
        dead=0,
    )


def _describe_delivery(delivery: WebhookDelivery) -> DeliveryDescription:
    return DeliveryDescription(
        id=delivery.id,
        event_id=delivery.event_id,
        endpoint=delivery.endpoint_id,
        type=delivery.event_type,
        file_id=delivery.media_id,
        revision=delivery.revision,
        state=delivery.state,
        failures=delivery.failures,
        status=delivery.status,
        error=delivery.error,
        created_at=delivery.created_at,
        next_at=delivery.next_at,
    )
