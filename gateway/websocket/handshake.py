"""WebSocket handshakes (RFC 6455, 4): admits the client's, sends it to an upstream, opens the tunnel after a 101.

The server hands a connection over with the upgrade request as its first data (`run(websocket=ClientHandshake)`). The upstream gets
rebuilt header fields. After a 101 bytes are relayed in both directions and no frame is parsed: pings, close codes and compression
are between the two ends, and a slow end pauses the other. Until then only the handshake is forwarded: bytes that follow a refused
one would be a request that was never validated.
"""

import asyncio
import logging
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple, cast

from gateway import proxy_events, routes
from gateway.admission import STATE_KEY, AdmissionPolicy
from gateway.forwarded import Client, is_trusted_proxy, resolve_client
from gateway.proxy.headers import build_request_headers
from gateway.upstream.connect import ConnectError, open_connection
from gateway.upstream.retries import AttemptFailure, Retry, send_with_retries
from gateway.upstream.upstream_pool import Upstream
from gateway.websocket.relay import ConnectionSlot, Tunnel, TunnelLog
from services.common.errors import (
    BadGateway,
    GatewayTimeout,
    GridcastError,
    InternalServerError,
    NotFound,
)
from services.common.http.encoding import encode_error_response
from services.common.http.headers import Header, incoming_request_id
from services.common.http.problem import decode_problem_detail
from services.common.server.contract import ServerConfig, ServerState
from services.common.server.websocket.upgrade import parse_upgrade_request
from services.common.telemetry.request_id import new_request_id, request_id_var

HANDSHAKE_TIMEOUT_SECONDS = 5.0
"""Seconds for the upstream's response to a handshake."""
REFUSAL_TIMEOUT_SECONDS = 5.0
"""Seconds for the body of a refusal (a response other than 101), and again for the client to read it."""
MAX_HANDSHAKE_BYTES = 16 * 1024
"""Largest head of the upstream's response, and largest refusal without a Content-Length, in bytes."""

_log = logging.getLogger("gridcast.gateway")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-5][0-9]{2}[ \r]")
_CONTENT_LENGTH_LINE = re.compile(rb"\r\ncontent-length: *([0-9]{1,7})\r\n", re.IGNORECASE)


class UpstreamHandshake(asyncio.Protocol):
    """The connection to the upstream, until the tunnel is open or the refusal is relayed."""

    def __init__(self) -> None:
        self.head: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        """The head of the response. Raises BadGateway where it is not valid, ConnectionError where there is none."""
        self.received = bytearray()
        """All bytes of the response, head included."""
        self._complete = asyncio.Event()
        self._expected_bytes: int | None = None

    def data_received(self, data: bytes) -> None:
        """Collect the head and what follows it."""
        self.received += data
        end = self.received.find(b"\r\n\r\n") + 4
        if end > 3 and not self.head.done() and _STATUS_LINE.match(self.received):
            self.head.set_result(bytes(self.received[:end]))
        elif end > 3 and not self.head.done():
            self.head.set_exception(BadGateway("invalid response of the socket service: not HTTP/1.1"))
        elif len(self.received) > MAX_HANDSHAKE_BYTES and not self.head.done():
            self.head.set_exception(BadGateway("invalid response of the socket service: header too large"))
        if self._expected_bytes is not None and len(self.received) >= self._expected_bytes:
            self._complete.set()

    async def wait_for_bytes(self, count: int) -> None:
        """Wait until `count` bytes were received, head included, or the upstream has closed the connection."""
        self._expected_bytes = count
        if len(self.received) < count:
            await self._complete.wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """End all waiting."""
        del exc
        self._complete.set()
        if not self.head.done():
            self.head.set_exception(ConnectionError("the socket service closed the connection"))


class UpstreamResponse(NamedTuple):
    """An upstream's response to a handshake."""

    upstream: Upstream
    transport: asyncio.Transport
    handshake: UpstreamHandshake
    head: bytes


class HandshakeRequest:
    """A handshake in the proxy loop (`gateway.upstream.retries.ProxiedRequest`)."""

    def __init__(
        self, client: "ClientHandshake", encoded: bytes, connect_timeout: float, slot: ConnectionSlot, log: TunnelLog
    ) -> None:
        """`encoded`: the upgrade request for the upstream. `connect_timeout` in seconds. `slot`: held as long as the tunnel."""
        self._client = client
        self._slot = slot
        self._encoded = encoded
        self._connect_timeout = connect_timeout
        self._log = log

    async def send(self, upstream: Upstream) -> UpstreamResponse:
        """Connect, send the handshake, and wait for the head of the response.

        Raises ConnectError; ConnectionError where the upstream closes the connection; GatewayTimeout; BadGateway.
        """
        self._log.upstream_addr = upstream.origin
        transport, handshake = await open_connection(
            asyncio.get_running_loop(), UpstreamHandshake, upstream.address, self._connect_timeout
        )
        try:
            transport.write(self._encoded)
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_SECONDS):
                head = await handshake.head
        except TimeoutError:
            transport.abort()
            raise GatewayTimeout("timeout while waiting for the response of the socket service") from None
        except BaseException:
            transport.abort()
            raise
        return UpstreamResponse(upstream, transport, handshake, head)

    def classify(self, error: BaseException) -> AttemptFailure:
        """Retry after a broken connection or a timeout: a handshake has no effect that must not happen twice."""
        if isinstance(error, ConnectError | ConnectionError | GatewayTimeout):
            return AttemptFailure(error, Retry.NEXT_UPSTREAM)
        if isinstance(error, BadGateway):
            return AttemptFailure(error, Retry.NEVER)
        return AttemptFailure(None, Retry.NEVER)

    async def relay(self, response: UpstreamResponse) -> None:
        """Open the tunnel after a 101; otherwise relay the refusal."""
        try:
            if response.head.startswith(b"HTTP/1.1 101 "):
                self._client.start_tunnel(response, self._slot, self._log)
            else:
                await self._client.relay_refusal(response, self._log)
                response.transport.close()
                self._slot.release()
        except BaseException:
            response.transport.abort()
            raise


class ClientHandshake(asyncio.Protocol):
    """The connection of the client, until the tunnel is open or the handshake is refused."""

    def __init__(self, config: ServerConfig, server_state: ServerState, app_state: dict[str, Any]) -> None:
        del config
        self._connections = server_state.connections
        self._admission: AdmissionPolicy = app_state[STATE_KEY]
        self._transport: asyncio.Transport
        self._early_data = b""
        self._write_paused = False
        self._refused = self._eof_received = False
        self._handshake_task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection over from the HTTP protocol."""
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Start with the handshake, which the HTTP protocol has validated and passes in one piece. Keep the frames behind it."""
        if self._refused:
            return
        if self._handshake_task is not None:
            self._early_data += data
            return
        self._transport.pause_reading()
        self._handshake_task = asyncio.get_running_loop().create_task(self._handle_handshake(data))

    def eof_received(self) -> bool:
        """Return whether the connection stays open: a client that ends its half may wait for the response to its handshake."""
        self._eof_received = True
        return self._handshake_task is not None and not self._refused

    def pause_writing(self) -> None:
        """Note that the write buffer is full: the client has not read the responses to earlier requests."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """Note that the write buffer has room again."""
        self._write_paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the handshake: the client has gone before the tunnel was open."""
        del exc
        self._connections.discard(self)
        if self._handshake_task is not None:
            self._handshake_task.cancel()

    def shutdown(self) -> None:
        """Close the connection: the gateway stops."""
        self._transport.close()

    async def _handle_handshake(self, handshake: bytes) -> None:
        request = parse_upgrade_request(handshake)
        target, fields = request.target, request.headers
        address = self._transport.get_extra_info("peername")
        peer = address[0] if address else "unknown"
        admission = self._admission
        request_id = incoming_request_id(fields) if is_trusted_proxy(peer, admission.trusted_proxies) else None
        client = resolve_client(peer, "http", fields, admission.trusted_proxies)
        log = TunnelLog(target.partition(b"?")[0].decode("ascii"), request_id or new_request_id(), client.address)
        request_id_var.set(log.request_id)
        try:
            encoded = build_request_headers(fields, client, log.request_id)
            upgrade = b"GET %s HTTP/1.1\r\n%sconnection: Upgrade\r\nupgrade: websocket\r\n\r\n" % (target, encoded)
            self._admit(log.path, fields, client)
            slot = ConnectionSlot(admission.connection_limiter, client.address)
            try:
                await send_with_retries(
                    admission.socket_upstreams,
                    HandshakeRequest(self, upgrade, admission.connect_timeout, slot, log),
                    asyncio.get_running_loop().time,
                )
            except BaseException:
                slot.release()
                raise
        except GridcastError as error:
            if isinstance(error, BadGateway | GatewayTimeout):
                proxy_events.upstream_error(routes.SOCKET, error.status)
            else:
                proxy_events.request_rejected("websocket_handshake")
            self._reject(error, log)
        except Exception:  # noqa: BLE001  # no handshake may end without a response
            _log.exception("unhandled exception")
            self._reject(InternalServerError(), log)

    def _admit(self, path: str, fields: Iterable[Header], client: Client) -> None:
        """Raise MisdirectedRequest, NotFound, TooManyRequests or Forbidden where the client may not open a WebSocket."""
        admission = self._admission
        admission.hosts.check(fields)
        if path not in routes.WEBSOCKET_PATHS:
            raise NotFound("no WebSocket endpoint here")
        if admission.rate_limiter is not None:
            admission.rate_limiter.acquire(client.address, asyncio.get_running_loop().time())
        admission.origins.check_request(fields, client.host, https=client.scheme == "https")

    def start_tunnel(self, response: UpstreamResponse, slot: ConnectionSlot, log: TunnelLog) -> None:
        """Relay the 101, and hand both connections over to a tunnel: this object is not needed any more."""
        tunnel = Tunnel(response.upstream, slot, self._connections, log)
        self._connections.discard(self)
        tunnel.start(self._transport, response.transport, write_paused=self._write_paused)
        self._transport.write(_with_request_id(response, log))
        if self._eof_received:  # there is no WebSocket without frames of the client: both ends are closed
            self._transport.close()
            return
        self._transport.resume_reading()
        if self._early_data:
            response.transport.write(self._early_data)

    async def relay_refusal(self, response: UpstreamResponse, log: TunnelLog) -> None:
        """Relay a response other than 101 unchanged, and close the client's connection."""
        head, handshake = response.head, response.handshake
        match = _CONTENT_LENGTH_LINE.search(head)
        count = len(head) + int(match[1]) if match else MAX_HANDSHAKE_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(REFUSAL_TIMEOUT_SECONDS):
                await handshake.wait_for_bytes(count)
        self._transport.write(_with_request_id(response, log))
        reason = decode_problem_detail(bytes(handshake.received[len(head) :]))
        self._close(int(head[9:12]), log, reason)

    def _reject(self, error: GridcastError, log: TunnelLog) -> None:
        self._transport.write(encode_error_response(error, [(b"x-request-id", log.request_id.encode("ascii"))]))
        self._close(error.status, log, error.detail)

    def _close(self, status: int, log: TunnelLog, reason: str | None) -> None:
        log.write(status, reason)
        self._refused = True
        lingering_close(self._transport, REFUSAL_TIMEOUT_SECONDS)


def _with_request_id(response: UpstreamResponse, log: TunnelLog) -> bytes:
    """Return what was received of a response, with the request id in its head."""
    received = bytes(response.handshake.received)
    if b"\r\nx-request-id:" in response.head.lower():
        return received
    end = len(response.head) - 2
    return b"%sx-request-id: %s\r\n%s" % (received[:end], log.request_id.encode("ascii"), received[end:])


def lingering_close(transport: asyncio.Transport, timeout: float) -> None:
    """Send a FIN behind what was written, and read on for `timeout` seconds (RFC 9112, 9.6).

    Closing with unread bytes would reset the connection, and the client would lose the response. The protocol drops what it reads.
    """
    if not transport.is_closing():
        transport.resume_reading()
        transport.write_eof()
        asyncio.get_running_loop().call_later(timeout, transport.abort)
