"""Runs an application under `uvicorn.Server` with our connections and limits: the one file that names uvicorn."""

import asyncio
import gc
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import uvicorn

from services.common.asgi import ASGIApp
from services.common.server.allocator import configure_allocator
from services.common.server.connection import HTTPConnection
from services.common.settings import Settings

BACKLOG = 2048
"""Connections that the kernel holds until they are accepted."""

GC_THRESHOLDS = (50_000, 20, 50)
"""Thresholds of the garbage collector. With Python's own (700, 10, 10) a WebSocket's connect cost about a fifth more CPU."""

ShutdownHook = Callable[[], Awaitable[None]]
"""Awaited at SIGTERM, when no connection is accepted any more: the application takes leave of its clients."""


class Server(uvicorn.Server):
    """uvicorn's server with a shutdown hook: at SIGTERM it stops listening, awaits the hook, then goes on as uvicorn does."""

    def __init__(self, config: uvicorn.Config, shutdown_hook: ShutdownHook | None) -> None:
        super().__init__(config)
        self._shutdown_hook = shutdown_hook
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exit_requested = asyncio.Event()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal as uvicorn does, and wake the main loop."""
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._exit_requested.set)

    async def main_loop(self) -> None:
        """Wait for a signal.

        uvicorn's own looks ten times a second whether one has come, which was half the CPU time of an idle process, and refreshes
        header fields that our connections do not use.
        """
        self._loop = asyncio.get_running_loop()
        if not self.should_exit:
            await self._exit_requested.wait()

    async def shutdown(self, sockets: Any = None) -> None:
        """Refuse new connections, await the hook, then close what is left."""
        if self._shutdown_hook is not None:
            for server in self.servers:
                server.close()
            # As uvicorn does after the hook: a client with an idle connection would send its next request on it.
            for connection in list(self.server_state.connections):
                if isinstance(connection, HTTPConnection):
                    connection.shutdown()
            began = time.monotonic()
            await self._shutdown_hook()
            # One timeout for both: after it only responses are left whose clients do not read.
            left = (self.config.timeout_graceful_shutdown or 0) - (time.monotonic() - began)
            self.config.timeout_graceful_shutdown = max(1, int(left))
        await super().shutdown(sockets)


def run(
    create_app: Callable[[], ASGIApp],
    settings: Settings,
    *,
    http: type[asyncio.Protocol] = HTTPConnection,
    websocket: type[asyncio.Protocol] | None = None,
    shutdown_hook: ShutdownHook | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. Exits with 3 where start-up fails. `create_app` is called once, in the event loop.

    `websocket` is the class of the protocol to which WebSocket handshakes are handed over; without it none are offered.
    """
    gc.set_threshold(*GC_THRESHOLDS)
    configure_allocator()
    config = uvicorn.Config(
        create_app,
        factory=True,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=http,
        ws=websocket or "none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=max(1, int(settings.shutdown_timeout)),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn handles the signal, shuts down, and raises it again: exit with 0, because for the parent this is a clean end.
        signal.signal(number, lambda *_: sys.exit(0))
    Server(config, shutdown_hook).run()
