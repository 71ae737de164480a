"""An open WebSocket tunnel: relays bytes between the client's and the upstream's connection, without parsing frames.

Only the write buffers of the two connections hold bytes. Beyond 64 KiB in one of them, reading from the other side pauses.
"""

import asyncio
import logging
import time
from typing import Any

from gateway.limiters import ConnectionLimiter
from gateway.upstream.upstream_pool import Upstream
from services.common.http.secret_paths import redact_path
from services.common.server.timeouts import SendTimeout
from services.common.telemetry import metrics
from services.common.telemetry.request_id import request_id_var

FINAL_FLUSH_SECONDS = 5.0
"""Seconds for sending the bytes in one write buffer after the other side has closed."""

TUNNEL_SEND_TIMEOUT_SECONDS = 15.0
"""Seconds for which the write buffer of a side may stay full. The other side is not read meanwhile, so neither its close frame nor
its FIN is seen: without a limit a client that stops reading would keep its tunnel for ever. The socket service closes such a
connection after 12 s.
"""

_access_log = logging.getLogger("gridcast.access")


class TunnelLog:
    """The access log entry of one tunnel. The query is not logged: it may contain the secret that resumes a session."""

    __slots__ = ("bytes_transferred", "client", "path", "request_id", "started_at", "upstream_addr")

    def __init__(self, path: str, request_id: str, client: str) -> None:
        """`client`: its address."""
        self.client = client
        self.path = path
        self.request_id = request_id
        self.started_at = time.perf_counter()
        self.bytes_transferred = 0
        self.upstream_addr = ""

    def write(self, status: int, reason: str | None = None) -> None:
        """Write the entry, when the tunnel is closed or the handshake refused. `reason`: that of the refusal."""
        if _access_log.isEnabledFor(logging.INFO):
            token = request_id_var.set(self.request_id)
            fields = {
                "method": "GET",
                "path": redact_path(self.path),
                "status": status,
                "bytes_transferred": self.bytes_transferred,
                "duration": round(time.perf_counter() - self.started_at, 6),
                "upstream_addr": self.upstream_addr,
                "client": self.client,
            }
            if reason is not None:
                fields["reason"] = reason
            _access_log.info("websocket tunnel", extra={"fields": fields})
            request_id_var.reset(token)


class ConnectionSlot:
    """A place among the open tunnels that `ConnectionLimiter` allows."""

    __slots__ = ("_address", "_limiter")

    def __init__(self, limiter: ConnectionLimiter, address: str) -> None:
        """Acquire it. Raises ServiceUnavailable or TooManyRequests where none is free."""
        limiter.acquire(address)
        self._limiter: ConnectionLimiter | None = limiter
        self._address = address

    def release(self) -> None:
        """Release it. Further calls have no effect."""
        if self._limiter is not None:
            self._limiter.release(self._address)
            self._limiter = None


class Tunnel:
    """What both directions of a tunnel share. It counts as an active request of its upstream, and as a connection of the server."""

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
        """Open the tunnel. `write_paused`: the client's transport has called `pause_writing` before, which it does only once."""
        self._client_transport = client_transport
        self._upstream_transport = upstream_transport
        self._upstream.active_requests += 1
        self._upstream.tunnels.add(self)
        metrics.WEBSOCKET_TUNNELS.inc()
        self._connections.add(self)
        client_protocol = RelayDirection(upstream_transport, self)
        client_transport.set_protocol(client_protocol)
        upstream_transport.set_protocol(RelayDirection(client_transport, self))
        if write_paused:
            client_protocol.pause_writing()

    def shutdown(self) -> None:
        """Close both connections: the gateway stops, or the upstream is frozen. The client sees the end without a close code."""
        self._client_transport.close()
        self._upstream_transport.close()
        if self._client_transport.get_write_buffer_size() or self._upstream_transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(FINAL_FLUSH_SECONDS, self.abort)

    def abort(self) -> None:
        """Abort both connections: one side has timed out."""
        self._client_transport.abort()
        self._upstream_transport.abort()

    def side_closed(self) -> None:
        """Release what the tunnel holds, and log it. Called once for each side; the second call has no effect."""
        if self in self._connections:
            self._connections.discard(self)
            self._upstream.active_requests -= 1
            self._upstream.tunnels.discard(self)
            metrics.WEBSOCKET_TUNNELS.dec()
            self._slot.release()
            self.log.write(101)


class RelayDirection(asyncio.Protocol):
    """The protocol of one connection of a tunnel: writes what it receives to the other connection, its peer."""

    __slots__ = ("_log", "_peer", "_send_timer", "_tunnel")

    def __init__(self, peer: asyncio.Transport, tunnel: Tunnel) -> None:
        self._peer = peer
        self._tunnel = tunnel
        self._log = tunnel.log
        self._send_timer = SendTimeout(asyncio.get_running_loop(), tunnel.abort)

    def data_received(self, data: bytes) -> None:
        """Relay received bytes."""
        self._log.bytes_transferred += len(data)
        self._peer.write(data)

    def pause_writing(self) -> None:
        """Pause reading from the peer: the write buffer of this side is full."""
        self._send_timer.start(TUNNEL_SEND_TIMEOUT_SECONDS)
        if not self._peer.is_closing():
            self._peer.pause_reading()

    def resume_writing(self) -> None:
        """Resume reading from the peer."""
        self._send_timer.stop()
        if not self._peer.is_closing():
            self._peer.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the peer when its write buffer is sent, at the latest after FINAL_FLUSH_SECONDS."""
        del exc
        self._tunnel.side_closed()
        self._send_timer.stop()
        # Even if the peer is closing already: a client that has sent its FIN and does not read would keep its connection.
        self._peer.close()
        if self._peer.get_write_buffer_size():
            asyncio.get_running_loop().call_later(FINAL_FLUSH_SECONDS, self._peer.abort)
