"""A tunnel on a connection whose client has not read an earlier response: what the service sends does not accumulate."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from gateway.app import create_app
from gateway.settings import GatewaySettings
from gateway.websocket.handshake import ClientHandshake
from gateway.websocket.relay import Tunnel
from tests.support.in_process_server import InProcessServer, serve_in_thread
from tests.support.raw_sockets import WEBSOCKET_HANDSHAKE
from tests.support.scripted_upstream import ReceivedRequest, ScriptedUpstream
from tests.support.waiting import eventually

PIPELINED_BYTES = 120_000
"""Bytes of a response that fits the gateway's buffer: its first half is below the high-water mark, the second above."""
UPSTREAM_BYTES = 64 * 1024 * 1024


@pytest.fixture
def gateway(upstream: ScriptedUpstream) -> Iterator[InProcessServer]:
    async def respond(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not seen.get("upgrade"):
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % PIPELINED_BYTES + bytes(PIPELINED_BYTES // 2)
            )
            await asyncio.sleep(0.2)
            writer.write(bytes(PIPELINED_BYTES // 2))
            return
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        for _ in range(UPSTREAM_BYTES // 65536):
            writer.write(bytes(65536))
            await writer.drain()
        await reader.read()

    upstream.reset()
    upstream.responder = respond
    urls = {f"{name}_urls": upstream.url for name in ("upload", "stream", "socket")}
    with serve_in_thread(create_app(GatewaySettings(**urls)), ws=ClientHandshake, lifespan="on") as running:  # type: ignore[arg-type]
        yield running


def find_tunnel(gateway: InProcessServer) -> Tunnel | None:
    return next((one for one in list(gateway.state.connections) if isinstance(one, Tunnel)), None)


def test_client_that_does_not_read_loses_its_tunnel(
    gateway: InProcessServer, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.websocket.relay.TUNNEL_SEND_TIMEOUT_SECONDS", 1.5)
    with gateway.connect(b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n") as client:
        eventually(lambda: gateway.state.total_requests == 1, 5, "the response is in the buffer")
        client.sendall(WEBSOCKET_HANDSHAKE)
        eventually(lambda: find_tunnel(gateway), 5)
        most = 0
        while (life := find_tunnel(gateway)) is not None:
            most = max(most, life._client_transport.get_write_buffer_size())
            assert most < PIPELINED_BYTES + 300_000
            time.sleep(0.01)
        assert most > PIPELINED_BYTES / 2
        eventually(lambda: gateway.is_idle() and upstream.active_requests == 0, 5, "nothing is left of it")


def test_client_that_resumes_reading_receives_everything(gateway: InProcessServer) -> None:
    with gateway.connect(b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n") as client:
        eventually(lambda: gateway.state.total_requests == 1, 5)
        client.sendall(WEBSOCKET_HANDSHAKE)
        eventually(lambda: find_tunnel(gateway), 5)
        received = 0
        while received < PIPELINED_BYTES + UPSTREAM_BYTES:
            data = client.recv(1 << 20)
            assert data
            received += len(data)
