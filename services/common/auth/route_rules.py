"""The one table of rights: for each method and route, the right that it needs and where its folder or topic comes from. Pure.

The routes of all services and of the gateway are here. A process whose application has a route without a rule does not start
(`RuleTable`), so that a new route cannot be open by accident.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from services.common.auth.rights import Verb
from services.common.auth.signed_links import LinkKind
from services.common.errors import MethodNotAllowed, NotFound
from services.common.live.addresses import (
    INDEX_TEMPLATE,
    INIT_TEMPLATE,
    MEDIA_TEMPLATE,
    MESSAGES_TEMPLATE,
    SEGMENT_TEMPLATE,
)
from services.common.media_path import PATH_PREFIX, PATH_TEMPLATE


class Source(Enum):
    """Where the folder, the topic or the socket comes from for which a right is needed."""

    ANY = auto()
    """From nowhere: the right for any folder or topic is enough, and the handler judges the rest."""
    ADDRESS = auto()
    """The address of a file: the path below /files/, or `folder` of the query, which is empty by default."""
    LIST = auto()
    """`folder` of the query. Without one the list shows what may be read."""
    FORM = auto()
    """`folder` of the query, because the form names it too late. Without one the right must not be limited."""
    TUS_METADATA = auto()
    """`folder` of Upload-Metadata. A partial upload has none."""
    STREAM = auto()
    """The live stream of the path, whose folder the handler judges. A link is for one stream."""
    TOPIC = auto()
    """`topic` of the query. Without one all sockets are meant, and the right must not be limited."""
    SOCKET = auto()
    """The sid of the path. Its own subject needs no right."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a route needs. `verb` is None for a public one."""

    verb: Verb | None
    source: Source = Source.ANY
    link: LinkKind | None = None
    """The kind of signed link that is enough in place of a token."""


PUBLIC = Rule(None)
_READ, _WRITE, _DELETE = (Rule(verb, Source.ADDRESS) for verb in ("read", "write", "delete"))
_DOWNLOAD = Rule("read", Source.ADDRESS, "get")
_WATCH = Rule("read", Source.STREAM, "live")
_TUS = Rule("write", link="put")
"""The id of an upload is looked at by the handler: that of another owner is unknown."""

RULES: Mapping[str, Mapping[str, Rule]] = {
    "/": {"GET": PUBLIC},
    "/docs": {"GET": PUBLIC},
    "/openapi.json": {"GET": PUBLIC},
    "/asyncapi.yaml": {"GET": PUBLIC},
    "/page/{name}": {"GET": PUBLIC},
    "/client/{name}": {"GET": PUBLIC},
    "/livez": {"GET": PUBLIC},
    "/readyz": {"GET": PUBLIC},
    "/version": {"GET": PUBLIC},
    "/status": {"GET": Rule("admin")},
    # The right to write where a file goes is judged by the handler: the body names the folder.
    "/file": {"GET": Rule("read", Source.LIST), "PATCH": _DELETE},
    "/file/poster": {"GET": _DOWNLOAD, "PUT": _WRITE, "DELETE": _WRITE},
    "/file/restore": {"POST": _WRITE},
    "/file/delete": {"POST": Rule("delete")},
    "/file/folders": {"GET": Rule("read")},
    "/file/info": {"GET": _READ},
    "/file/stream": {"GET": _DOWNLOAD, "PUT": _WRITE, "DELETE": _DELETE},
    PATH_TEMPLATE: {"GET": _DOWNLOAD, "PUT": _WRITE, "DELETE": _DELETE},
    "/file/upload": {"POST": Rule("write", Source.FORM)},
    "/file/tus": {"OPTIONS": PUBLIC, "POST": Rule("write", Source.TUS_METADATA, "put")},
    # POST is PATCH, DELETE or HEAD by X-HTTP-Method-Override: all need the same.
    "/file/tus/{upload}": {"OPTIONS": PUBLIC, "HEAD": _TUS, "PATCH": _TUS, "DELETE": _TUS, "POST": _TUS},
    # The folder of each link that is made or prolonged is judged by the handler, and so is whose link it is.
    # The address is the right: a MAC that only the uploader receives. Players cannot send a token.
    "/upload/{address}/stream": {"GET": PUBLIC},
    "/upload/{address}/media.m3u8": {"GET": PUBLIC},
    "/upload/{address}/media.mp4": {"GET": PUBLIC},
    "/file/link": {"POST": Rule("link")},
    "/file/link/{id}": {"PATCH": Rule("link"), "DELETE": Rule("link")},
    "/auth/revocations": {"POST": Rule("admin")},
    "/webhooks/endpoints": {"GET": Rule("admin"), "POST": Rule("admin")},
    "/webhooks/endpoints/{endpoint}": {"DELETE": Rule("admin")},
    "/webhooks/endpoints/{endpoint}/activation": {"POST": Rule("admin")},
    "/webhooks/deliveries": {"GET": Rule("admin")},
    "/webhooks/replays": {"POST": Rule("admin")},
    "/sockets": {"GET": Rule("sockets")},
    "/sockets/messages": {"POST": Rule("push", Source.TOPIC)},
    "/sockets/{sid}": {"GET": Rule("sockets", Source.SOCKET), "DELETE": Rule("sockets", Source.SOCKET)},
    "/sockets/{sid}/messages": {"POST": Rule("push", Source.SOCKET)},
    # The folder of a stream is judged by the handler: the body or the store names it.
    "/live": {"GET": Rule("read"), "POST": Rule("publish")},
    "/live/{id}": {"GET": Rule("read"), "DELETE": Rule("publish")},
    "/live/{id}/end": {"POST": Rule("publish")},
    INDEX_TEMPLATE: {"GET": _WATCH},
    MEDIA_TEMPLATE: {"GET": _WATCH},
    INIT_TEMPLATE: {"GET": _WATCH},
    SEGMENT_TEMPLATE: {"GET": _WATCH},
    # A message is pushed to the topic of the stream, whose name the handler judges.
    MESSAGES_TEMPLATE: {"GET": _WATCH, "POST": Rule("push")},
    # Ingest takes the publish token of the stream, and the handler judges it.
    "/live/{id}/tus": dict.fromkeys(("OPTIONS", "HEAD", "PATCH", "POST"), PUBLIC),
    "/live/{id}/media": dict.fromkeys(("POST", "PUT"), PUBLIC),
    "/live/{id}/media/{name}": dict.fromkeys(("POST", "PUT", "DELETE"), PUBLIC),
    "/live/{id}/key/{token}/media": dict.fromkeys(("POST", "PUT"), PUBLIC),
    "/live/{id}/key/{token}/media/{name}": dict.fromkeys(("POST", "PUT", "DELETE"), PUBLIC),
}
WEBSOCKET_RULE = Rule("listen")
"""The handshake of a WebSocket. Each topic is judged by itself, and so is the folder of each `file.*` event."""

_TEMPLATE_PARAMETER = re.compile(r"\{[^}]*\}")


def template_shape(template: str) -> str:
    """Return a template without the names of its parameters, which are a matter of each framework."""
    return _TEMPLATE_PARAMETER.sub("{}", template)


_RULES_BY_SHAPE = {template_shape(template): rules for template, rules in RULES.items()}


def find_rule(method: str, template: str) -> Rule | None:
    """Return the rule of a route, None where it has none. HEAD follows GET."""
    rules = _RULES_BY_SHAPE.get(template_shape(template), {})
    return rules.get(method) or (rules.get("GET") if method == "HEAD" else None)


class RuleTable:
    """The rules of the routes of one application."""

    def __init__(self, routes: Iterable[tuple[str, str]]) -> None:
        """`routes`: method and template of each. HEAD follows GET. Raises RuntimeError where one has no rule."""
        by_shape: dict[str, dict[str, Rule]] = {}
        missing: list[str] = []
        for method, template in sorted(routes):
            if (rule := find_rule(method, template)) is None:
                missing.append(f"{method} {template}")
            else:
                by_shape.setdefault(template_shape(template), {})[method] = rule
        if missing:
            raise RuntimeError(f"no rule in services/common/auth/route_rules.py for {', '.join(missing)}")
        for methods in by_shape.values():
            if "GET" in methods:  # RFC 9110, 9.1
                methods.setdefault("HEAD", methods["GET"])
        self._files = by_shape.pop(template_shape(PATH_TEMPLATE), None)
        self._exact = {shape: methods for shape, methods in by_shape.items() if "{" not in shape}
        self._patterns = [(_compile(shape), methods) for shape, methods in by_shape.items() if "{" in shape]

    def match(self, method: str, path: str) -> Rule:
        """Return the rule of a request. `path` is the one that the router matches. Raises NotFound and MethodNotAllowed.

        A path that no rule matches goes to no handler, even where a router would read it in another way.
        """
        methods = self._exact.get(path) or (self._files if path.startswith(PATH_PREFIX) else self._match_pattern(path))
        if methods is None:
            raise NotFound("resource not found")
        if (rule := methods.get(method)) is None:
            raise MethodNotAllowed("method not allowed", {"allow": ", ".join(sorted(methods))})
        return rule

    def _match_pattern(self, path: str) -> Mapping[str, Rule] | None:
        return next((methods for pattern, methods in self._patterns if pattern.match(path)), None)


def _compile(shape: str) -> re.Pattern[str]:
    """A parameter is one segment, as routers read it."""
    return re.compile("[^/]+".join(map(re.escape, shape.split("{}"))) + r"\Z")
