"""The HTTP client: asks one replica once, over a kept connection or a new one. Nothing is decoded, followed or retried here.

It is our own because of its price: other clients build objects for what a proxy hands on as it is. In one run a small request
through the gateway cost 250 us of CPU with aiohttp's session, and 136 with this.
"""

import asyncio
import errno
from collections import defaultdict
from functools import partial
from typing import Protocol

from gateway.heads import Head
from gateway.line import Gone, Line
from gateway.upstreams import Address
from services.common.errors import Unavailable

KEPT_SECONDS = 30.0
"""How long an idle connection to a replica is kept: less than the services keep it (serve.KEEP_ALIVE_SECONDS)."""
SWEEP_SECONDS = 5.0
"""Between two looks for connections that were idle for too long."""

_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Unreachable(Exception):
    """No connection came about: nothing was sent."""


def check_ours(error: OSError | TimeoutError) -> None:
    """Raises Unavailable where a connection failed by no fault of the replica's."""
    if isinstance(error, OSError) and error.errno in _OURS:
        raise Unavailable("this gateway has no connection left") from error


class Broken(Gone):
    """No answer on a connection that was made for this request: that is the replica's fault, and not a close that crossed it."""


class Body(Protocol):
    """A request's body, provided by somebody else."""

    head: Head

    async def read(self) -> bytes:
        """The next piece; none at the end. An error ends the request, and the service sees that it is not whole."""


class HttpClient:
    """All connections of this process to services."""

    def __init__(self, connect_seconds: float) -> None:
        self._connect_seconds = connect_seconds
        self._idle: defaultdict[Address, dict[Line, float]] = defaultdict(dict)
        self._lines: set[Line] = set()
        self._loop: asyncio.AbstractEventLoop
        self._sweeper: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Needs a running event loop; connects to nobody yet."""
        self._loop = asyncio.get_running_loop()
        self._sweep()

    async def close(self) -> None:
        """Close all connections."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for line in list(self._lines):
            line.abort()

    async def ask(
        self, method: str, address: Address, head: bytes, body: Body | None = None, *, fresh: bool = False
    ) -> Line:
        """Send a request and wait for the head of its answer. `fresh`: over no kept connection.

        The caller reads the answer from the line and releases it. Raises Unreachable, Gone or Unreadable; so does reading. Raises
        Unavailable where this process has no descriptor left.
        """
        idle = self._idle.get(address)
        kept = bool(idle) and not fresh
        line = idle.popitem()[0] if idle and kept else await self._connect(address)
        line.ask(method, head, whole=body is None)
        if body is not None:
            line.sending = self._loop.create_task(_send(line, body))
            line.sending.add_done_callback(partial(_sent, line))
        try:
            await line.head()
        except BaseException as error:
            if line.sending is not None:
                line.sending.cancel()
            line.abort()
            if isinstance(error, Gone):
                if not kept:
                    raise Broken(str(error)) from error
                for other in list(self._idle[address]):  # they are older, and the replica may have gone
                    other.abort()
            raise
        return line

    async def _connect(self, address: Address) -> Line:
        made = partial(Line, self._loop, partial(self._keep, address), partial(self._forget, address))
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, line = await self._loop.create_connection(made, *address)
        except (OSError, TimeoutError) as error:
            check_ours(error)
            raise Unreachable(str(error) or "no connection in time") from error
        self._lines.add(line)
        return line

    def _keep(self, address: Address, line: Line) -> None:
        self._idle[address][line] = self._loop.time()

    def _forget(self, address: Address, line: Line) -> None:
        self._lines.discard(line)
        if (idle := self._idle.get(address)) is not None:
            idle.pop(line, None)

    def _sweep(self) -> None:
        """Close what was idle for too long. The connection used last is used next, so the others get old."""
        too_old = self._loop.time() - KEPT_SECONDS
        for address, idle in list(self._idle.items()):
            for line in [line for line, since in idle.items() if since < too_old]:
                line.abort()
            if not idle:
                del self._idle[address]
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)


async def _send(line: Line, body: Body) -> None:
    chunked = body.head.length is None
    if body.head.waits and not await line.permission():
        return
    while data := await body.read():
        if not await line.send((b"%x\r\n" % len(data), data, b"\r\n") if chunked else (data,)):
            return
    if chunked and not await line.send((b"0\r\n\r\n",)):
        return
    line.sent = True


def _sent(line: Line, sending: asyncio.Task[None]) -> None:
    """The body broke off: what was sent of it shall not look whole, and nobody answers."""
    if not sending.cancelled() and (error := sending.exception()) is not None:
        line.fail(Gone(f"the request's body broke off: {error!r}"))
