"""Types of the ASGI 3 interface (asgi.readthedocs.io, "Specifications") that every layer of a service shares."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that disconnected before it was answered; used in logs and metrics only."""


class ClientDisconnected(Exception):
    """The client closed the connection before the request was complete."""
