"""services.stream.response_sender with a client that reads everything, reads nothing, or disconnects."""

import asyncio
import contextlib
import socket
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from services.common.asgi import ClientDisconnected
from services.common.server import tcp
from services.common.server.connection_info import ConnectionInfo
from services.stream.response_sender import ClientStalled, ResponseSender, SendTimeoutMonitor

pytestmark = pytest.mark.anyio


class FakeAsgiClient:
    """ASGI as uvicorn implements it: `send` waits while the buffer is full, and returns silently after a disconnect."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.writable = asyncio.Event()
        self.writable.set()
        self.disconnected = asyncio.Event()

    async def send(self, message: Any) -> None:
        await self.writable.wait()
        if not self.disconnected.is_set():
            self.sent.append(message)

    async def receive(self) -> dict[str, Any]:
        await self.disconnected.wait()
        return {"type": "http.disconnect"}

    def disconnect(self) -> None:
        self.disconnected.set()
        self.writable.set()


async def send_pieces(outlet: ResponseSender, pieces: int) -> int:
    """Send that many pieces; returns how many were begun before the end."""
    begun = 0
    outlet.started = True
    with outlet:
        for _ in range(pieces):
            begun += 1
            await outlet.send_chunk(b"x")
            await outlet.drain()
        await outlet.send_last_chunk(b"")
    return begun


async def test_all_bytes_arrive_and_none_stay_buffered() -> None:
    client, patience = FakeAsgiClient(), SendTimeoutMonitor(10)
    before = asyncio.all_tasks()
    assert await send_pieces(ResponseSender(client.receive, client.send, patience), 30) == 30
    assert b"".join(message["body"] for message in client.sent) == b"x" * 30
    assert not client.sent[-1].get("more_body", False)
    assert patience._last_progress == {}
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_client_disconnect_is_noticed_within_one_loop_iteration() -> None:
    client, patience = FakeAsgiClient(), SendTimeoutMonitor(10)
    client.disconnect()
    with pytest.raises(ClientDisconnected):
        await send_pieces(ResponseSender(client.receive, client.send, patience), 10_000)
    assert patience._last_progress == {}


async def test_disconnect_of_a_paused_client_ends_the_response() -> None:
    client, patience = FakeAsgiClient(), SendTimeoutMonitor(10)
    outlet = ResponseSender(client.receive, client.send, patience)
    asyncio.get_running_loop().call_later(0.02, client.writable.clear)
    asyncio.get_running_loop().call_later(0.1, client.disconnect)
    with pytest.raises(ClientDisconnected):
        await send_pieces(outlet, 10_000_000)
    after = len(client.sent)
    await asyncio.sleep(0.02)
    assert len(client.sent) == after


async def test_stalled_client_is_disconnected_after_the_send_timeout() -> None:
    client, patience = FakeAsgiClient(), SendTimeoutMonitor(0.08)
    clock = asyncio.create_task(patience.run())
    client.writable.clear()
    began = asyncio.get_running_loop().time()

    async def answer() -> None:
        await send_pieces(ResponseSender(client.receive, client.send, patience), 5)

    task = asyncio.create_task(answer())
    with pytest.raises(ClientStalled):
        await task
    assert 0.08 <= asyncio.get_running_loop().time() - began < 1
    assert patience._last_progress == {}
    clock.cancel()


async def test_slow_client_is_not_disconnected() -> None:
    client, patience = FakeAsgiClient(), SendTimeoutMonitor(0.2)
    clock = asyncio.create_task(patience.run())

    async def take() -> None:
        while True:
            client.writable.clear()
            await asyncio.sleep(0.05)
            client.writable.set()
            await asyncio.sleep(0)

    taking = asyncio.create_task(take())
    task = asyncio.create_task(send_pieces(ResponseSender(client.receive, client.send, patience), 10))
    assert await task == 10
    taking.cancel()
    clock.cancel()


async def test_send_timeout_does_not_cover_the_store() -> None:
    client, patience = FakeAsgiClient(), SendTimeoutMonitor(0.08)
    clock = asyncio.create_task(patience.run())

    async def answer() -> None:
        outlet = ResponseSender(client.receive, client.send, patience)
        with outlet:
            await outlet.send_chunk(b"x")
            outlet.pause_send_timeout()
            await asyncio.sleep(0.4)
            await outlet.send_chunk(b"y")
            await outlet.send_last_chunk(b"")

    await asyncio.create_task(answer())
    assert len(client.sent) == 3
    clock.cancel()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is known to say what was taken")
async def test_slow_progress_restarts_the_send_timeout() -> None:
    """The connection never becomes writable here, and only the kernel knows that some bytes were read."""
    client, patience = FakeAsgiClient(), SendTimeoutMonitor(0.2)
    client.writable.clear()
    clock = asyncio.create_task(patience.run())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while ours.send(b"x" * 1000):
                pass
        transport: Any = SimpleNamespace(get_extra_info=lambda _: ours)
        connection = ConnectionInfo(unacknowledged_bytes=lambda: tcp.unacknowledged_bytes(transport))

        async def answer() -> None:
            await send_pieces(ResponseSender(client.receive, client.send, patience, connection), 5)

        task = asyncio.create_task(answer())
        for _ in range(40):
            await asyncio.sleep(0.02)
            theirs.recv(1000)
        assert not task.done()
        with pytest.raises(ClientStalled):  # and from here it reads nothing
            await asyncio.wait_for(task, 5)
    clock.cancel()


async def test_shutdown_is_not_reported_as_a_stalled_client() -> None:
    client, patience = FakeAsgiClient(), SendTimeoutMonitor(10)
    client.writable.clear()

    async def answer() -> None:
        await send_pieces(ResponseSender(client.receive, client.send, patience), 5)

    task = asyncio.create_task(answer())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert patience._last_progress == {}
