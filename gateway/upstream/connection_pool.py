"""The HTTP client: asks one replica once, over a kept connection or a new one. Nothing is decoded, followed or retried here.

It is our own because of its price: other clients build objects for what a proxy hands on as it is. In one run a small request
through the gateway cost 250 us of CPU with aiohttp's session, and 136 with this.
"""

import asyncio
import errno
from collections import defaultdict
from functools import partial
from typing import Protocol

from gateway.proxy.request_encoder import EncodedHead
from gateway.upstream.upstream_connection import ServerDisconnected, UpstreamConnection
from gateway.upstream.upstream_pool import Address
from services.common.errors import ServiceUnavailable

KEEPALIVE_EXPIRY_SECONDS = 30.0
"""How long an idle connection to a replica is kept: less than the services keep it (HTTPConnection.keep_alive_timeout)."""
EXPIRY_CHECK_INTERVAL_SECONDS = 5.0
"""Between two looks for connections that were idle for too long."""

_RESOURCE_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class ConnectError(Exception):
    """No connection came about: nothing was sent."""


def raise_if_out_of_resources(error: OSError | TimeoutError) -> None:
    """Raises Unavailable where a connection failed by no fault of the replica's."""
    if isinstance(error, OSError) and error.errno in _RESOURCE_ERRNOS:
        raise ServiceUnavailable("the gateway is out of file descriptors or ports") from error


class NoResponseError(ServerDisconnected):
    """No answer on a connection that was made for this request: that is the replica's fault, and not a close that crossed it."""


class RequestBody(Protocol):
    """A request's body, provided by somebody else."""

    head: EncodedHead

    async def read(self) -> bytes:
        """The next piece; none at the end. An error ends the request, and the service sees that it is not whole."""


class ConnectionPool:
    """All connections of this process to services."""

    def __init__(self, connect_timeout: float) -> None:
        self._connect_timeout = connect_timeout
        self._idle: defaultdict[Address, dict[UpstreamConnection, float]] = defaultdict(dict)
        self._connections: set[UpstreamConnection] = set()
        self._loop: asyncio.AbstractEventLoop
        self._expiry_timer: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Needs a running event loop; connects to nobody yet."""
        self._loop = asyncio.get_running_loop()
        self._close_expired()

    async def aclose(self) -> None:
        """Close all connections."""
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
        for line in list(self._connections):
            line.abort()

    async def request(
        self,
        method: str,
        address: Address,
        head: bytes,
        body: RequestBody | None = None,
        *,
        new_connection: bool = False,
    ) -> UpstreamConnection:
        """Send a request and wait for the head of its answer. `fresh`: over no kept connection.

        The caller reads the answer from the line and releases it. Raises Unreachable, Gone or Unreadable; so does reading. Raises
        Unavailable where this process has no descriptor left.
        """
        idle = self._idle.get(address)
        kept = bool(idle) and not new_connection
        line = idle.popitem()[0] if idle and kept else await self._connect(address)
        line.send_request(method, head, complete=body is None)
        if body is not None:
            line.body_task = self._loop.create_task(_send_body(line, body))
            line.body_task.add_done_callback(partial(_fail_if_body_aborted, line))
        try:
            await line.receive_headers()
        except BaseException as error:
            if line.body_task is not None:
                line.body_task.cancel()
            line.abort()
            if isinstance(error, ServerDisconnected):
                if not kept:
                    raise NoResponseError(str(error)) from error
                for other in list(self._idle[address]):  # they are older, and the replica may have gone
                    other.abort()
            raise
        return line

    async def _connect(self, address: Address) -> UpstreamConnection:
        made = partial(
            UpstreamConnection, self._loop, partial(self._return_to_idle, address), partial(self._discard, address)
        )
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, line = await self._loop.create_connection(made, *address)
        except (OSError, TimeoutError) as error:
            raise_if_out_of_resources(error)
            raise ConnectError(str(error) or "connect timeout") from error
        self._connections.add(line)
        return line

    def _return_to_idle(self, address: Address, connection: UpstreamConnection) -> None:
        self._idle[address][connection] = self._loop.time()

    def _discard(self, address: Address, connection: UpstreamConnection) -> None:
        self._connections.discard(connection)
        if (idle := self._idle.get(address)) is not None:
            idle.pop(connection, None)

    def _close_expired(self) -> None:
        """Close what was idle for too long. The connection used last is used next, so the others get old."""
        too_old = self._loop.time() - KEEPALIVE_EXPIRY_SECONDS
        for address, idle in list(self._idle.items()):
            for line in [line for line, since in idle.items() if since < too_old]:
                line.abort()
            if not idle:
                del self._idle[address]
        self._expiry_timer = self._loop.call_later(EXPIRY_CHECK_INTERVAL_SECONDS, self._close_expired)


async def _send_body(connection: UpstreamConnection, body: RequestBody) -> None:
    chunked = body.head.content_length is None
    if body.head.expect_continue and not await connection.wait_for_100_continue():
        return
    while data := await body.read():
        if not await connection.send_body((b"%x\r\n" % len(data), data, b"\r\n") if chunked else (data,)):
            return
    if chunked and not await connection.send_body((b"0\r\n\r\n",)):
        return
    connection.request_sent = True


def _fail_if_body_aborted(connection: UpstreamConnection, task: asyncio.Task[None]) -> None:
    """The body broke off: what was sent of it shall not look whole, and nobody answers."""
    if not task.cancelled() and (error := task.exception()) is not None:
        connection.fail(ServerDisconnected(f"request body aborted: {error!r}"))
