"""Flows that administer webhooks: endpoints, deliveries, replays. They need the right `admin`."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from gridcast._flows.effects import JSON_HEADERS, Flow, HttpRequest, HttpResponse
from gridcast._flows.remote_path import with_query
from gridcast._flows.responses import parse_json, unexpected
from gridcast._flows.retries import FlowContext, send
from gridcast.errors import InvalidRequest
from gridcast.values import DeliveryInfo, EndpointInfo


def list_endpoints(context: FlowContext) -> Flow[Sequence[EndpointInfo]]:
    """Return all endpoints with their queues."""
    response = yield from send(context, HttpRequest("GET", "/webhooks/endpoints"), accepted={200})
    return [_parse_endpoint(response, one) for one in _parse_list(response)]


def add_endpoint(context: FlowContext, document: Mapping[str, Any]) -> Flow[EndpointInfo]:
    """Add an endpoint. Not repeated: its secret is shown once, and a second request would find it there."""
    request = HttpRequest("POST", "/webhooks/endpoints", JSON_HEADERS, json.dumps(document).encode())
    response = yield from send(context, request, accepted={201}, is_repeatable=False)
    return _parse_endpoint(response, parse_json(response))


def remove_endpoint(context: FlowContext, endpoint_id: str) -> Flow[None]:
    """Remove an endpoint that was added over the API."""
    yield from send(context, HttpRequest("DELETE", _target(endpoint_id)), accepted={204})


def activate_endpoint(context: FlowContext, endpoint_id: str) -> Flow[None]:
    """Let an endpoint that has answered 410 get events again."""
    yield from send(context, HttpRequest("POST", f"{_target(endpoint_id)}/activation"), accepted={204})


def list_deliveries(
    context: FlowContext, endpoint: str | None, state: str | None, before: str | None, limit: int
) -> Flow[Sequence[DeliveryInfo]]:
    """Return a page of deliveries, those of the newest events first."""
    target = with_query("/webhooks/deliveries", endpoint=endpoint, state=state, before=before, limit=limit)
    response = yield from send(context, HttpRequest("GET", target), accepted={200})
    return [_parse_delivery(response, one) for one in _parse_list(response)]


def replay(
    context: FlowContext,
    delivery_id: str | None,
    endpoint: str | None,
    state: str | None,
    since: datetime | None,
    until: datetime | None,
) -> Flow[int]:
    """Send deliveries again; return how many. Receivers know them by their ids, so this is repeated after a lost answer."""
    wanted = {"id": delivery_id, "endpoint": endpoint, "state": state, "since": since, "until": until}
    for name, moment in (("since", since), ("until", until)):
        if moment is not None and moment.tzinfo is None:
            raise InvalidRequest(f"{name} needs a time zone")
    document = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in wanted.items()
        if value is not None
    }
    request = HttpRequest("POST", "/webhooks/replays", JSON_HEADERS, json.dumps(document).encode())
    response = yield from send(context, request, accepted={200})
    count = parse_json(response).get("replayed")
    if not isinstance(count, int):
        raise unexpected(response, "the response counts no deliveries")
    return count


def _target(endpoint_id: str) -> str:
    if not endpoint_id:
        raise InvalidRequest("an endpoint has an id")
    return f"/webhooks/endpoints/{quote(endpoint_id, safe='')}"


def _parse_list(response: HttpResponse) -> Sequence[Any]:
    try:
        found = json.loads(response.body)
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise unexpected(response, "the response is no JSON array")
    return found


def _parse_endpoint(response: HttpResponse, document: Mapping[str, Any]) -> EndpointInfo:
    try:
        return EndpointInfo(
            id=str(document["id"]),
            url=str(document["url"]),
            events=tuple(document["events"]),
            folders=tuple(document["folders"]),
            ordered=bool(document["ordered"]),
            source="api" if document["source"] == "api" else "settings",
            ended=bool(document["ended"]),
            waiting=int(document["waiting"]),
            oldest_seconds=float(document["oldest_seconds"]),
            dead=int(document["dead"]),
            secret=document.get("secret"),
        )
    except (KeyError, TypeError, ValueError):
        raise unexpected(response, "the response describes no endpoint") from None


def _parse_delivery(response: HttpResponse, document: Mapping[str, Any]) -> DeliveryInfo:
    try:
        return DeliveryInfo(
            id=str(document["id"]),
            event_id=str(document["event_id"]),
            endpoint=str(document["endpoint"]),
            type=str(document["type"]),
            file_id=str(document["file_id"]),
            revision=int(document["revision"]),
            state=document["state"],
            failures=int(document["failures"]),
            status=document["status"],
            error=str(document["error"]),
            created_at=datetime.fromisoformat(document["created_at"]),
            next_at=datetime.fromisoformat(document["next_at"]),
        )
    except (KeyError, TypeError, ValueError):
        raise unexpected(response, "the response describes no delivery") from None
