"""gateway.upstream.connection_pool: which connections are reused, with a small server."""

import asyncio
import gc
import weakref
from typing import Self, cast

import pytest

from gateway.upstream.connection_pool import KEEPALIVE_EXPIRY_SECONDS, ConnectionPool
from gateway.upstream.upstream_connection import ServerDisconnected
from gateway.upstream.upstream_pool import Address
from services.common.errors import drop_tracebacks

pytestmark = pytest.mark.anyio

REQUEST_HEAD = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
OK_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class CountingServer:
    """Sends OK_RESPONSE to each request and counts connections."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._server.close()
        await asyncio.gather(*self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._serving.add(cast("asyncio.Task[None]", asyncio.current_task()))
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(OK_RESPONSE)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.transport.abort()


async def test_connections_are_reused_and_closed_when_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ConnectionPool(1.0)
    await pool.open()
    async with CountingServer() as server:
        address = Address("127.0.0.1", server.port)

        async def fetch(*, new_connection: bool = False) -> None:
            connection = await pool.request("GET", address, REQUEST_HEAD, new_connection=new_connection)
            assert await connection.read() == b"ok"
            connection.release()

        await fetch()
        await fetch()
        assert server.connections == 1
        await fetch(new_connection=True)
        assert server.connections == 2
        loop = asyncio.get_running_loop()
        now = loop.time()
        monkeypatch.setattr(loop, "time", lambda: now + KEEPALIVE_EXPIRY_SECONDS + 1)
        pool._close_expired()
        monkeypatch.undo()
        await fetch()
        assert server.connections == 3
        await pool.aclose()
        assert not pool._connections
        assert not any(pool._idle.values())


async def test_a_body_that_breaks_off_keeps_nothing_in_memory() -> None:
    """Its error has a traceback, whose frames refer to the connection and the bytes that came last."""
    error = ConnectionError("the client has gone")

    class BrokenBody:
        content_length: int | None = 5
        expect_continue = False

        async def read(self) -> bytes:
            raise error

    pool = ConnectionPool(1.0)
    await pool.open()
    async with CountingServer() as server:
        address = Address("127.0.0.1", server.port)
        head = b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n"
        gc.collect()
        gc.disable()
        try:
            body = BrokenBody()
            alive = weakref.ref(body)
            with pytest.raises(ServerDisconnected, match="request body aborted") as raised:
                await pool.request("PUT", address, head, body)
            drop_tracebacks(raised.value)
            del body, raised
            await asyncio.sleep(0)
            assert alive() is None
        finally:
            gc.enable()
    assert error.__traceback__ is None
    await pool.aclose()
