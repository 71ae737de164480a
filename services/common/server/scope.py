"""ASGI scopes of requests and of WebSocket handshakes."""

from typing import Any
from urllib.parse import unquote

from services.common.asgi import Scope
from services.common.http.request_head import RequestHead
from services.common.server.websocket.upgrade import UpgradeRequest


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


def websocket_scope(request: UpgradeRequest, **connection: Any) -> Scope:
    """Return the scope of a handshake. `connection`: client, server, scheme, state."""
    raw_path, _, query = request.target.partition(b"?")
    subprotocols = [value.decode("latin-1") for name, value in request.headers if name == b"sec-websocket-protocol"]
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "root_path": "",
        "path": unquote(raw_path.decode("ascii")),
        "raw_path": raw_path,
        "query_string": query,
        "headers": request.headers,
        "subprotocols": [token.strip() for header in subprotocols for token in header.split(",")],
        "extensions": {"websocket.http.response": {}},
        **connection,
    }
