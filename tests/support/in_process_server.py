"""Our HTTP server in a thread of the test, so that a test can set its limits and inspect its connections: `serve_in_thread`.

Sockets are real, with kernel buffers of 8 KiB: what a client does not read waits in the server.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn

from services.common.asgi import ASGIApp
from services.common.server.connection import HTTPConnection
from tests.support.waiting import eventually

SOCKET_BUFFER_SIZE = 8 * 1024


class InProcessServer:
    """A running server on a loopback port. `options` go to uvicorn.Config."""

    def __init__(self, app: ASGIApp, **options: Any) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_SIZE)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        self.port = listener.getsockname()[1]
        defaults = {"http": HTTPConnection, "ws": "none", "lifespan": "off", "timeout_graceful_shutdown": 30}
        settings: dict[str, Any] = {**defaults, **options}
        self.server = uvicorn.Server(uvicorn.Config(app, loop="uvloop", log_config=None, **settings))
        self.thread = threading.Thread(target=self.server.run, args=([listener],), daemon=True)
        self.thread.start()
        eventually(lambda: self.server.started, 5)

    @property
    def state(self) -> Any:
        return self.server.server_state

    def connect(self, request: bytes) -> socket.socket:
        """Connect, send `request` and wait until the server has accepted the connection."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_SIZE)
        client.settimeout(10)
        client.connect(("127.0.0.1", self.port))
        client.sendall(request)
        eventually(lambda: self.state.connections, 5)
        return client

    def is_idle(self) -> bool:
        """Whether no connection and no request is left."""
        return not self.state.connections and not self.state.tasks

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)


@contextlib.contextmanager
def serve_in_thread(app: ASGIApp, **options: Any) -> Iterator[InProcessServer]:
    running = InProcessServer(app, **options)
    try:
        yield running
    finally:
        running.stop()
