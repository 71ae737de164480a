"""ASGI scopes of requests and of WebSocket handshakes."""

from typing import Any
from urllib.parse import unquote

from websockets.http11 import Request

from services.common.asgi import Scope
from services.common.http.request_parser import RequestHead


def http_scope(connection: Scope, head: RequestHead, state: dict[str, Any], extensions: dict[str, Any]) -> Scope:
    """Return the scope of a request: what is the same for all requests of its connection, and what its head says."""
    raw_path, _, query = head.target.partition(b"?")
    path = raw_path.decode("ascii")
    return {
        **connection,
        "http_version": head.version,
        "method": head.method,
        "path": unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": query,
        "headers": head.headers,
        "state": state,
        "extensions": extensions,
    }


def websocket_scope(request: Request, **connection: Any) -> Scope:
    """Return the scope of a handshake. `connection`: client, server, scheme, state."""
    raw_path, _, query = request.path.partition("?")
    subprotocols = request.headers.get_all("Sec-WebSocket-Protocol")
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "root_path": "",
        "path": unquote(raw_path),
        "raw_path": raw_path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "headers": [
            (name.lower().encode("ascii"), value.encode("latin-1")) for name, value in request.headers.raw_items()
        ],
        "subprotocols": [token.strip() for header in subprotocols for token in header.split(",")],
        "extensions": {"websocket.http.response": {}},
        **connection,
    }
