"""The open tunnel: two pipes that write what one side sends to the other. No frame is parsed, no byte is kept.

What waits is what the write buffers of the two connections hold: 64 KiB each, then the other side is not read any more.
"""

import asyncio
import logging
import time
from typing import Any

from gateway.upstreams import Replica
from services.common import logs

LAST_SECONDS = 5.0
"""For bytes that still wait for one side when the other has gone."""

_access = logging.getLogger("gridcast.access")


class Tally:
    """What the access log says of one tunnel. Its query is not logged: it may hold the secret that resumes a session."""

    __slots__ = ("began", "bytes", "path", "request_id")

    def __init__(self, path: str, request_id: str) -> None:
        self.path = path
        self.request_id = request_id
        self.began = time.perf_counter()
        self.bytes = 0

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
            }
            _access.info("websocket", extra={"fields": fields})
            logs.request_id.reset(token)


class Life:
    """What the two pipes of a tunnel share: it counts as a request in flight, and is told when the gateway stops."""

    __slots__ = ("connections", "far", "near", "replica", "tally")

    def __init__(
        self, near: asyncio.Transport, far: asyncio.Transport, replica: Replica, connections: set[Any], tally: Tally
    ) -> None:
        self.near = near
        self.far = far
        self.replica = replica
        self.connections = connections
        self.tally = tally
        replica.in_flight += 1
        connections.add(self)

    def shutdown(self) -> None:
        """The gateway stops: both ends see their connection close."""
        self.near.close()
        self.far.close()

    def over(self) -> None:
        """One side has gone; called for each."""
        if self in self.connections:
            self.connections.discard(self)
            self.replica.in_flight -= 1
            self.tally.log(101)


class Pipe(asyncio.Protocol):
    """What arrives on one connection goes out on the other."""

    __slots__ = ("_life", "_other", "_tally")

    def __init__(self, other: asyncio.Transport, life: Life) -> None:
        self._other = other
        self._life = life
        self._tally = life.tally

    def data_received(self, data: bytes) -> None:
        """Bytes, of whatever."""
        self._tally.bytes += len(data)
        self._other.write(data)

    def pause_writing(self) -> None:
        """This side takes no more: the other is not read."""
        if not self._other.is_closing():
            self._other.pause_reading()

    def resume_writing(self) -> None:
        """This side takes again."""
        if not self._other.is_closing():
            self._other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """This side has gone: the other gets what still waits, and then its end."""
        del exc
        self._life.over()
        if not self._other.is_closing():
            self._other.close()
            asyncio.get_running_loop().call_later(LAST_SECONDS, self._other.abort)


def join(
    near: asyncio.Transport, far: asyncio.Transport, replica: Replica, connections: set[Any], tally: Tally
) -> None:
    """Open the tunnel between two connections."""
    life = Life(near, far, replica, connections, tally)
    near.set_protocol(Pipe(far, life))
    far.set_protocol(Pipe(near, life))
