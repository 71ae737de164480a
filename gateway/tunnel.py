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

from gateway import headers, reports, routes
from gateway.clients import Client, client_of, is_trusted
from gateway.entrance import STATE, Entrance
from gateway.pipe import Life, Place, Tally
from gateway.proxy import check_ours
from gateway.upstreams import CONNECT_ALL_SECONDS, Replica
from services.common import logs
from services.common.errors import (
    BadGateway,
    GatewayTimeout,
    GridcastError,
    Internal,
    NotFound,
    problem,
    problem_headers,
)

ANSWER_SECONDS = 5.0
"""For the service's answer to a handshake."""
LAST_SECONDS = 5.0
"""For what a service says instead of 101, and for the client to take it."""
MAX_HEAD = 16 * 1024
"""Bytes of the service's handshake answer."""

_log = logging.getLogger("gridcast.gateway")
_STATUS = re.compile(rb"HTTP/1\.[01] [1-5][0-9]{2}[ \r]")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,7})\r\n", re.IGNORECASE)


class Far(asyncio.Protocol):
    """The service's side until its answer's head is there."""

    def __init__(self) -> None:
        self.head: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.received = bytearray()
        self._whole = asyncio.Event()
        self._wanted: int | None = None

    def data_received(self, data: bytes) -> None:
        """A part of the head, or what follows."""
        self.received += data
        end = self.received.find(b"\r\n\r\n") + 4
        if end > 3 and not self.head.done() and _STATUS.match(self.received):
            self.head.set_result(bytes(self.received[:end]))
        elif end > 3 and not self.head.done():
            self.head.set_exception(BadGateway("the socket service's answer is not HTTP/1.1"))
        elif len(self.received) > MAX_HEAD and not self.head.done():
            self.head.set_exception(BadGateway("the socket service's answer is too long"))
        if self._wanted is not None and len(self.received) >= self._wanted:
            self._whole.set()

    async def until(self, wanted: int) -> None:
        """Wait for so many bytes, head included, or for the end."""
        self._wanted = wanted
        if len(self.received) < wanted:
            await self._whole.wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """It went away."""
        del exc
        self._whole.set()
        if not self.head.done():
            self.head.set_exception(ConnectionError("the socket service broke off"))


class Tunnel(asyncio.Protocol):
    """The client's side until the tunnel is open."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any]) -> None:
        del config
        self._connections: set[Any] = server_state.connections
        self._entrance: Entrance = app_state[STATE]
        self._near: asyncio.Transport
        self._early = b""
        self._choked = False
        self._over = False
        self._opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection, handed over by the HTTP protocol."""
        self._near = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        """The handshake in one piece, as the HTTP protocol has judged it; then perhaps the first frames."""
        if self._over:
            return
        if self._opening is not None:
            self._early += data
            return
        self._near.pause_reading()
        self._opening = asyncio.get_running_loop().create_task(self._open(data))

    def pause_writing(self) -> None:
        """The client has not taken what was answered on this connection before."""
        self._choked = True

    def resume_writing(self) -> None:
        """It has."""
        self._choked = False

    def connection_lost(self, exc: Exception | None) -> None:
        """The client went away before the tunnel was open."""
        del exc
        self._connections.discard(self)
        if self._opening is not None:
            self._opening.cancel()

    def shutdown(self) -> None:
        """The gateway stops."""
        self._near.close()

    async def _open(self, handshake: bytes) -> None:
        first, *lines = handshake[:-4].split(b"\r\n")
        target = first.split(b" ")[1]
        fields = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
        address = self._near.get_extra_info("peername")
        peer = address[0] if address else "unknown"
        said = headers.request_id(fields) if is_trusted(peer, self._entrance.trusted) else None
        tally = Tally(target.partition(b"?")[0].decode("ascii"), said or secrets.token_hex(8))
        logs.request_id.set(tally.request_id)
        try:
            client = client_of(peer, "http", fields, self._entrance.trusted)
            made = headers.request(fields, client, tally.request_id)
            request = b"GET %s HTTP/1.1\r\n%sconnection: Upgrade\r\nupgrade: websocket\r\n\r\n" % (target, made)
            self._admit(tally.path, fields, client)
            place = Place(self._entrance.tunnels, client.address)
            try:
                await self._connect(request, place, tally)
            except BaseException:
                place.leave()
                raise
        except GridcastError as error:
            if isinstance(error, BadGateway | GatewayTimeout):
                reports.unanswered(routes.SOCKET, error.status)
            else:
                reports.refused("websocket")
            self._refuse(error, tally)
        except Exception:  # noqa: BLE001  # the last resort of every tunnel
            _log.exception("unexpected fault")
            self._refuse(Internal(), tally)

    def _admit(self, path: str, fields: list[tuple[bytes, bytes]], client: Client) -> None:
        entrance = self._entrance
        if path not in routes.WEBSOCKETS:
            raise NotFound("no WebSocket here")
        if entrance.rate is not None:
            entrance.rate.take(client.address, asyncio.get_running_loop().time())
        said = {name: value.decode("latin-1") for name, value in fields}
        entrance.origins.check(said.get(b"origin"), client.host or said.get(b"host"), cookies=b"cookie" in said)

    async def _connect(self, request: bytes, place: Place, tally: Tally) -> None:
        upstream = self._entrance.upstream
        loop = asyncio.get_running_loop()
        connecting = 0.0
        tried: list[Replica] = []
        while connecting <= CONNECT_ALL_SECONDS and (replica := upstream.pick(tried)) is not None:
            tried.append(replica)
            began = loop.time()
            tally.upstream = replica.origin
            with replica:
                try:
                    async with asyncio.timeout(self._entrance.connect_seconds):
                        transport, far = await loop.create_connection(Far, *replica.address)
                except (OSError, TimeoutError) as error:
                    check_ours(error)
                    connecting += loop.time() - began
                    upstream.failed(replica, loop.time())
                    reports.ejected(upstream, replica, error)
                    continue
                try:
                    transport.write(request)
                    async with asyncio.timeout(ANSWER_SECONDS):
                        head = await far.head
                    upstream.worked(replica)
                    if head.startswith(b"HTTP/1.1 101 "):
                        self._join(transport, far, Life(replica, place, self._connections, tally))
                    else:
                        await self._pass_refusal(far, head, tally)
                        transport.close()
                        place.leave()
                except ConnectionError as error:
                    upstream.failed(replica, loop.time())
                    reports.ejected(upstream, replica, error)
                    reports.retried(upstream)
                    continue  # it died with our handshake: nothing has happened that may not happen again
                except (TimeoutError, BadGateway) as error:
                    transport.abort()
                    upstream.failed(replica, loop.time())
                    silent = isinstance(error, TimeoutError)
                    fault = GatewayTimeout("the socket service did not answer in time") if silent else error
                    reports.ejected(upstream, replica, fault)
                    raise fault from None
                except BaseException:
                    transport.abort()
                    raise
                return
        raise BadGateway("the socket service cannot be reached")

    def _join(self, far_transport: asyncio.Transport, far: Far, life: Life) -> None:
        """From here on two pipes do everything; this object is not needed any more."""
        self._connections.discard(self)
        life.begin(self._near, far_transport, choked=self._choked)
        self._near.write(bytes(far.received))
        self._near.resume_reading()
        if self._early:
            far_transport.write(self._early)

    async def _pass_refusal(self, far: Far, head: bytes, tally: Tally) -> None:
        """What the service says instead, as it is; the client's connection ends with it."""
        match = _LENGTH.search(head)
        wanted = len(head) + int(match[1]) if match else None
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_SECONDS):
                await far.until(MAX_HEAD if wanted is None else wanted)
        self._near.write(bytes(far.received))
        self._end(int(head[9:12]), tally)

    def _refuse(self, error: GridcastError, tally: Tally) -> None:
        body = problem(error)
        fields = [
            *problem_headers(error, body),
            (b"x-request-id", tally.request_id.encode("ascii")),
            (b"connection", b"close"),
        ]
        status = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n".encode("ascii")
        self._near.write(b"".join([status, *(b"%s: %s\r\n" % field for field in fields), b"\r\n", body]))
        self._end(error.status, tally)

    def _end(self, status: int, tally: Tally) -> None:
        """Read on for a moment and throw it away: closing with bytes unread would reset what was just written."""
        tally.log(status)
        self._over = True
        if not self._near.is_closing():
            self._near.resume_reading()
            self._near.write_eof()
            asyncio.get_running_loop().call_later(LAST_SECONDS, self._near.abort)
