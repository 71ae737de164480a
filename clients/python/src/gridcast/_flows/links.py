"""Flows for signed links and revocations."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from gridcast._flows.effects import JSON_HEADERS, Flow, HttpRequest, HttpResponse
from gridcast._flows.remote_path import split_path
from gridcast._flows.responses import parse_json, unexpected
from gridcast._flows.retries import FlowContext, send
from gridcast.errors import InvalidRequest
from gridcast.values import RevocationReceipt, SignedLink


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
    request = HttpRequest("PATCH", _target(link_id), JSON_HEADERS, json.dumps(document).encode())
    response = yield from send(context, request, accepted={200})
    return _parse_link(response, parse_json(response), origin)


def revoke_link(context: FlowContext, link_id: str) -> Flow[None]:
    """Revoke a link by its id."""
    yield from send(context, HttpRequest("DELETE", _target(link_id)), accepted={204})


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


def _target(link_id: str) -> str:
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
