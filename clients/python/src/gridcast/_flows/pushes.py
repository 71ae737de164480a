"""Flow of a push. Each has an id, so that repeating it publishes it once."""

import json
import math
import re
from typing import Any

from gridcast._flows.effects import Flow, HttpRequest
from gridcast._flows.remote_path import with_query
from gridcast._flows.responses import parse_receipt
from gridcast._flows.retries import FlowContext, send
from gridcast.errors import InvalidRequest
from gridcast.values import PushReceipt

MAX_ACK_WAIT_SECONDS = 30.0
_SID = re.compile(r"[A-Za-z0-9]{1,128}")


def push(
    context: FlowContext, target: tuple[str, str | None], event: tuple[str, Any, str], wait: float | None
) -> Flow[PushReceipt]:
    """Push (type, data, id) to ("sid", sid), ("topic", name) or ("all", None). `wait`: seconds to wait for the ack of a sid."""
    kind, name = target
    event_type, data, event_id = event
    if kind == "sid" and not _SID.fullmatch(name or ""):
        raise InvalidRequest("a sid consists of letters and digits")
    if wait is not None and not (math.isfinite(wait) and 0 <= wait <= MAX_ACK_WAIT_SECONDS):
        raise InvalidRequest(f"wait is from 0 to {MAX_ACK_WAIT_SECONDS:g} seconds")
    try:
        body = json.dumps(
            {"type": event_type, "data": data, "id": event_id}, allow_nan=False, ensure_ascii=False
        ).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"data is not JSON: {error}") from None
    address = f"/sockets/{name}/messages" if kind == "sid" else "/sockets/messages"
    request = HttpRequest(
        "POST",
        with_query(address, topic=name if kind == "topic" else None, wait=wait),
        {"content-type": "application/json"},
        body,
        timeout=None if wait is None else wait + 10,
    )
    return parse_receipt((yield from send(context, request, accepted={200})))
