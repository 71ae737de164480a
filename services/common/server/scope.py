"""ASGI scopes of requests and of WebSocket handshakes."""

import asyncio
from typing import Any
from urllib.parse import unquote

from services.common.asgi import Scope
from services.common.http.request_head import RequestHead
from services.common.http.request_parser import MAX_REMEMBERED_TARGET
from services.common.server import tcp
from services.common.server.websocket.upgrade import UpgradeRequest


def connection_scope(transport: asyncio.Transport) -> Scope:
    """Return what is the same in the scopes of all requests of a connection."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "server": tcp.local_address(transport),
        "client": tcp.peer_address(transport),
        "scheme": "https" if transport.get_extra_info("sslcontext") else "http",
        "root_path": "",
    }


class AddressScope:
    """What the scope of a request says of its target. That of a connection's last request is kept, see MAX_REMEMBERED_TARGET."""

    __slots__ = ("_kept", "_target")

    def __init__(self) -> None:
        self._target = b""
        self._kept: Scope = {}

    def get(self, target: bytes) -> Scope:
        """Return it; the parser gives equal targets that follow each other as one object."""
        if target is self._target:
            return self._kept
        raw_path, _, query = target.partition(b"?")
        path = raw_path.decode("ascii")
        address = {"path": unquote(path) if "%" in path else path, "raw_path": raw_path, "query_string": query}
        if len(target) <= MAX_REMEMBERED_TARGET:
            self._target, self._kept = target, address
        return address


def http_scope(
    connection: Scope, address: Scope, head: RequestHead, state: dict[str, Any], extensions: dict[str, Any]
) -> Scope:
    """Return the scope of a request: what is the same for all requests of its connection, and what its head says."""
    return {
        **connection,
        **address,
        "http_version": head.version,
        "method": head.method,
        "headers": head.headers,
        "state": state,
        "extensions": extensions,
    }


def websocket_scope(request: UpgradeRequest, transport: asyncio.BaseTransport, state: dict[str, Any]) -> Scope:
    """Return the scope of a handshake on a connection."""
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
        "scheme": "wss" if transport.get_extra_info("sslcontext") else "ws",
        "server": tcp.local_address(transport),
        "client": tcp.peer_address(transport),
        "state": state,
    }
