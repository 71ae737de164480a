"""The HTTP client: a pool of connections to upstreams. It follows no redirect, decodes no body and retries nothing.

It is our own because of its cost: other clients build objects for what a proxy passes on unchanged. In one run a small request
through the gateway cost 250 us of CPU with aiohttp's session, and 136 us with this.
"""

import asyncio
from collections import defaultdict
from functools import partial
from typing import Protocol

from gateway.upstream.connect import open_connection
from gateway.upstream.read_buffer import ReadBuffer
from gateway.upstream.upstream_connection import ServerDisconnected, UpstreamConnection
from gateway.upstream.upstream_pool import Address
from services.common.errors import drop_tracebacks

KEEPALIVE_EXPIRY_SECONDS = 30.0
"""Seconds after which an idle connection is closed: fewer than the services keep it (`HTTPConnection.keep_alive_timeout`)."""
EXPIRY_CHECK_INTERVAL_SECONDS = 5.0
"""Seconds between two checks for expired connections."""


class NoResponseError(ServerDisconnected):
    """A connection that was opened for this request closed without a response.

    That is the upstream's fault. On a reused connection it may be a keep-alive timeout that crossed the request.
    """


class RequestBody(Protocol):
    """The body of a request, which the pool pulls. `content_length` in bytes; None: it is sent in chunks (RFC 9112, 7.1)."""

    content_length: int | None
    expect_continue: bool
    """Send the body after a 100 (RFC 9110, 10.1.1)."""

    async def read(self) -> bytes:
        """Return the next chunk; empty at the end. An error aborts the request, so that the upstream sees an incomplete body."""


class ConnectionPool:
    """All connections of this process to upstreams."""

    def __init__(self, connect_timeout: float) -> None:
        """`connect_timeout` in seconds."""
        self._connect_timeout = connect_timeout
        self.read_buffer = ReadBuffer()
        self._idle: defaultdict[Address, dict[UpstreamConnection, float]] = defaultdict(dict)
        self._connections: set[UpstreamConnection] = set()
        self._loop: asyncio.AbstractEventLoop
        self._expiry_timer: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Bind to the running event loop, and start the expiry timer. Opens no connection."""
        self._loop = asyncio.get_running_loop()
        self._close_expired()

    async def aclose(self) -> None:
        """Close all connections."""
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
        for connection in list(self._connections):
            connection.abort()

    async def request(
        self,
        method: str,
        address: Address,
        head: bytes,
        body: RequestBody | None = None,
        *,
        new_connection: bool = False,
    ) -> UpstreamConnection:
        """Send a request and wait for the headers of its response. `new_connection`: use no idle connection.

        The caller reads the response from the connection and releases it. Raises ConnectError, ServerDisconnected or
        RemoteProtocolError; reading raises the last two. Raises ServiceUnavailable where this process is out of file descriptors.
        """
        idle = self._idle.get(address)
        reused = bool(idle) and not new_connection
        connection = idle.popitem()[0] if idle and reused else await self._connect(address)
        connection.send_request(method, head, complete=body is None)
        if body is not None:
            connection.body_task = self._loop.create_task(_send_body(connection, body))
            connection.body_task.add_done_callback(partial(_fail_if_body_aborted, connection))
        try:
            await connection.receive_headers()
        except BaseException as error:
            if connection.body_task is not None:
                connection.body_task.cancel()
            connection.abort()
            if isinstance(error, ServerDisconnected):
                if not reused:
                    raise NoResponseError(str(error)) from error
                for other in list(self._idle[address]):  # they are older, and the upstream may have stopped
                    other.abort()
            raise
        return connection

    async def _connect(self, address: Address) -> UpstreamConnection:
        factory = partial(
            UpstreamConnection,
            self._loop,
            self.read_buffer,
            partial(self._return_to_idle, address),
            partial(self._discard, address),
        )
        _, connection = await open_connection(self._loop, factory, address, self._connect_timeout)
        self._connections.add(connection)
        return connection

    def _return_to_idle(self, address: Address, connection: UpstreamConnection) -> None:
        self._idle[address][connection] = self._loop.time()

    def _discard(self, address: Address, connection: UpstreamConnection) -> None:
        self._connections.discard(connection)
        if (idle := self._idle.get(address)) is not None:
            idle.pop(connection, None)

    def _close_expired(self) -> None:
        """Close expired connections. The one that became idle last is reused first, so that the others expire."""
        deadline = self._loop.time() - KEEPALIVE_EXPIRY_SECONDS
        for address, idle in list(self._idle.items()):
            for connection in [connection for connection, since in idle.items() if since < deadline]:
                connection.abort()
            if not idle:
                del self._idle[address]
        self._expiry_timer = self._loop.call_later(EXPIRY_CHECK_INTERVAL_SECONDS, self._close_expired)


async def _send_body(connection: UpstreamConnection, body: RequestBody) -> None:
    chunked = body.content_length is None
    if body.expect_continue and not await connection.wait_for_100_continue():
        return
    while data := await body.read():
        if not await connection.send_body((b"%x\r\n" % len(data), data, b"\r\n") if chunked else (data,)):
            return
    if chunked and not await connection.send_body((b"0\r\n\r\n",)):
        return
    connection.request_sent = True


def _fail_if_body_aborted(connection: UpstreamConnection, task: asyncio.Task[None]) -> None:
    """Close the connection where reading the body failed: the upstream must not take it for complete, and no response follows."""
    if not task.cancelled() and (error := task.exception()) is not None:
        connection.body_task = None  # the task has a traceback, whose frames refer to the connection
        drop_tracebacks(error)
        connection.fail(ServerDisconnected(f"request body aborted: {error!r}"))
