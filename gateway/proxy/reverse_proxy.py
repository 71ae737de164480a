"""The way of one HTTP request: choose a replica, send it on, pass the answer back. Streams both ways.

It decides what is tried again and what a failure is called. It knows neither the HTTP client behind `proxy` nor the routes.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Never, cast

from gateway import proxy_events
from gateway.forwarded import Client
from gateway.proxy import headers
from gateway.proxy.request_encoder import EncodedHead, encode_request_head
from gateway.proxy.timeouts import BODY_PHASES, Phase, ProgressMonitor, ProxyExchange, ProxyTimeouts
from gateway.routes import Route
from gateway.settings import GatewaySettings
from gateway.upstream.connection_pool import ConnectError, ConnectionPool, NoResponseError
from gateway.upstream.response_parser import RemoteProtocolError
from gateway.upstream.upstream_connection import ServerDisconnected, UpstreamConnection
from gateway.upstream.upstream_pool import CONNECT_BUDGET_SECONDS, Upstream, UpstreamPool
from services.common.asgi import ClientDisconnected, Receive, Scope, Send
from services.common.errors import BadGateway, ContentTooLarge, GatewayTimeout, GridcastError, ServiceUnavailable
from services.common.server.connection_info import connection_info
from services.common.telemetry import json_logging

MAX_NON_MEDIA_BODY_BYTES = 1024 * 1024
"""Bytes of a body that is no media."""
SMALL_RESPONSE_BYTES = 16 * 1024
"""Bytes of an answer that are one piece, however they came."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class ClientRequestBody:
    """A request's body as it comes from the client. The service pulls it, so a slow service slows the client down."""

    def __init__(self, head: EncodedHead, receive: Receive, exchange: ProxyExchange, limit: int) -> None:
        self.head = head
        self._receive = receive
        self._exchange = exchange
        self._limit = limit
        self._more_body = True

    async def read(self) -> bytes:
        """The next piece; none at the end."""
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
        if exchange.phase in BODY_PHASES:  # else the answer came early
            exchange.phase = Phase.AWAITING_HEADERS
        return b""

    def _abort(self, reason: GridcastError | ClientDisconnected) -> Never:
        self._exchange.abort(reason)
        raise reason


@dataclass(slots=True)
class UpstreamRequest:
    """A request on its way. `again`: it may be asked a second time, because nothing can happen twice; `fresh`: it is being."""

    method: str
    head: bytes
    body: ClientRequestBody | None
    retryable: bool
    new_connection: bool = False


class ReverseProxy:
    """Answers requests from the services."""

    def __init__(
        self, settings: GatewaySettings, connection_pool: ConnectionPool, upstream_pools: Mapping[str, UpstreamPool]
    ) -> None:
        self._settings = settings
        self._connection_pool = connection_pool
        self._upstream_pools = upstream_pools
        self._loop: asyncio.AbstractEventLoop
        self._monitor = ProgressMonitor(
            ProxyTimeouts(settings.client_body_timeout, settings.upstream_idle_timeout, settings.send_timeout)
        )

    async def run_monitor(self) -> None:
        """Ends what stalls; runs as long as the process does."""
        await self._monitor.run()

    def bind_to_running_loop(self) -> None:
        """Needs a running event loop. It is kept: Python 3.11 asks the system for the process id each time it is looked up."""
        self._loop = asyncio.get_running_loop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send, route: Route, client: Client) -> None:
        """Answer from `route`'s service. Raises GridcastError; once the answer has begun that means: cut it."""
        method, target, query = scope["method"], scope["raw_path"], scope["query_string"]
        if query:
            target = b"%s?%s" % (target, query)
        asking = encode_request_head(method, target, scope["headers"], client, json_logging.request_id_var.get())
        length = asking.content_length
        limit = self._settings.max_body_size if route.is_media else MAX_NON_MEDIA_BODY_BYTES
        if length is not None and length > limit:
            raise ContentTooLarge(f"the request body is longer than {limit} bytes")
        safe = method in SAFE_METHODS
        patience = (
            self._settings.commit_timeout if route.is_media and not safe else self._settings.response_header_timeout
        )
        task = cast("asyncio.Task[None]", asyncio.current_task(self._loop))
        exchange = ProxyExchange(task, self._loop.time(), patience, request_complete=length == 0)
        body = None if length == 0 else ClientRequestBody(asking, receive, exchange, limit)
        asked = UpstreamRequest(method, asking.raw, body, safe and body is None)
        log: dict[str, object] = {}
        scope["log"] = log
        connection = connection_info(scope)
        self._monitor.add(exchange, connection.peer_disconnected)
        try:
            await self._send_with_retries(
                self._upstream_pools[route.service], asked, exchange, send, log, extended=connection.extended_start
            )
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

    async def _send_with_retries(
        self,
        upstream_pool: UpstreamPool,
        request: UpstreamRequest,
        exchange: ProxyExchange,
        send: Send,
        log: dict[str, object],
        *,
        extended: bool,
    ) -> None:
        clock = self._loop.time
        began = clock()
        connecting = 0.0
        tried: list[Upstream] = []
        while True:
            replica = upstream_pool.select_least_requests(tried)
            if replica is None or connecting > CONNECT_BUDGET_SECONDS:
                raise BadGateway(f"the {upstream_pool.name} service is unreachable")
            log["upstream_addr"] = replica.origin
            asked_at = clock()
            with replica:
                try:
                    line = await self._connection_pool.request(
                        request.method,
                        replica.address,
                        request.head,
                        request.body,
                        new_connection=request.new_connection,
                    )
                except (ConnectError, ServerDisconnected, RemoteProtocolError, asyncio.CancelledError) as error:
                    if _is_upstream_fault(error, exchange.abort_reason):
                        upstream_pool.record_failure(replica, clock())
                        proxy_events.upstream_ejected(upstream_pool, replica, exchange.abort_reason or error)
                    if isinstance(error, ConnectError):
                        connecting += clock() - asked_at
                    elif isinstance(error, ServerDisconnected) and request.retryable and exchange.abort_reason is None:
                        # It closed a kept connection while we wrote to it, or died.
                        request.retryable, request.new_connection = False, True
                        proxy_events.upstream_retried(upstream_pool)
                    else:
                        raise
                    if isinstance(error, ConnectError) or len(upstream_pool.upstreams) > 1:
                        tried.append(replica)
                    continue
                upstream_pool.record_success(replica)
                log["first_byte"] = round(clock() - began, 6)
                try:
                    await _copy_response(line, exchange, send, extended=extended)
                finally:
                    line.release()
                return


def _is_upstream_fault(error: BaseException, abort_reason: GridcastError | ClientDisconnected | None) -> bool:
    """Whether it is the replica's. A kept connection that has ended is nobody's."""
    if abort_reason is None:
        return isinstance(error, ConnectError | NoResponseError | RemoteProtocolError)
    return isinstance(abort_reason, GatewayTimeout) and isinstance(error, asyncio.CancelledError)


async def _copy_response(
    connection: UpstreamConnection, exchange: ProxyExchange, send: Send, *, extended: bool
) -> None:
    status = connection.response.status
    fields = headers.filter_response_headers(connection.response.headers, status)
    if not exchange.request_complete:
        fields.append((b"connection", b"close"))  # answered early: the rest of the body is not wanted
    exchange.phase = Phase.WRITING_CLIENT
    if (
        extended and connection.response.message_complete and connection.response.buffered <= SMALL_RESPONSE_BYTES
    ):  # all of it is here: one message
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
