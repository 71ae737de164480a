"""The gateway's connections to replicas (gateway.proxy), before a small server: which are used again, and what a request says."""

import asyncio
from typing import Self, cast

import pytest

from gateway.proxy import KEPT_SECONDS, HttpClient
from gateway.upstreams import Address

pytestmark = pytest.mark.anyio

TWO = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers each request with TWO and counts connections."""

    def __init__(self) -> None:
        self.connections = 0
        self.heads: list[bytes] = []
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
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(TWO)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.transport.abort()


async def test_connections_are_kept_used_again_and_closed_when_old(monkeypatch: pytest.MonkeyPatch) -> None:
    client = HttpClient(1.0)
    await client.open()
    async with Server() as server:
        address = Address("127.0.0.1", server.port)

        async def ask(*, fresh: bool = False) -> None:
            reply = await client.ask("GET", address, b"/", [(b"host", b"a")], fresh=fresh)
            assert await reply.read() == b"ok"
            reply.close()

        await ask()
        await ask()
        assert server.connections == 1
        await ask(fresh=True)
        assert server.connections == 2
        loop = asyncio.get_running_loop()
        now = loop.time()
        monkeypatch.setattr(loop, "time", lambda: now + KEPT_SECONDS + 1)
        client._sweep()
        monkeypatch.undo()
        await ask()
        assert server.connections == 3
        await client.close()
        assert not client._lines
        assert not any(client._idle.values())


@pytest.mark.parametrize(("method", "length"), [("POST", True), ("PUT", True), ("GET", False), ("DELETE", False)])
async def test_a_request_says_that_it_has_no_body_where_one_is_expected(method: str, *, length: bool) -> None:
    client = HttpClient(1.0)
    await client.open()
    async with Server() as server:
        (await client.ask(method, Address("127.0.0.1", server.port), b"/", [(b"host", b"a")])).close()
        assert (b"content-length: 0" in server.heads[0]) is length
        await client.close()


async def test_a_line_end_in_a_field_is_never_sent() -> None:
    client = HttpClient(1.0)
    await client.open()
    async with Server() as server:
        with pytest.raises(ValueError, match="line end"):
            await client.ask("GET", Address("127.0.0.1", server.port), b"/", [(b"x", b"a\r\ny: b")])
        await client.close()
        assert not server.heads
