"""Runs an application under `uvicorn.Server` with our connections and limits: the one file that names uvicorn."""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import uvicorn

from services.common.asgi import ASGIApp
from services.common.server.allocator import configure_allocator
from services.common.server.connection import HTTPConnection
from services.common.settings import Settings

_log = logging.getLogger("gridcast.server")

BACKLOG = 2048
"""Connections that the kernel holds until they are accepted."""

GC_THRESHOLDS = (50_000, 20, 50)
"""Thresholds of the garbage collector. With Python's own (700, 10, 10) a WebSocket's connect cost about a fifth more CPU."""

EXIT_MARGIN_SECONDS = 5.0
"""How long after the shutdown timeout a process goes on to wait for the answers of its databases and the end of its clean-up.

Each of them has a limit of its own, and they add up: an aborted upload, transactions in progress, connections. With a silent
database a process ended up to 12 s after its timeout.
"""

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
        _exit_after((self.config.timeout_graceful_shutdown or 0) + EXIT_MARGIN_SECONDS)
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


def _exit_after(seconds: float) -> None:
    """End this process at the latest then, as SIGKILL would: what was acknowledged is durable, and what was not is rolled back.

    Not by cancelling: threads that wait in a driver or for a disk cannot be cancelled, and the interpreter waits for their end.
    """

    def end() -> None:
        _log.warning("did not wait any longer for the databases: ended with work in progress, none of it acknowledged")
        logging.shutdown()
        os._exit(0)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


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
