"""The names of uvicorn that services.common.server uses: each test fails when uvicorn changes one of them.

The seven are listed in HTTPConnection's docstring. Of uvicorn's WebSocket implementation there are none.
"""

import asyncio
import re
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
import uvicorn.server

import services
from services.common.server.connection import HTTPConnection
from tests.support.in_process_server import serve_in_thread
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def answer(client: socket.socket) -> bytes:
    got = b""
    while not got.endswith(b"ok"):
        more = client.recv(4096)
        assert more, got
        got += more
    return got


def test_the_server_makes_connections_with_these_arguments() -> None:
    """1. The constructor: `config`, `server_state`, `app_state` and `_loop`, by keyword and no others."""
    made: list[dict[str, Any]] = []

    class Recording(HTTPConnection):
        def __init__(self, **arguments: Any) -> None:
            made.append(arguments)
            super().__init__(**arguments)

    with serve_in_thread(app, http=Recording) as running, running.connect(GET) as client:
        assert answer(client)
        assert set(made[0]) == {"config", "server_state", "app_state", "_loop"}
        assert made[0]["config"] is running.server.config
        assert made[0]["server_state"] is running.server.server_state


def test_the_configuration_gives_the_application_and_the_websocket_class() -> None:
    """2. `config.loaded_app` and 3. `config.ws_protocol_class`."""
    config = uvicorn.Config(app, http=HTTPConnection, ws=asyncio.Protocol, proxy_headers=False, log_config=None)
    config.load()
    assert config.http_protocol_class is HTTPConnection
    assert config.loaded_app is app
    assert config.ws_protocol_class is asyncio.Protocol
    none = uvicorn.Config(app, ws="none", log_config=None)
    none.load()
    assert none.ws_protocol_class is None


def test_the_server_waits_for_the_connections_and_asks_them_to_end() -> None:
    """4. `server_state.connections` and 7. `shutdown`."""
    asked: list[float] = []

    class Staying(HTTPConnection):
        def shutdown(self) -> None:
            asked.append(time.monotonic())
            asyncio.get_running_loop().call_later(0.5, super().shutdown)

    with serve_in_thread(app, http=Staying) as running, running.connect(GET) as client:
        assert answer(client)
        assert len(running.state.connections) == 1
        running.stop()
        assert not running.thread.is_alive()
        assert len(asked) == 1
        assert time.monotonic() - asked[0] > 0.4
        assert client.recv(1) == b""
        assert not running.state.connections


def test_the_server_cancels_the_tasks_that_are_left() -> None:
    """5. `server_state.tasks`."""
    heard: list[str] = []

    async def waiting(_scope: Any, _receive: Any, send: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            heard.append("cancelled")
            await app(_scope, _receive, send)

    with serve_in_thread(waiting, timeout_graceful_shutdown=1) as running, running.connect(GET) as client:
        eventually(lambda: running.state.tasks, 5)
        running.stop()
        assert heard == ["cancelled"]
        assert b"200 OK" in answer(client)


def test_the_server_counts_the_requests() -> None:
    """6. `server_state.total_requests`."""
    with serve_in_thread(app, limit_max_requests=2) as running, running.connect(GET) as client:
        answer(client)
        assert running.state.total_requests == 1
        client.sendall(GET)
        answer(client)
        eventually(lambda: not running.thread.is_alive(), 5, "uvicorn ends after two")


async def test_a_connection_asks_for_nothing_else() -> None:
    """Objects that have these names and no others are enough for requests of every kind, up to a shutdown."""
    config: Any = SimpleNamespace(loaded_app=app, ws_protocol_class=None)
    state: Any = SimpleNamespace(connections=set(), tasks=set(), total_requests=0)
    server = await asyncio.get_running_loop().create_server(lambda: HTTPConnection(config, state, {}), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    for request in (GET, GET + GET, b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"):
        writer.write(request)
        for _ in range(request.count(b"HTTP/1.1")):
            head = await reader.readuntil(b"ok")
            assert re.match(rb"HTTP/1\.1 200 OK\r\ndate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n", head)
    assert state.total_requests == 4
    for connection in set(state.connections):
        connection.shutdown()
    assert await reader.read() == b""
    writer.close()
    server.close()
    assert not state.tasks


def test_no_other_file_names_uvicorn() -> None:
    """Import contracts hold it for whole modules; this is the list."""
    root = Path(services.__path__[0]).parent
    named = {
        str(path.relative_to(root))
        for folder in ("services", "gateway")
        for path in (root / folder).rglob("*.py")
        if re.search(r"^\s*(?:import|from) uvicorn", path.read_text("utf-8"), re.MULTILINE)
    }
    assert named == {"services/common/server/run.py"}


def test_the_server_has_what_the_shutdown_hook_uses() -> None:
    """`run.Server` uses `servers`, `server_state`, `config.timeout_graceful_shutdown` and `shutdown` of its base."""
    with serve_in_thread(app) as running:
        assert running.server.servers[0].sockets
        assert running.server.config.timeout_graceful_shutdown == 30
        assert callable(running.server.shutdown)
