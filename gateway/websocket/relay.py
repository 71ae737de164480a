"""The open tunnel: two pipes that write what one side sends to the other. No frame is parsed, no byte is kept.

What waits is what the write buffers of the two connections hold: 64 KiB each, then the other side is not read any more.
"""

import asyncio
import logging
import time
from typing import Any

from gateway.limiters import ConnectionLimiter
from gateway.upstream.upstream_pool import Upstream
from services.common.telemetry import json_logging, metrics

FINAL_FLUSH_SECONDS = 5.0
"""For bytes that still wait for one side when the other has gone."""

_access_log = logging.getLogger("gridcast.access")


TUNNEL_SEND_TIMEOUT_SECONDS = 15.0
"""For a side that takes no more. The other is not read meanwhile, so neither its goodbye nor its end is seen: without a limit a
client that stops reading would keep its tunnel for ever. The socket service gives such a client 12 s.
"""


class TunnelLog:
    """What the access log says of one tunnel. Its query is not logged: it may hold the secret that resumes a session."""

    __slots__ = ("bytes_transferred", "path", "request_id", "started_at", "upstream_addr")

    def __init__(self, path: str, request_id: str) -> None:
        self.path = path
        self.request_id = request_id
        self.started_at = time.perf_counter()
        self.bytes_transferred = 0
        self.upstream_addr = ""

    def write(self, status: int) -> None:
        """One line, when it is over."""
        if _access_log.isEnabledFor(logging.INFO):
            token = json_logging.request_id_var.set(self.request_id)
            fields = {
                "method": "GET",
                "path": self.path,
                "status": status,
                "bytes_transferred": self.bytes_transferred,
                "duration": round(time.perf_counter() - self.started_at, 6),
                "upstream_addr": self.upstream_addr,
            }
            _access_log.info("websocket tunnel", extra={"fields": fields})
            json_logging.request_id_var.reset(token)


class ConnectionSlot:
    """One of the tunnels that may be open."""

    __slots__ = ("_address", "_limiter")

    def __init__(self, limiter: ConnectionLimiter, address: str) -> None:
        """Raises Unavailable or TooMany where there is none left."""
        limiter.acquire(address)
        self._limiter: ConnectionLimiter | None = limiter
        self._address = address

    def release(self) -> None:
        """Free it; once."""
        if self._limiter is not None:
            self._limiter.release(self._address)
            self._limiter = None


class Tunnel:
    """What the two pipes of a tunnel share: it counts as a request in flight, and is told when the gateway stops."""

    __slots__ = ("_client_transport", "_connections", "_slot", "_upstream", "_upstream_transport", "log")

    def __init__(self, upstream: Upstream, slot: ConnectionSlot, connections: set[Any], log: TunnelLog) -> None:
        self._upstream = upstream
        self._slot = slot
        self._connections = connections
        self.log = log
        self._client_transport: asyncio.Transport
        self._upstream_transport: asyncio.Transport

    def start(
        self, client_transport: asyncio.Transport, upstream_transport: asyncio.Transport, *, write_paused: bool = False
    ) -> None:
        """Open the tunnel between two connections. `choked`: the near one has paused its writer before, and says so only once."""
        self._client_transport = client_transport
        self._upstream_transport = upstream_transport
        self._upstream.active_requests += 1
        metrics.WEBSOCKET_TUNNELS.inc()
        self._connections.add(self)
        client = RelayDirection(upstream_transport, self)
        client_transport.set_protocol(client)
        upstream_transport.set_protocol(RelayDirection(client_transport, self))
        if write_paused:
            client.pause_writing()

    def shutdown(self) -> None:
        """The gateway stops: both ends see their connection close."""
        self._client_transport.close()
        self._upstream_transport.close()
        if self._client_transport.get_write_buffer_size() or self._upstream_transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(FINAL_FLUSH_SECONDS, self.abort)

    def abort(self) -> None:
        """One side has stalled."""
        self._client_transport.abort()
        self._upstream_transport.abort()

    def side_closed(self) -> None:
        """One side has gone; called for each."""
        if self in self._connections:
            self._connections.discard(self)
            self._upstream.active_requests -= 1
            metrics.WEBSOCKET_TUNNELS.dec()
            self._slot.release()
            self.log.write(101)


class RelayDirection(asyncio.Protocol):
    """What arrives on one connection goes out on the other."""

    __slots__ = ("_log", "_peer", "_send_timer", "_tunnel")

    def __init__(self, peer: asyncio.Transport, tunnel: Tunnel) -> None:
        self._peer = peer
        self._tunnel = tunnel
        self._log = tunnel.log
        self._send_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Bytes, of whatever."""
        self._log.bytes_transferred += len(data)
        self._peer.write(data)

    def pause_writing(self) -> None:
        """This side takes no more: the other is not read."""
        self._send_timer = asyncio.get_running_loop().call_later(TUNNEL_SEND_TIMEOUT_SECONDS, self._tunnel.abort)
        if not self._peer.is_closing():
            self._peer.pause_reading()

    def resume_writing(self) -> None:
        """This side takes again."""
        self._cancel_send_timer()
        if not self._peer.is_closing():
            self._peer.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """This side has gone: the other gets what still waits, and then its end."""
        del exc
        self._tunnel.side_closed()
        self._cancel_send_timer()
        # Also where the other is closing already: a client that has said its last, and does not read, would keep its connection.
        self._peer.close()
        if self._peer.get_write_buffer_size():
            asyncio.get_running_loop().call_later(FINAL_FLUSH_SECONDS, self._peer.abort)

    def _cancel_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
