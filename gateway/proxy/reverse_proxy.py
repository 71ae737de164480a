"""Proxies one HTTP request: encodes it for the upstream, sends it through the proxy loop, streams the response to the client.

Bodies stream in both directions. This module decides which requests may be retried and which error the client gets.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from functools import partial
from typing import Never, cast

from gateway.forwarded import Client
from gateway.proxy import headers
from gateway.proxy.request_encoder import EncodedHead, encode_request_head
from gateway.proxy.timeouts import (
    BODY_PHASES,
    Phase,
    ProgressMonitor,
    ProxyExchange,
    ProxyTimeouts,
    UpstreamUnresponsive,
)
from gateway.routes import Route
from gateway.settings import GatewaySettings
from gateway.upstream.connect import ConnectError
from gateway.upstream.connection_pool import ConnectionPool, NoResponseError
from gateway.upstream.response_parser import RemoteProtocolError
from gateway.upstream.retries import AttemptFailure, Retry, send_with_retries
from gateway.upstream.upstream_connection import ServerDisconnected, UpstreamConnection
from gateway.upstream.upstream_pool import FROZEN_AFTER_SECONDS, Upstream, UpstreamPool
from services.common.asgi import ClientDisconnected, Receive, Scope, Send
from services.common.errors import BadGateway, ContentTooLarge, GatewayTimeout, GridcastError, ServiceUnavailable
from services.common.http.origins import SAFE_METHODS
from services.common.server.connection_info import ConnectionInfo, connection_info
from services.common.telemetry.request_id import request_id_var

MAX_NON_MEDIA_BODY_BYTES = 1024 * 1024
"""Largest request body on a route that takes no media: 413 beyond."""
SMALL_RESPONSE_BYTES = 16 * 1024
"""Largest response body that is sent in one message together with the headers, if it was received completely."""


class ClientRequestBody:
    """The request body of a client, pulled by the upstream connection: a slow upstream slows the client down."""

    def __init__(self, head: EncodedHead, receive: Receive, exchange: ProxyExchange, limit: int) -> None:
        """`limit` in bytes."""
        self.content_length = head.content_length
        self.expect_continue = head.expect_continue
        self._receive = receive
        self._exchange = exchange
        self._limit = limit
        self._more_body = True

    async def read(self) -> bytes:
        """Return the next chunk; empty at the end. Raises ContentTooLarge, or ClientDisconnected."""
        exchange = self._exchange
        while self._more_body:
            exchange.phase = Phase.READING_CLIENT
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._abort(ClientDisconnected())
            data: bytes = message.get("body", b"")
            exchange.bytes_transferred += len(data)
            if exchange.bytes_transferred > self._limit:
                self._abort(ContentTooLarge(f"the request body is longer than {self._limit} bytes"))
            self._more_body = message.get("more_body", False)
            if data:
                exchange.phase = Phase.WRITING_UPSTREAM
                return data
        exchange.request_complete = True
        if exchange.phase in BODY_PHASES:  # otherwise the response came before the end of the body
            exchange.phase = Phase.AWAITING_HEADERS
        return b""

    def _abort(self, reason: GridcastError | ClientDisconnected) -> Never:
        self._exchange.abort(reason)
        raise reason


class UpstreamRequest:
    """An HTTP request in the proxy loop (`gateway.upstream.retries.ProxiedRequest`).

    Arguments:
        head: the encoded head.
        body: None where the request has none.
        retryable: it may be sent once more after a broken connection: a safe method, and no body that is partly consumed.
        log: fields for the access log.
        client_connection: what the server says of the client's connection.
    """

    __slots__ = (
        "_body",
        "_clock",
        "_connection_pool",
        "_exchange",
        "_extended_start",
        "_head",
        "_log",
        "_method",
        "_new_connection",
        "_peer_disconnected",
        "_pool",
        "_retryable",
        "_send",
        "_started_at",
        "_upstream",
        "_write_paused",
    )

    def __init__(
        self,
        pool: UpstreamPool,
        connection_pool: ConnectionPool,
        loop: asyncio.AbstractEventLoop,
        method: str,
        head: bytes,
        body: ClientRequestBody | None,
        exchange: ProxyExchange,
        send: Send,
        log: dict[str, object],
        *,
        retryable: bool,
        client_connection: ConnectionInfo,
    ) -> None:
        self._pool = pool
        self._upstream: Upstream | None = None
        self._connection_pool = connection_pool
        self._clock = loop.time
        self._started_at = loop.time()
        self._method = method
        self._head = head
        self._body = body
        self._exchange = exchange
        self._send = send
        self._log = log
        self._retryable = retryable
        self._new_connection = False
        self._extended_start = client_connection.extended_start
        self._peer_disconnected = client_connection.peer_disconnected
        self._write_paused = client_connection.write_paused

    def send(self, upstream: Upstream) -> Awaitable[UpstreamConnection]:
        """Send the request over a pooled connection. A plain function: another coroutine would cost every request."""
        self._log["upstream_addr"] = upstream.origin
        self._upstream = upstream
        return self._connection_pool.request(
            self._method, upstream.address, self._head, self._body, new_connection=self._new_connection
        )

    def classify(self, error: BaseException) -> AttemptFailure:
        """Retry what was not sent, and what is retryable once: a reused connection was closed meanwhile, or the upstream died."""
        aborted = self._exchange.abort_reason
        reason = (aborted or error) if _is_upstream_fault(error, aborted) else None
        if isinstance(error, ConnectError):
            return AttemptFailure(reason, Retry.NEXT_UPSTREAM)
        if isinstance(aborted, UpstreamUnresponsive):
            again = self._retryable and self._pool.has_healthy() and self._exchange.reset_after_abort()
            return AttemptFailure(
                None, Retry.NEXT_UPSTREAM if again else Retry.NEVER
            )  # the health checks have ejected it
        if isinstance(error, ServerDisconnected) and self._retryable and aborted is None:
            self._retryable, self._new_connection = False, True
            return AttemptFailure(reason, Retry.ANY_UPSTREAM)
        return AttemptFailure(reason, Retry.NEVER)

    def upstream_unresponsive(self, now: float) -> bool:
        """Whether the upstream does not respond to health checks, and the request can be sent elsewhere or has waited too long."""
        upstream, phase = self._upstream, self._exchange.phase
        if upstream is None or upstream.unresponsive_since is None or phase is Phase.WRITING_CLIENT:
            return False
        elsewhere = self._retryable and phase is Phase.AWAITING_HEADERS and self._pool.has_healthy()
        # A request that comes later has the same time: the upstream may work again before a health check finds it out.
        return elsewhere or (upstream.is_frozen(now) and now - self._started_at >= FROZEN_AFTER_SECONDS)

    async def relay(self, connection: UpstreamConnection) -> None:
        """Copy the response to the client, and release the connection."""
        self._log["first_byte"] = round(self._clock() - self._started_at, 6)
        exchange, send, response = self._exchange, self._send, connection.response
        try:
            status = response.status
            fields = headers.filter_response_headers(response.headers, status)
            if not exchange.request_complete:
                fields.append((b"connection", b"close"))  # an early response: the rest of the request body is not read
            exchange.phase = Phase.WRITING_CLIENT
            if self._extended_start and response.message_complete and response.buffered <= SMALL_RESPONSE_BYTES:
                data = await connection.read()
                exchange.bytes_transferred += len(data)
                await send({"type": "http.response.start", "status": status, "headers": fields, "body": data})
                return
            await send({"type": "http.response.start", "status": status, "headers": fields})
            more = True
            while more:
                exchange.phase = Phase.READING_UPSTREAM
                data = await connection.read()
                more = not connection.response_consumed
                exchange.phase = Phase.WRITING_CLIENT
                exchange.bytes_transferred += len(data)
                await send({"type": "http.response.body", "body": data, "more_body": more})
                if more and self._write_paused():
                    await self._drain()
        finally:
            connection.release()

    async def _drain(self) -> None:
        """Wait until the client takes more. Raises ClientDisconnected."""
        read_buffer = self._connection_pool.read_buffer
        read_buffer.client_stalled()
        try:
            await self._send({"type": "http.response.body", "body": b"", "more_body": True})
        finally:
            read_buffer.client_resumed()
        if self._peer_disconnected():
            raise ClientDisconnected


class ReverseProxy:
    """Sends requests to the services and returns their responses."""

    def __init__(
        self, settings: GatewaySettings, connection_pool: ConnectionPool, upstream_pools: Mapping[str, UpstreamPool]
    ) -> None:
        """`upstream_pools` by the name of the service."""
        self._settings = settings
        self._connection_pool = connection_pool
        self._upstream_pools = upstream_pools
        self._loop: asyncio.AbstractEventLoop
        self._monitor = ProgressMonitor(
            ProxyTimeouts(settings.client_body_timeout, settings.upstream_idle_timeout, settings.send_timeout)
        )

    async def run_monitor(self) -> None:
        """Run the progress monitor until cancelled."""
        await self._monitor.run()

    def bind_to_running_loop(self) -> None:
        """Keep the running event loop. Python 3.11 asks the system for the process id at each look-up."""
        self._loop = asyncio.get_running_loop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send, route: Route, client: Client) -> None:
        """Respond from `route`'s service. Raises GridcastError; after the response has started the connection must be aborted."""
        method, target, query = scope["method"], scope["raw_path"], scope["query_string"]
        if query:
            target = b"%s?%s" % (target, query)
        head = encode_request_head(method, target, scope["headers"], client, request_id_var.get())
        length = head.content_length
        limit = self._settings.max_body_size if route.is_media else MAX_NON_MEDIA_BODY_BYTES
        if length is not None and length > limit:
            raise ContentTooLarge(f"the request body is longer than {limit} bytes")
        safe = method in SAFE_METHODS
        header_timeout = (
            self._settings.commit_timeout if route.is_media and not safe else self._settings.response_header_timeout
        )
        task = cast("asyncio.Task[None]", asyncio.current_task(self._loop))
        pool = self._upstream_pools[route.service]
        exchange = ProxyExchange(
            task,
            self._loop.time(),
            header_timeout,
            request_complete=length == 0,
            endless_body_timeout=self._settings.live_body_timeout if route.is_endless else None,
        )
        body = None if length == 0 else ClientRequestBody(head, receive, exchange, limit)
        log: dict[str, object] = {}
        scope["log"] = log
        connection = connection_info(scope)
        request = UpstreamRequest(
            pool,
            self._connection_pool,
            self._loop,
            method,
            head.raw,
            body,
            exchange,
            send,
            log,
            retryable=safe and body is None,
            client_connection=connection,
        )
        peer_disconnected = connection.peer_disconnected if safe else partial(_has_left_request, exchange, connection)
        self._monitor.add(exchange, peer_disconnected, request.upstream_unresponsive)
        try:
            await send_with_retries(pool, request, self._loop.time)
        except asyncio.CancelledError:
            task.uncancel()
            raise exchange.abort_reason or ServiceUnavailable("the gateway is shutting down") from None
        except (ServerDisconnected, RemoteProtocolError) as error:
            if exchange.abort_reason is not None:
                raise exchange.abort_reason from None
            raise BadGateway(
                f"the {route.service} service closed the connection or sent an invalid response"
            ) from error
        finally:
            self._monitor.remove(exchange)


def _has_left_request(exchange: ProxyExchange, connection: ConnectionInfo) -> bool:
    """Whether the client has gone inside of a request that changes something; one that is complete is carried out."""
    return not exchange.request_complete and connection.peer_disconnected()


def _is_upstream_fault(error: BaseException, abort_reason: GridcastError | ClientDisconnected | None) -> bool:
    """Whether the upstream is to be ejected. Not for a reused connection that was closed: that may be a keep-alive timeout."""
    if abort_reason is None:
        return isinstance(error, ConnectError | NoResponseError | RemoteProtocolError)
    return isinstance(abort_reason, GatewayTimeout) and isinstance(error, asyncio.CancelledError)
