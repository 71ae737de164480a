"""Endpoints: where webhooks are sent, and which of them. Parsed from settings and from the API by the same rules. Pure.

A setting is a JSON list of objects:

    id        1 to 64 letters, digits, hyphens and underscores
    url       https, or http where the setting names it; no user name, no fragment
    secret    one secret, or a list of two while it is changed, the new one first; or
    secret_file   a file that holds them, one on each line
    events    types, where `file.*` stands for all that begin with `file.`; default all
    folders   folders whose files are meant, with those below; default all
    ordered   true: the events of one file are delivered one after another
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from services.common.webhooks.addresses import why_forbidden
from services.common.webhooks.signing import MAX_WEBHOOK_SECRETS, parse_secret, parse_secrets

MAX_ENDPOINTS = 64
"""Of settings and of the API together: each has a queue and connections of its own."""
MAX_URL_LENGTH = 2048
MAX_PATTERNS = 64
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_EVENT = re.compile(r"\*|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*(?:\.\*)?", re.ASCII)
_URL = re.compile(r"[!-~]+", re.ASCII)
_ENDPOINT_KEYS = frozenset({"id", "url", "secret", "secret_file", "events", "folders", "ordered"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint. `is_private_allowed`: it is of the settings, so the operator vouches for its address."""

    id: str
    url: str
    secrets: tuple[str, ...] = field(repr=False)
    events: tuple[str, ...] = ("*",)
    folders: tuple[str, ...] = ()
    ordered: bool = False
    is_private_allowed: bool = False

    def wants(self, event_type: str, folder: str) -> bool:
        """Return whether an event of a file in `folder` is delivered here."""
        return any(_matches_type(pattern, event_type) for pattern in self.events) and (
            not self.folders or any(folder == wanted or folder.startswith(f"{wanted}/") for wanted in self.folders)
        )


def _matches_type(pattern: str, event_type: str) -> bool:
    if pattern == "*":
        return True
    return event_type.startswith(pattern[:-1]) if pattern.endswith(".*") else event_type == pattern


def validate_url(url: object, *, allow_private: bool) -> str:
    """Return the URL of an endpoint. Raises ValueError. A name in it is judged later, each time after it was resolved."""
    if not isinstance(url, str) or len(url) > MAX_URL_LENGTH or not _URL.fullmatch(url):
        raise ValueError(f"url is not text of 1 to {MAX_URL_LENGTH} visible ASCII characters")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("url is not a URL") from None
    schemes = {"https", "http"} if allow_private else {"https"}
    if parts.scheme not in schemes or not host:
        raise ValueError(
            f"url must begin with {' or '.join(f'{scheme}://' for scheme in sorted(schemes))} and have a host"
        )
    if parts.username is not None or parts.password is not None or "#" in url or "\\" in url or port == 0:
        raise ValueError("url must not have a user name, a fragment, a backslash or the port 0")
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return url
    if (reason := why_forbidden(host, allow_private=allow_private)) is not None:
        raise ValueError(f"url names {reason}")
    return url


def parse_endpoint(
    value: object, *, from_settings: bool, read_file: Callable[[str], str] | None = None, default_secret: str = ""
) -> Endpoint:
    """Return the endpoint that an object of the JSON describes.

    Arguments:
        value: the decoded JSON.
        from_settings: whether private addresses, http and secrets are allowed in it.
        read_file: returns the text of a file; without it there is no `secret_file`. May raise ValueError.
        default_secret: the secret of an endpoint that names none.

    Raises:
        ValueError: with the name of what is wrong, and never a secret.

    """
    if not isinstance(value, dict):
        raise ValueError("an endpoint is a JSON object")  # noqa: TRY004  # a fault of the settings
    if unknown := sorted(str(key) for key in value.keys() - _ENDPOINT_KEYS):
        raise ValueError(f"an endpoint has no {unknown[0][:40]!r}")
    identifier = value.get("id")
    if not isinstance(identifier, str) or not _ID.fullmatch(identifier):
        raise ValueError("id is not 1 to 64 ASCII letters, digits, hyphens and underscores")
    ordered = value.get("ordered", False)
    if not isinstance(ordered, bool):
        raise ValueError("ordered is neither true nor false")  # noqa: TRY004
    events = _text_list(value.get("events", ["*"]), "events")
    if not events or not all(_EVENT.fullmatch(event) for event in events):
        raise ValueError('events is a list of types such as "file.created" or "file.*"')
    return Endpoint(
        id=identifier,
        url=validate_url(value.get("url"), allow_private=from_settings),
        secrets=_parse_secret_fields(value, read_file, default_secret),
        events=events,
        folders=_text_list(value.get("folders", []), "folders"),
        ordered=ordered,
        is_private_allowed=from_settings,
    )


def parse_hook(text: str, read_file: Callable[[str], str]) -> Endpoint:
    """Return where the upload hook is asked: a JSON object with `url`, and `secret` or `secret_file`. Raises ValueError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(value, dict) or not value.keys() <= {"url", "secret", "secret_file"}:
        raise ValueError("not a JSON object with url, and secret or secret_file")
    return parse_endpoint({**value, "id": "upload-hook"}, from_settings=True, read_file=read_file)


def _text_list(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_PATTERNS or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{name} is a list of at most {MAX_PATTERNS} texts")
    return tuple(value)


def _parse_secret_fields(
    value: dict[str, Any], read_file: Callable[[str], str] | None, default_secret: str
) -> tuple[str, ...]:
    inline, path = value.get("secret"), value.get("secret_file")
    if inline is not None and path is not None:
        raise ValueError("an endpoint has secret or secret_file, not both")
    if path is not None:
        if read_file is None or not isinstance(path, str):
            raise ValueError("secret_file is not the path of a file")
        return parse_secrets(read_file(path))
    if inline is None:
        if not default_secret:
            raise ValueError("an endpoint has a secret or a secret_file")
        return (default_secret,)
    listed = inline if isinstance(inline, list) else [inline]
    if not 1 <= len(listed) <= MAX_WEBHOOK_SECRETS or not all(isinstance(secret, str) for secret in listed):
        raise ValueError("secret is one text, or a list of two while it is changed")
    for secret in listed:
        parse_secret(secret)
    return tuple(listed)


def parse_endpoints(text: str, read_file: Callable[[str], str]) -> tuple[Endpoint, ...]:
    """Return the endpoints of the setting, none for the empty list. Raises ValueError with the number of the one at fault."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(values, list) or len(values) > MAX_ENDPOINTS:
        raise ValueError(f"not a JSON list of at most {MAX_ENDPOINTS} endpoints")
    endpoints: list[Endpoint] = []
    for number, value in enumerate(values, 1):
        try:
            endpoints.append(parse_endpoint(value, from_settings=True, read_file=read_file))
        except ValueError as error:
            raise ValueError(f"endpoint {number}: {error}") from None
    if len({endpoint.id for endpoint in endpoints}) != len(endpoints):
        raise ValueError("two endpoints have the same id")
    return tuple(endpoints)
