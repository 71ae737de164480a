"""The open tunnel: two pipes that write what one side sends to the other. No frame is parsed, no byte is kept.

What waits is what the write buffers of the two connections hold: 64 KiB each, then the other side is not read any more.
"""

import asyncio
import logging
import time
from typing import Any

from gateway.door import Tunnels
from gateway.upstreams import Replica
from services.common import logs, metrics

LAST_SECONDS = 5.0
"""For bytes that still wait for one side when the other has gone."""

_access = logging.getLogger("gridcast.access")


STALLED_SECONDS = 15.0
"""For a side that takes no more. The other is not read meanwhile, so neither its goodbye nor its end is seen: without a limit a
client that stops reading would keep its tunnel for ever. The socket service gives such a client 12 s.
"""


class Tally:
    """What the access log says of one tunnel. Its query is not logged: it may hold the secret that resumes a session."""

    __slots__ = ("began", "bytes", "path", "request_id", "upstream")

    def __init__(self, path: str, request_id: str) -> None:
        self.path = path
        self.request_id = request_id
        self.began = time.perf_counter()
        self.bytes = 0
        self.upstream = ""

    def log(self, status: int) -> None:
        """One line, when it is over."""
        if _access.isEnabledFor(logging.INFO):
            token = logs.request_id.set(self.request_id)
            fields = {
                "method": "GET",
                "path": self.path,
                "status": status,
                "bytes": self.bytes,
                "seconds": round(time.perf_counter() - self.began, 6),
                "upstream": self.upstream,
            }
            _access.info("websocket", extra={"fields": fields})
            logs.request_id.reset(token)


class Place:
    """One of the tunnels that may be open."""

    __slots__ = ("_address", "_tunnels")

    def __init__(self, tunnels: Tunnels, address: str) -> None:
        """Raises Unavailable or TooMany where there is none left."""
        tunnels.enter(address)
        self._tunnels: Tunnels | None = tunnels
        self._address = address

    def leave(self) -> None:
        """Free it; once."""
        if self._tunnels is not None:
            self._tunnels.leave(self._address)
            self._tunnels = None


class Life:
    """What the two pipes of a tunnel share: it counts as a request in flight, and is told when the gateway stops."""

    __slots__ = ("_connections", "_far", "_near", "_place", "_replica", "tally")

    def __init__(self, replica: Replica, place: Place, connections: set[Any], tally: Tally) -> None:
        self._replica = replica
        self._place = place
        self._connections = connections
        self.tally = tally
        self._near: asyncio.Transport
        self._far: asyncio.Transport

    def begin(self, near: asyncio.Transport, far: asyncio.Transport, *, choked: bool = False) -> None:
        """Open the tunnel between two connections. `choked`: the near one has paused its writer before, and says so only once."""
        self._near = near
        self._far = far
        self._replica.in_flight += 1
        metrics.TUNNELS.inc()
        self._connections.add(self)
        client = Pipe(far, self)
        near.set_protocol(client)
        far.set_protocol(Pipe(near, self))
        if choked:
            client.pause_writing()

    def shutdown(self) -> None:
        """The gateway stops: both ends see their connection close."""
        self._near.close()
        self._far.close()
        if self._near.get_write_buffer_size() or self._far.get_write_buffer_size():
            asyncio.get_running_loop().call_later(LAST_SECONDS, self.cut)

    def cut(self) -> None:
        """One side has stalled."""
        self._near.abort()
        self._far.abort()

    def over(self) -> None:
        """One side has gone; called for each."""
        if self in self._connections:
            self._connections.discard(self)
            self._replica.in_flight -= 1
            metrics.TUNNELS.dec()
            self._place.leave()
            self.tally.log(101)


class Pipe(asyncio.Protocol):
    """What arrives on one connection goes out on the other."""

    __slots__ = ("_life", "_other", "_stall", "_tally")

    def __init__(self, other: asyncio.Transport, life: Life) -> None:
        self._other = other
        self._life = life
        self._tally = life.tally
        self._stall: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Bytes, of whatever."""
        self._tally.bytes += len(data)
        self._other.write(data)

    def pause_writing(self) -> None:
        """This side takes no more: the other is not read."""
        self._stall = asyncio.get_running_loop().call_later(STALLED_SECONDS, self._life.cut)
        if not self._other.is_closing():
            self._other.pause_reading()

    def resume_writing(self) -> None:
        """This side takes again."""
        self._move()
        if not self._other.is_closing():
            self._other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """This side has gone: the other gets what still waits, and then its end."""
        del exc
        self._life.over()
        self._move()
        # Also where the other is closing already: a client that has said its last, and does not read, would keep its connection.
        self._other.close()
        if self._other.get_write_buffer_size():
            asyncio.get_running_loop().call_later(LAST_SECONDS, self._other.abort)

    def _move(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
