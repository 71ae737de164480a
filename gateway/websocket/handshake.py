"""WebSockets: a byte tunnel to a socket replica. Given to uvicorn as `ws=`, so it gets the upgrade request and the connection.

The handshake goes to the service with rebuilt header fields; once that has answered 101, bytes go both ways and no frame is ever
parsed: pings, close codes and compression are between the two ends. Whoever is slow pauses the other. Before a 101 nothing of the
client's goes further than its handshake: what it sends after a refusal would be a request that no rule has seen.
"""

import asyncio
import logging
import re
import secrets
from contextlib import suppress
from http import HTTPStatus
from typing import Any, cast

from gateway import proxy_events, routes
from gateway.admission import STATE_KEY, AdmissionPolicy
from gateway.forwarded import Client, is_trusted_proxy, resolve_client
from gateway.proxy import headers
from gateway.upstream.connection_pool import raise_if_out_of_resources
from gateway.upstream.upstream_pool import CONNECT_BUDGET_SECONDS, Upstream
from gateway.websocket.relay import ConnectionSlot, Tunnel, TunnelLog
from services.common.errors import (
    BadGateway,
    GatewayTimeout,
    GridcastError,
    InternalServerError,
    NotFound,
    encode_problem,
    problem_headers,
)
from services.common.telemetry import json_logging

HANDSHAKE_TIMEOUT_SECONDS = 5.0
"""For the service's answer to a handshake."""
REFUSAL_TIMEOUT_SECONDS = 5.0
"""For what a service says instead of 101, and for the client to take it."""
MAX_HANDSHAKE_BYTES = 16 * 1024
"""Bytes of the service's handshake answer."""

_log = logging.getLogger("gridcast.gateway")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-5][0-9]{2}[ \r]")
_CONTENT_LENGTH_LINE = re.compile(rb"\r\ncontent-length: *([0-9]{1,7})\r\n", re.IGNORECASE)


class UpstreamHandshake(asyncio.Protocol):
    """The service's side until its answer's head is there."""

    def __init__(self) -> None:
        self.head: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.received = bytearray()
        self._complete = asyncio.Event()
        self._expected_bytes: int | None = None

    def data_received(self, data: bytes) -> None:
        """A part of the head, or what follows."""
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
        """Wait for so many bytes, head included, or for the end."""
        self._expected_bytes = count
        if len(self.received) < count:
            await self._complete.wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """It went away."""
        del exc
        self._complete.set()
        if not self.head.done():
            self.head.set_exception(ConnectionError("the socket service closed the connection"))


class ClientHandshake(asyncio.Protocol):
    """The client's side until the tunnel is open."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any]) -> None:
        del config
        self._connections: set[Any] = server_state.connections
        self._admission: AdmissionPolicy = app_state[STATE_KEY]
        self._transport: asyncio.Transport
        self._early_data = b""
        self._write_paused = False
        self._closed = False
        self._handshake_task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection, handed over by the HTTP protocol."""
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        """The handshake in one piece, as the HTTP protocol has judged it; then perhaps the first frames."""
        if self._closed:
            return
        if self._handshake_task is not None:
            self._early_data += data
            return
        self._transport.pause_reading()
        self._handshake_task = asyncio.get_running_loop().create_task(self._handle_handshake(data))

    def pause_writing(self) -> None:
        """The client has not taken what was answered on this connection before."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """It has."""
        self._write_paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        """The client went away before the tunnel was open."""
        del exc
        self._connections.discard(self)
        if self._handshake_task is not None:
            self._handshake_task.cancel()

    def shutdown(self) -> None:
        """The gateway stops."""
        self._transport.close()

    async def _handle_handshake(self, handshake: bytes) -> None:
        first, *lines = handshake[:-4].split(b"\r\n")
        target = first.split(b" ")[1]
        fields = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
        address = self._transport.get_extra_info("peername")
        peer = address[0] if address else "unknown"
        said = headers.incoming_request_id(fields) if is_trusted_proxy(peer, self._admission.trusted_proxies) else None
        tally = TunnelLog(target.partition(b"?")[0].decode("ascii"), said or secrets.token_hex(8))
        json_logging.request_id_var.set(tally.request_id)
        try:
            client = resolve_client(peer, "http", fields, self._admission.trusted_proxies)
            made = headers.build_request_headers(fields, client, tally.request_id)
            request = b"GET %s HTTP/1.1\r\n%sconnection: Upgrade\r\nupgrade: websocket\r\n\r\n" % (target, made)
            self._admit(tally.path, fields, client)
            place = ConnectionSlot(self._admission.connection_limiter, client.address)
            try:
                await self._connect_upstream(request, place, tally)
            except BaseException:
                place.release()
                raise
        except GridcastError as error:
            if isinstance(error, BadGateway | GatewayTimeout):
                proxy_events.upstream_error(routes.SOCKET, error.status)
            else:
                proxy_events.request_rejected("websocket_handshake")
            self._reject(error, tally)
        except Exception:  # noqa: BLE001  # the last resort of every tunnel
            _log.exception("unhandled exception")
            self._reject(InternalServerError(), tally)

    def _admit(self, path: str, fields: list[tuple[bytes, bytes]], client: Client) -> None:
        entrance = self._admission
        if path not in routes.WEBSOCKET_PATHS:
            raise NotFound("no WebSocket endpoint here")
        if entrance.rate_limiter is not None:
            entrance.rate_limiter.acquire(client.address, asyncio.get_running_loop().time())
        said = {name: value.decode("latin-1") for name, value in fields}
        entrance.origins.check_websocket_origin(
            said.get(b"origin"), client.host or said.get(b"host"), has_cookies=b"cookie" in said
        )

    async def _connect_upstream(self, request: bytes, slot: ConnectionSlot, log: TunnelLog) -> None:
        upstream = self._admission.socket_upstreams
        loop = asyncio.get_running_loop()
        connecting = 0.0
        tried: list[Upstream] = []
        while connecting <= CONNECT_BUDGET_SECONDS and (replica := upstream.select_least_requests(tried)) is not None:
            tried.append(replica)
            began = loop.time()
            log.upstream_addr = replica.origin
            with replica:
                try:
                    async with asyncio.timeout(self._admission.connect_timeout):
                        transport, far = await loop.create_connection(UpstreamHandshake, *replica.address)
                except (OSError, TimeoutError) as error:
                    raise_if_out_of_resources(error)
                    connecting += loop.time() - began
                    upstream.record_failure(replica, loop.time())
                    proxy_events.upstream_ejected(upstream, replica, error)
                    continue
                try:
                    transport.write(request)
                    async with asyncio.timeout(HANDSHAKE_TIMEOUT_SECONDS):
                        head = await far.head
                    upstream.record_success(replica)
                    if head.startswith(b"HTTP/1.1 101 "):
                        self._start_tunnel(transport, far, Tunnel(replica, slot, self._connections, log))
                    else:
                        await self._relay_refusal(far, head, log)
                        transport.close()
                        slot.release()
                except ConnectionError as error:
                    upstream.record_failure(replica, loop.time())
                    proxy_events.upstream_ejected(upstream, replica, error)
                    proxy_events.upstream_retried(upstream)
                    continue  # it died with our handshake: nothing has happened that may not happen again
                except (TimeoutError, BadGateway) as error:
                    transport.abort()
                    upstream.record_failure(replica, loop.time())
                    silent = isinstance(error, TimeoutError)
                    fault = (
                        GatewayTimeout("timeout while waiting for the response of the socket service")
                        if silent
                        else error
                    )
                    proxy_events.upstream_ejected(upstream, replica, fault)
                    raise fault from None
                except BaseException:
                    transport.abort()
                    raise
                return
        raise BadGateway("the socket service is unreachable")

    def _start_tunnel(
        self, upstream_transport: asyncio.Transport, upstream_handshake: UpstreamHandshake, tunnel: Tunnel
    ) -> None:
        """From here on two pipes do everything; this object is not needed any more."""
        self._connections.discard(self)
        tunnel.start(self._transport, upstream_transport, write_paused=self._write_paused)
        self._transport.write(bytes(upstream_handshake.received))
        self._transport.resume_reading()
        if self._early_data:
            upstream_transport.write(self._early_data)

    async def _relay_refusal(self, upstream_handshake: UpstreamHandshake, head: bytes, log: TunnelLog) -> None:
        """What the service says instead, as it is; the client's connection ends with it."""
        match = _CONTENT_LENGTH_LINE.search(head)
        wanted = len(head) + int(match[1]) if match else None
        with suppress(TimeoutError):
            async with asyncio.timeout(REFUSAL_TIMEOUT_SECONDS):
                await upstream_handshake.wait_for_bytes(MAX_HANDSHAKE_BYTES if wanted is None else wanted)
        self._transport.write(bytes(upstream_handshake.received))
        self._lingering_close(int(head[9:12]), log)

    def _reject(self, error: GridcastError, log: TunnelLog) -> None:
        body = encode_problem(error)
        fields = [
            *problem_headers(error, body),
            (b"x-request-id", log.request_id.encode("ascii")),
            (b"connection", b"close"),
        ]
        status = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n".encode("ascii")
        self._transport.write(b"".join([status, *(b"%s: %s\r\n" % field for field in fields), b"\r\n", body]))
        self._lingering_close(error.status, log)

    def _lingering_close(self, status: int, log: TunnelLog) -> None:
        """Read on for a moment and throw it away: closing with bytes unread would reset what was just written."""
        log.write(status)
        self._closed = True
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self._transport.write_eof()
            asyncio.get_running_loop().call_later(REFUSAL_TIMEOUT_SECONDS, self._transport.abort)
