"""What the connections need of the server that accepts them: the part of uvicorn's interface between `Server` and a protocol class.

Written down as protocols, so that no other file of this package names uvicorn, and mypy shows each further name.
"""

import asyncio
from typing import Any, Protocol

from services.common.asgi import ASGIApp


class ServerConfig(Protocol):
    """`uvicorn.Config`, after `load`."""

    loaded_app: ASGIApp
    ws_protocol_class: Any
    """Class of the protocol to which a WebSocket handshake is handed over, or None."""


class ServerState(Protocol):
    """`uvicorn.server.ServerState`."""

    connections: set[Any]
    """Open connections: at shutdown the server calls `shutdown` of each, and waits until the set is empty."""
    tasks: set[asyncio.Task[None]]
    """Running ASGI calls: at shutdown the server waits for them, and cancels what is left."""
    total_requests: int
