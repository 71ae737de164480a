"""A tunnel on a connection whose client has not taken an answer from before: what the service sends does not heap up."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from gateway.app import create_app
from gateway.settings import GatewaySettings
from gateway.websocket.relay import Tunnel
from gateway.websocket.websocket_tunnel import ClientHandshake
from tests.support.in_process_server import Running, serving
from tests.support.scripted_upstream import HANDSHAKE, Seen, Upstream
from tests.support.waiting import eventually

BEFORE = 120_000
"""Bytes of an answer that stands in the gateway's buffer as a whole: the first half of it is below the mark, the second above."""
FLOOD = 64 * 1024 * 1024


@pytest.fixture
def gateway(service: Upstream) -> Iterator[Running]:
    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not seen.get("upgrade"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BEFORE + bytes(BEFORE // 2))
            await asyncio.sleep(0.2)
            writer.write(bytes(BEFORE // 2))
            return
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        for _ in range(FLOOD // 65536):
            writer.write(bytes(65536))
            await writer.drain()
        await reader.read()

    service.reset()
    service.answer = answer
    urls = {f"{name}_urls": service.url for name in ("upload", "stream", "socket")}
    with serving(create_app(GatewaySettings(**urls)), ws=ClientHandshake, lifespan="on") as running:  # type: ignore[arg-type]
        yield running


def tunnel(gateway: Running) -> Tunnel | None:
    return next((one for one in list(gateway.state.connections) if isinstance(one, Tunnel)), None)


def test_who_does_not_read_loses_its_tunnel(
    gateway: Running, service: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.websocket.relay.TUNNEL_SEND_TIMEOUT_SECONDS", 1.5)
    with gateway.connect(b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n") as client:
        eventually(lambda: gateway.state.total_requests == 1, 5, "the answer is in the buffer")
        client.sendall(HANDSHAKE)
        eventually(lambda: tunnel(gateway), 5)
        most = 0
        while (life := tunnel(gateway)) is not None:
            most = max(most, life._client_transport.get_write_buffer_size())
            assert most < BEFORE + 300_000
            time.sleep(0.01)
        assert most > BEFORE / 2
        eventually(lambda: gateway.is_free() and service.busy == 0, 5, "nothing is left of it")


def test_who_reads_on_gets_it_all(gateway: Running) -> None:
    with gateway.connect(b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n") as client:
        eventually(lambda: gateway.state.total_requests == 1, 5)
        client.sendall(HANDSHAKE)
        eventually(lambda: tunnel(gateway), 5)
        received = 0
        while received < BEFORE + FLOOD:
            data = client.recv(1 << 20)
            assert data
            received += len(data)
