"""The bodies of webhooks: a CloudEvents object, encoded once, so that every try sends and signs the same bytes. Pure."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from services.common.store.delivery_store import NewDelivery
from services.common.store.upload_store import OutboxEvent
from services.common.uploads.event_data import describe_event
from services.common.webhooks.endpoints import Endpoint

SOURCE = "/upload"
_STORED = frozenset({"file.created", "file.replaced"})


def format_time(moment: datetime) -> str:
    """A time of RFC 3339 in UTC."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encode_message(event_type: str, identifier: str, moment: datetime, data: Any) -> bytes:
    """Return the bytes of a CloudEvents 1.0 object. `timestamp` is what Standard Webhooks recommends: the same as `time`."""
    time = format_time(moment)
    members = {
        "specversion": "1.0",
        "id": identifier,
        "source": SOURCE,
        "type": event_type,
        "time": time,
        "timestamp": time,
        "datacontenttype": "application/json",
        "data": data,
    }
    return json.dumps(members, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def make_deliveries(events: Sequence[OutboxEvent], endpoints: Sequence[Endpoint], now: datetime) -> list[NewDelivery]:
    """Return the deliveries of events, one for each endpoint that wants it. `now` is the time of those that store no bytes."""
    deliveries: list[NewDelivery] = []
    for event in events:
        info = event.info
        wanting = [endpoint for endpoint in endpoints if endpoint.wants(event.type, info.folder)]
        if wanting:
            moment = info.uploaded_at if event.type in _STORED else now
            body = encode_message(event.type, event.id, moment, describe_event(event))
            deliveries += [
                NewDelivery(event.id, endpoint.id, info.id, info.revision, event.type, body) for endpoint in wanting
            ]
    return deliveries
