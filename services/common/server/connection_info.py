"""What our server offers an application beyond ASGI, as one typed value in the scope.

Another ASGI server has no such value: then `connection_info` returns UNKNOWN, and applications use plain ASGI.
"""

from collections.abc import Callable
from dataclasses import dataclass

from services.common.asgi import Scope

CONNECTION_INFO_EXTENSION = "gridcast.connection"
"""Key in the scope's `extensions`."""


def _unknown() -> None:
    return None


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """A connection as the application may ask for it.

    `extended_start`: an `http.response.start` message may bring two members more: `preencoded`
    (`services.common.http.encoding.PreencodedHeaders`), fields that many responses share, and `body`, all of the body, where two
    messages would cost more.

    `peer_disconnected`: whether the client has gone, without taking the request's body as ASGI's `receive` would.

    `write_paused`: whether the write buffer is above its high-water mark, so that the next `send` waits.

    `unacknowledged_bytes`: what the kernel holds and the client has not acknowledged; None where that is unknown. It shows that a
    slow client reads: Linux reports a socket as writable only when a third of its send buffer is free, more than a megabyte, and
    a client that plays 128 kbit/s was taken for a stalled one.
    """

    extended_start: bool = False
    peer_disconnected: Callable[[], bool] = _never
    write_paused: Callable[[], bool] = _never
    unacknowledged_bytes: Callable[[], int | None] = _unknown


UNKNOWN = ConnectionInfo()
"""The connection under another ASGI server."""


def connection_info(scope: Scope) -> ConnectionInfo:
    """Return what the server says of the connection of this scope."""
    info = (scope.get("extensions") or {}).get(CONNECTION_INFO_EXTENSION)
    return info if isinstance(info, ConnectionInfo) else UNKNOWN
