"""Flows that are one request each: files, links and revocations, pushes, the administration of webhooks."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from gridcast._flows.effects import JSON_HEADERS, Flow, HttpRequest, HttpResponse
from gridcast._flows.remote_path import file_target, split_path, with_query
from gridcast._flows.responses import error_of, parse_file_info, parse_json, parse_receipt, unexpected
from gridcast._flows.retries import FlowContext, send
from gridcast.errors import FileChanged, InvalidRequest
from gridcast.values import (
    DeliveryInfo,
    EndpointInfo,
    FileInfo,
    PushReceipt,
    RevocationReceipt,
    ServerVersion,
    SignedLink,
)

FILES_PER_PAGE = 200
_FRESH = {"cache-control": "no-cache"}


def get_info(context: FlowContext, path: str) -> Flow[FileInfo]:
    """Describe one file, past the cache of the replica that answers."""
    folder, filename = split_path(path)
    target = with_query("/file/info", filename=filename, folder=folder)
    response = yield from send(context, HttpRequest("GET", target, _FRESH), accepted={200})
    return parse_file_info(response, parse_json(response))


def list_files(
    context: FlowContext, folder: str | None, query: str, after: str | None
) -> Flow[tuple[Sequence[FileInfo], str | None]]:
    """Return one page of files, newest first, and the `after` of the next page."""
    target = with_query("/file", folder=folder, q=query or None, after=after, limit=FILES_PER_PAGE)
    response = yield from send(context, HttpRequest("GET", target), accepted={200})
    document = parse_json(response)
    found = document.get("files")
    if not isinstance(found, list):
        raise unexpected(response, "the response lists no files")
    return [parse_file_info(response, one) for one in found], document.get("next")


def list_folders(context: FlowContext, after: str | None) -> Flow[tuple[Sequence[str], str | None]]:
    """Return one page of folders by name, and the `after` of the next page."""
    target = with_query("/file/folders", after=after, limit=FILES_PER_PAGE)
    response = yield from send(context, HttpRequest("GET", target), accepted={200})
    document = parse_json(response)
    found = document.get("folders")
    if not isinstance(found, list):
        raise unexpected(response, "the response lists no folders")
    return [str(one) for one in found], document.get("next")


def remove_file(context: FlowContext, path: str, etag: str | None) -> Flow[None]:
    """Delete a file; with `etag`, only that version of it."""
    headers = {} if etag is None else {"if-match": etag}
    yield from send(context, HttpRequest("DELETE", file_target(path), headers), accepted={204})


def move_file(context: FlowContext, path: str, new_path: str, etag: str | None) -> Flow[FileInfo]:
    """Give a file another name; with `etag`, only that version of it. Not repeated: a repetition would not find it."""
    folder, filename = split_path(path)
    new_folder, new_filename = split_path(new_path)
    headers = {"content-type": "application/json", **({} if etag is None else {"if-match": etag})}
    body = json.dumps({"folder": new_folder, "filename": new_filename}).encode()
    request = HttpRequest("PATCH", with_query("/file", filename=filename, folder=folder), headers, body)
    response = yield from send(context, request, accepted={200}, is_repeatable=False)
    return parse_file_info(response, parse_json(response))


def restore_file(context: FlowContext, path: str) -> Flow[FileInfo]:
    """Undo the last deletion of a name."""
    folder, filename = split_path(path)
    request = HttpRequest("POST", with_query("/file/restore", filename=filename, folder=folder))
    response = yield from send(context, request, accepted={200}, is_repeatable=False)
    return parse_file_info(response, parse_json(response))


def read_range(context: FlowContext, path: str, etag: str, start: int, size: int) -> Flow[bytes]:
    """Return bytes of one version of a file (RFC 9110, 14.2). Raises FileChanged where it is not there any more."""
    headers = {"range": f"bytes={start}-{start + size - 1}", "if-match": etag}
    request = HttpRequest("GET", file_target(path), headers, body_limit=size)
    response = yield from send(context, request, accepted={206, 404, 412})
    if response.status != 206:
        problem = error_of(response)
        raise FileChanged("the file was replaced or deleted", status=problem.status, request_id=problem.request_id)
    if len(response.body) != size or not response.headers.get("content-range", "").startswith(f"bytes {start}-"):
        raise unexpected(response, "the server sent another range than the one asked for")
    return response.body


def get_version(context: FlowContext) -> Flow[ServerVersion]:
    """Return what the server states of itself."""
    response = yield from send(context, HttpRequest("GET", "/version"), accepted={200})
    document = parse_json(response)
    return ServerVersion(str(document.get("service", "")), str(document.get("version", "")))


def make_link(
    context: FlowContext,
    origin: str,
    path: str,
    kind: Literal["get", "put"],
    options: Mapping[str, Any],
) -> Flow[SignedLink]:
    """Make one link; `options` are members of the request, those that are None are left out.

    Repeated after a lost answer: a link that was not seen does no harm, and ends by itself.
    """
    folder, filename = split_path(path)
    seconds = options.get("expires_in")
    if seconds is not None and not (math.isfinite(seconds) and seconds >= 1):
        raise InvalidRequest("expires_in is a number of seconds, 1 at least")
    given = {name: value for name, value in options.items() if value not in (None, (), [], False)}
    wanted = {"kind": kind, "folder": folder, "filename": filename, **given}
    request = HttpRequest("POST", "/file/link", JSON_HEADERS, json.dumps({"links": [wanted]}).encode())
    response = yield from send(context, request, accepted={201})
    links = parse_json(response).get("links")
    if not isinstance(links, list) or len(links) != 1:
        raise unexpected(response, "the response has not the one link that was asked for")
    return _parse_link(response, links[0], origin)


def prolong_link(
    context: FlowContext, origin: str, link_id: str, link: str, expires_in: float | None
) -> Flow[SignedLink]:
    """Let a link live from now on for `expires_in` seconds. `link` is its text, or a URL that has it."""
    document: dict[str, Any] = {"link": link_text(link)}
    if expires_in is not None:
        document["expires_in"] = expires_in
    request = HttpRequest("PATCH", _link_target(link_id), JSON_HEADERS, json.dumps(document).encode())
    response = yield from send(context, request, accepted={200})
    return _parse_link(response, parse_json(response), origin)


def revoke_link(context: FlowContext, link_id: str) -> Flow[None]:
    """Revoke a link by its id."""
    yield from send(context, HttpRequest("DELETE", _link_target(link_id)), accepted={204})


def revoke(context: FlowContext, subject: str | None, token_id: str | None) -> Flow[RevocationReceipt]:
    """Revoke one token, or all tokens of a subject that were issued until now."""
    if (subject is None) == (token_id is None):
        raise InvalidRequest("revoke either a subject or a token_id")
    document = {"subject": subject} if token_id is None else {"token_id": token_id}
    request = HttpRequest("POST", "/auth/revocations", JSON_HEADERS, json.dumps(document).encode())
    response = yield from send(context, request, accepted={201})
    found = parse_json(response)
    try:
        return RevocationReceipt(found["subject"], found["token_id"], float(found["before"]), float(found["until"]))
    except (KeyError, TypeError, ValueError):
        raise unexpected(response, "the response is no revocation") from None


def link_text(link: str) -> str:
    """Return the text of a link out of a URL with it, or the text itself."""
    query = urlsplit(link).query if "?" in link else ""
    found: Sequence[str] = [part.removeprefix("link=") for part in query.split("&") if part.startswith("link=")]
    return found[0] if found else link


def _link_target(link_id: str) -> str:
    if not link_id.isalnum() or not link_id.isascii():
        raise InvalidRequest("the id of a link consists of letters and digits")
    return f"/file/link/{quote(link_id)}"


def _parse_link(response: HttpResponse, document: Mapping[str, Any], origin: str) -> SignedLink:
    try:
        folder, filename = str(document["folder"]), str(document["filename"])
        relative = str(document["url"])
        return SignedLink(
            id=str(document["id"]),
            kind="put" if document["kind"] == "put" else "get",
            path=f"{folder}/{filename}" if folder else filename,
            expires_at=float(document["expires_at"]),
            link=str(document["link"]),
            url=relative if "://" in relative else origin + relative,
        )
    except (KeyError, TypeError, ValueError):
        raise unexpected(response, "the response describes no link") from None


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
    yield from send(context, HttpRequest("DELETE", _endpoint_target(endpoint_id)), accepted={204})


def activate_endpoint(context: FlowContext, endpoint_id: str) -> Flow[None]:
    """Let an endpoint that has answered 410 get events again."""
    yield from send(context, HttpRequest("POST", f"{_endpoint_target(endpoint_id)}/activation"), accepted={204})


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


def _endpoint_target(endpoint_id: str) -> str:
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
