"""Runs uvicorn with our limits: the one place that names the server. It knows no route."""

import asyncio
import gc
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from services.common.asgi import ASGIApp
from services.common.server.connection import Http
from services.common.settings import Settings
from services.common.telemetry import json_logging, metrics

KEEP_ALIVE_SECONDS = 75
"""Longer than the gateway keeps an idle connection: it is the gateway that closes it and never loses a request to a close."""
BACKLOG = 2048
MAX_FRAME = 64 * 1024
"""Bytes of one incoming WebSocket message; more is closed with 1009."""

GARBAGE = (50_000, 20, 50)
"""Thresholds of the garbage collector. With Python's own (700, 10, 10) a connect cost about a fifth more CPU."""

Drain = Callable[[], Awaitable[None]]


class Server(uvicorn.Server):
    """uvicorn's server with one more step: at SIGTERM it stops listening, awaits `drain`, then goes on as uvicorn does."""

    def __init__(self, config: uvicorn.Config, drain: Drain | None) -> None:
        super().__init__(config)
        self._drain = drain

    async def shutdown(self, sockets: Any = None) -> None:
        """Refuse new connections, let the application take leave of its own, then close what is left."""
        if self._drain is not None:
            for server in self.servers:
                server.close()
            # As uvicorn does behind the drain: who keeps an idle connection to us would send its next request here.
            for connection in list(self.server_state.connections):
                if isinstance(connection, Http):
                    connection.shutdown()
            began = time.monotonic()
            await self._drain()
            # One time for both: what is left after it are answers that nobody takes.
            left = (self.config.timeout_graceful_shutdown or 0) - (time.monotonic() - began)
            self.config.timeout_graceful_shutdown = max(1, int(left))
        await super().shutdown(sockets)


def run(
    name: str,
    create_app: Callable[[], ASGIApp],
    settings: Settings,
    *,
    http: type[asyncio.Protocol] | str = Http,
    ws: type[asyncio.Protocol] | str = "none",
    drain: Drain | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. Exits with 3 where start-up fails."""
    gc.set_threshold(*GARBAGE)
    json_logging.configure_logging(name, settings.log_level)
    if settings.metrics_port:
        metrics.start_metrics_server(settings.host, settings.metrics_port)
    config = uvicorn.Config(
        create_app,
        factory=True,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=http,
        ws=ws,
        ws_max_size=MAX_FRAME,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, int(settings.shutdown_timeout)),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn takes the signal, ends cleanly, and raises it once more: to whoever started us that is a clean end, not a death.
        signal.signal(number, lambda *_: sys.exit(0))
    Server(config, drain).run()
