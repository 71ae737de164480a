"""gateway.websocket.relay: a tunnel between two real connections ends where one of its ends does, and where one of them stalls."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.limiters import ConnectionLimiter
from gateway.upstream.upstream_pool import Address, Upstream
from gateway.websocket.relay import ConnectionSlot, Tunnel, TunnelLog

pytestmark = pytest.mark.anyio


class TunnelFixture:
    """The sockets of client and upstream, and the tunnel between them."""

    def __init__(self) -> None:
        self.client, self.client_side = socket.socketpair()
        self.upstream_end, self.upstream_side = socket.socketpair()
        for end in (self.client, self.client_side, self.upstream_end, self.upstream_side):
            end.setblocking(False)
        self.open: set[Any] = set()
        self.upstream = Upstream(Address("127.0.0.1", 1))
        self.limiter = ConnectionLimiter(1, 0)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.client_transport, _ = await loop.create_connection(asyncio.Protocol, sock=self.client_side)
        self.upstream_transport, _ = await loop.create_connection(asyncio.Protocol, sock=self.upstream_side)
        tunnel = Tunnel(
            self.upstream, ConnectionSlot(self.limiter, "127.0.0.1"), self.open, TunnelLog("/ws", "x", "127.0.0.1")
        )
        tunnel.start(self.client_transport, self.upstream_transport)

    async def fill_write_buffer(self) -> int:
        """The upstream sends until the tunnel reads no more."""
        loop, sent = asyncio.get_running_loop(), 0
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(0.2):
                    await loop.sock_sendall(self.upstream_end, bytes(16384))
                sent += 16384
        return sent

    async def wait_until_closed(self) -> None:
        """Both connections are closed, and no slot is counted any more."""
        async with asyncio.timeout(5):
            while self.client_side.fileno() >= 0 or self.upstream_side.fileno() >= 0:  # noqa: ASYNC110 - a transport notifies only its protocol
                await asyncio.sleep(0.01)
        assert not self.open
        assert self.upstream.active_requests == 0
        self.limiter.acquire("127.0.0.1")


@pytest.fixture
async def tunnel() -> AsyncIterator[TunnelFixture]:
    made = TunnelFixture()
    await made.start()
    yield made
    for end in (made.client, made.upstream_end):
        end.close()
    for transport in (made.client_transport, made.upstream_transport):
        transport.abort()


async def test_client_that_stops_reading_loses_its_tunnel(
    tunnel: TunnelFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upstream cannot report it: while the client reads nothing, the upstream is not read."""
    monkeypatch.setattr("gateway.websocket.relay.TUNNEL_SEND_TIMEOUT_SECONDS", 0.5)
    assert await tunnel.fill_write_buffer() > 0
    tunnel.upstream_end.close()
    await tunnel.wait_until_closed()


async def test_half_closed_client_that_does_not_read_ends_with_its_upstream(
    tunnel: TunnelFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.websocket.relay.FINAL_FLUSH_SECONDS", 0.1)
    while tunnel.client_transport.get_write_buffer_size() == 0:
        tunnel.upstream_end.send(bytes(4096))
        await asyncio.sleep(0)
    tunnel.client.shutdown(socket.SHUT_WR)
    while not tunnel.client_transport.is_closing():  # noqa: ASYNC110 - as above
        await asyncio.sleep(0)
    assert tunnel.open
    tunnel.upstream_end.close()
    await tunnel.wait_until_closed()


async def test_client_that_pauses_and_resumes_keeps_its_tunnel(
    tunnel: TunnelFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.websocket.relay.TUNNEL_SEND_TIMEOUT_SECONDS", 1.0)
    loop = asyncio.get_running_loop()
    for _ in range(8):
        left = await tunnel.fill_write_buffer()
        async with asyncio.timeout(5):
            while left > 0:
                left -= len(await loop.sock_recv(tunnel.client, 65536))
        assert tunnel.open
