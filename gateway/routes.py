"""The route table: which service handles a method and a path. Rejects paths that two parsers could interpret differently.

The raw path is matched and forwarded undecoded. Below /files/ it is the address of a file (`services.common.media_path`).
"""

import re
from dataclasses import dataclass

from services.common.errors import BadRequest, MethodNotAllowed, NotFound
from services.common.media_path import PATH_PREFIX, PATH_TEMPLATE, parse_media_path

UPLOAD, STREAM, SOCKET, LIVE, GATEWAY = "upload", "stream", "socket", "live", "gateway"


@dataclass(frozen=True, slots=True)
class Route:
    """The destination of a request. `template` is its label in metrics."""

    service: str
    template: str
    is_media: bool = False
    """Its requests carry media: `max_body_size` and `commit_timeout` apply."""
    is_endless: bool = False
    """Its body has no end that is known: any byte of it is progress, and `live_body_timeout` applies."""


_TABLE: dict[str, dict[str, str]] = {
    "/": {"GET": GATEWAY, "HEAD": GATEWAY},
    "/docs": {"GET": GATEWAY, "HEAD": GATEWAY},
    "/openapi.json": {"GET": GATEWAY},
    "/asyncapi.yaml": {"GET": GATEWAY, "HEAD": GATEWAY},
    "/livez": {"GET": GATEWAY},
    "/readyz": {"GET": GATEWAY},
    "/version": {"GET": GATEWAY},
    "/status": {"GET": GATEWAY},
    "/page/{name}": {"GET": GATEWAY, "HEAD": GATEWAY},
    "/client/{name}": {"GET": GATEWAY, "HEAD": GATEWAY},
    "/file": {"GET": STREAM, "PATCH": UPLOAD},
    "/file/poster": {"GET": STREAM, "PUT": UPLOAD, "DELETE": UPLOAD},
    "/file/restore": {"POST": UPLOAD},
    "/file/delete": {"POST": UPLOAD},
    "/file/folders": {"GET": STREAM},
    "/file/info": {"GET": STREAM},
    "/file/stream": {"GET": STREAM, "HEAD": STREAM, "PUT": UPLOAD, "DELETE": UPLOAD},
    "/file/upload": {"POST": UPLOAD},
    PATH_TEMPLATE: {"GET": STREAM, "HEAD": STREAM, "PUT": UPLOAD, "DELETE": UPLOAD},
    "/file/tus": {"OPTIONS": UPLOAD, "POST": UPLOAD},
    # POST with X-HTTP-Method-Override means PATCH or DELETE (tus 1.0.0, "Headers").
    "/file/tus/{id}": {"OPTIONS": UPLOAD, "HEAD": UPLOAD, "PATCH": UPLOAD, "POST": UPLOAD, "DELETE": UPLOAD},
    "/upload/{address}/stream": {"GET": STREAM, "HEAD": STREAM},
    "/upload/{address}/media.m3u8": {"GET": STREAM, "HEAD": STREAM},
    "/upload/{address}/media.mp4": {"GET": STREAM, "HEAD": STREAM},
    "/file/link": {"POST": UPLOAD},
    "/file/link/{id}": {"PATCH": UPLOAD, "DELETE": UPLOAD},
    "/auth/revocations": {"POST": UPLOAD},
    "/webhooks/endpoints": {"GET": UPLOAD, "POST": UPLOAD},
    "/webhooks/endpoints/{endpoint}": {"DELETE": UPLOAD},
    "/webhooks/endpoints/{endpoint}/activation": {"POST": UPLOAD},
    "/webhooks/deliveries": {"GET": UPLOAD},
    "/webhooks/replays": {"POST": UPLOAD},
    "/sockets": {"GET": SOCKET},
    "/sockets/messages": {"POST": SOCKET},
    "/sockets/{sid}": {"GET": SOCKET, "DELETE": SOCKET},
    "/sockets/{sid}/messages": {"POST": SOCKET},
    "/live": {"GET": LIVE, "POST": LIVE},
    "/live/{id}": {"GET": LIVE, "DELETE": LIVE},
    "/live/{id}/end": {"POST": LIVE},
    "/live/{id}/tus": {"OPTIONS": LIVE, "HEAD": LIVE, "PATCH": LIVE, "POST": LIVE},
    "/live/{id}/media": {"POST": LIVE, "PUT": LIVE},
    "/live/{id}/media/{name}": {"POST": LIVE, "PUT": LIVE, "DELETE": LIVE},
    # For senders that cannot set Authorization. `services.common.http.secret_paths` keeps the token out of logs.
    "/live/{id}/key/{token}/media": {"POST": LIVE, "PUT": LIVE},
    "/live/{id}/key/{token}/media/{name}": {"POST": LIVE, "PUT": LIVE, "DELETE": LIVE},
    "/live/{id}/index.m3u8": {"GET": STREAM, "HEAD": STREAM},
    "/live/{id}/media.m3u8": {"GET": STREAM, "HEAD": STREAM},
    "/live/{id}/{epoch}/init.mp4": {"GET": STREAM, "HEAD": STREAM},
    "/live/{id}/{epoch}/{number}.m4s": {"GET": STREAM, "HEAD": STREAM},
    "/live/{id}/messages": {"GET": STREAM, "HEAD": STREAM, "POST": LIVE},
}
_ENDLESS_TEMPLATES = frozenset(
    {
        "/live/{id}/tus",
        "/live/{id}/media",
        "/live/{id}/media/{name}",
        "/live/{id}/key/{token}/media",
        "/live/{id}/key/{token}/media/{name}",
    }
)
_MEDIA_TEMPLATES = _ENDLESS_TEMPLATES | {
    "/file/stream",
    "/file/poster",
    PATH_TEMPLATE,
    "/file/upload",
    "/file/tus",
    "/file/tus/{id}",
}
WEBSOCKET_PATHS = frozenset({"/", "/ws"})

_PATH_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_BASE64URL = r"[A-Za-z0-9_-]{1,128}"  # RFC 4648, 5
_PLAY_ADDRESS = r"[A-Za-z0-9][A-Za-z0-9._-]{0,4095}"
"""With its seal, which has a subject in it."""
_PARAMETER_PATTERNS = {"{token}": _BASE64URL, "{address}": _PLAY_ADDRESS}
_TEMPLATE_PART = re.compile(r"(\{[a-z]+\})")
_AMBIGUOUS = re.compile(r"//|\\|%(?:00|0[ad]|2[ef]|5c|25)|/\.{1,2}(?:/|\Z)|;", re.IGNORECASE)

_Methods = dict[str, Route]
_Patterns = dict[tuple[str, int], list[tuple[re.Pattern[str], _Methods]]]
"""By the first segment and the number of segments: a path is compared with few."""


def _compile() -> tuple[dict[str, _Methods], _Patterns, _Methods]:
    """Return the routes without parameters, those with, in the order of the table, and those of path addresses."""
    exact: dict[str, _Methods] = {}
    patterns: _Patterns = {}
    for template, services in _TABLE.items():
        routes = {
            method: Route(service, template, template in _MEDIA_TEMPLATES, template in _ENDLESS_TEMPLATES)
            for method, service in services.items()
        }
        if "GET" in routes:  # RFC 9110, 9.1
            routes.setdefault("HEAD", routes["GET"])
        if "{" in template and template != PATH_TEMPLATE:
            patterns.setdefault(_shape(template), []).append((_compile_template(template), routes))
        else:
            exact[template] = routes
    return exact, patterns, exact.pop(PATH_TEMPLATE)


def _shape(path: str) -> tuple[str, int]:
    return path[1:].partition("/")[0], path.count("/")


def _compile_template(template: str) -> re.Pattern[str]:
    parts = [
        _PARAMETER_PATTERNS.get(part, _PATH_SEGMENT) if part.startswith("{") else re.escape(part)
        for part in _TEMPLATE_PART.split(template)
    ]
    return re.compile("".join(parts) + r"\Z")


_EXACT, _PATTERNS, _FILE_ROUTES = _compile()


def reject_ambiguous(path: str) -> None:
    """Raise BadRequest for a path that another parser might decode, normalise or truncate, and so take for another one."""
    if _AMBIGUOUS.search(path):
        raise BadRequest("the path is ambiguous")


def methods_of(path: str) -> dict[str, Route]:
    """Return the routes of the resource at `path` by method, over all services. Raises BadRequest or NotFound."""
    if (routes := _EXACT.get(path)) is not None:
        return routes
    if path.startswith(PATH_PREFIX):
        parse_media_path(path)  # by the parser of the services, so that they read it alike
        return _FILE_ROUTES
    reject_ambiguous(path)
    for pattern, routes in _PATTERNS.get(_shape(path), ()):
        if pattern.match(path):
            return routes
    raise NotFound("resource not found")


def match_route(method: str, path: str) -> Route:
    """Return the route of a request. Raises BadRequest, NotFound, or MethodNotAllowed with `Allow` over all services."""
    routes = methods_of(path)
    if (route := routes.get(method)) is not None:
        return route
    raise MethodNotAllowed("method not allowed", {"allow": allow_header(routes)})


def allow_header(routes: dict[str, Route]) -> str:
    """Return the value of `Allow`. OPTIONS is always allowed: by the service where it has a route, otherwise by the gateway."""
    return ", ".join(sorted({*routes, "OPTIONS"}))


def routed_operations(service: str) -> set[tuple[str, str]]:
    """Return the (method, template) pairs that are routed to `service`."""
    return {(m, template) for template, services in _TABLE.items() for m, name in services.items() if name == service}


def all_operations() -> set[tuple[str, str]]:
    """Return the (method, template) pairs of all routes."""
    return {(method, template) for template, services in _TABLE.items() for method in services}
